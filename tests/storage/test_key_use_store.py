"""When keys were last used, on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from psycopg_pool import AsyncConnectionPool

from farebox.storage.key_use_store import PostgresKeyUseStore
from tests.support.office import Office


async def test_a_key_shows_its_last_use(office: Office) -> None:
    """ORG-15: the latest instant stays, whichever node writes last; unused keys show none."""
    organization = await office.organization()
    project = await office.project(organization)
    used = await office.administration.create_key("a", project.id)
    unused = await office.administration.create_key("b", project.id)
    now = await office.tenants.now()
    earlier = now - timedelta(minutes=5)
    async with AsyncConnectionPool(office.dsn, min_size=1, open=False) as pool:
        store = PostgresKeyUseStore(pool)
        for at in (earlier, now, earlier):
            await store.note_uses([(used.id, project.id, at)])
    (first,) = await office.tenants.keys(key_id=used.id, limit=1)
    (second,) = await office.tenants.keys(key_id=unused.id, limit=1)
    assert (first.last_used_at, first.last_project_id) == (now, project.id)
    assert (second.last_used_at, second.last_project_id) == (None, None)
