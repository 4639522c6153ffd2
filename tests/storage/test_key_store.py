"""Keys on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.operations.tenants import NewKey, NewManagementKey
from farebox.storage.connecting import Connector
from farebox.storage.key_store import (
    find_key,
    find_management_key,
    insert_key,
    insert_management_key,
    list_keys,
    list_management_keys,
    revoke_key,
    revoke_management_key,
)
from farebox.tenancy.api_keys import KeyState

ORG, PROJECT, KEY = UUID(int=1), UUID(int=2), UUID(int=3)
DIGEST = bytes(range(32))
Connection = AsyncConnection[tuple[Any, ...]]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """A connection to a database with one organisation and one project."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        await connection.execute(
            "INSERT INTO organization (id, name, currency, zone)"
            " VALUES (%s, 'Acme', 'EUR', 'Europe/Berlin')",
            (ORG,),
        )
        await connection.execute(
            "INSERT INTO project (id, organization_id, name, environment, default_output_tokens)"
            " VALUES (%s, %s, 'web', 'staging', 512)",
            (PROJECT, ORG),
        )
        yield connection


async def make(connection: Connection, number: int = 3, **facts: Any) -> None:
    """Add a key with the digest of its number."""
    values: dict[str, Any] = {
        "id": UUID(int=number),
        "project_id": PROJECT,
        "name": f"key {number}",
        "digest": bytes([number]) * 32,
        "prefix": "fbx_test_1111",
    }
    await insert_key(connection, NewKey(**(values | facts)))


async def test_a_key_is_found_with_everything_a_call_needs(connection: Connection) -> None:
    """ORG-03: a key belongs to exactly one organisation and one project, and names both."""
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    await make(connection, digest=DIGEST, expires_at=ends)
    row = await find_key(connection, DIGEST)
    assert row is not None
    assert (row.id, row.organization_id, row.project_id) == (KEY, ORG, PROJECT)
    assert (row.organization_name, row.project_name) == ("Acme", "web")
    assert (row.currency, row.zone) == ("EUR", "Europe/Berlin")
    assert (row.environment, row.default_output_tokens) == ("staging", 512)
    assert row.expires_at == ends
    assert row.state_at(ends - timedelta(seconds=1)) is KeyState.ACTIVE
    assert row.state_at(ends) is KeyState.EXPIRED


async def test_an_unknown_key_is_not_found(connection: Connection) -> None:
    """No digest, no key; a project that is not there gets none."""
    assert await find_key(connection, DIGEST) is None
    with pytest.raises(NotFoundError):
        await make(connection, project_id=UUID(int=99))


async def test_revocation_is_for_good(connection: Connection) -> None:
    """A key that is revoked again stays revoked since the first time."""
    await make(connection, digest=DIGEST)
    first = await revoke_key(connection, KEY)
    assert await revoke_key(connection, KEY) == first
    row = await find_key(connection, DIGEST)
    assert row is not None
    assert row.state_at(first) is KeyState.REVOKED
    with pytest.raises(NotFoundError):
        await revoke_key(connection, UUID(int=99))


async def test_revocation_waits_for_the_organisations_lock(
    connection: Connection, dsn: str
) -> None:
    """It is ordered against every admission: while a batch has the organisation, it waits."""
    await make(connection)
    async with await Connector(dsn, name="batch", durable=False).connect() as batch:
        async with batch.transaction():
            await batch.execute(
                "SELECT id FROM organization WHERE id = %s FOR NO KEY UPDATE", (ORG,)
            )
            revoking = asyncio.create_task(revoke_key(connection, KEY))
            waiting = "SELECT count(*), pg_sleep(0.01) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(10):
                while (await (await batch.execute(waiting)).fetchone()) == (0, ""):
                    assert not revoking.done(), "it did not wait"
            assert not revoking.done()
        await revoking


async def test_an_organisation_that_is_not_active_closes_its_keys(connection: Connection) -> None:
    """The key's state has the organisation's and the project's in it."""
    await make(connection, digest=DIGEST)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await connection.execute("UPDATE project SET archived_at = %s", (now,))
    row = await find_key(connection, DIGEST)
    assert row is not None
    assert row.state_at(now) is KeyState.PROJECT_ARCHIVED
    await connection.execute("UPDATE project SET archived_at = NULL")
    await connection.execute("UPDATE organization SET active = false")
    row = await find_key(connection, DIGEST)
    assert row is not None
    assert row.state_at(now) is KeyState.ORGANIZATION_INACTIVE


async def test_keys_are_listed_page_by_page(connection: Connection) -> None:
    """In the order they were made; a page begins after the last key seen; filters narrow."""
    for number in (5, 3, 4):
        await make(connection, number)
    assert [key.id.int for key in await list_keys(connection)] == [3, 4, 5]
    page = await list_keys(connection, after=UUID(int=3), limit=1)
    assert [key.id.int for key in page] == [4]
    assert [k.name for k in await list_keys(connection, name="KEY 5")] == ["key 5"]
    assert await list_keys(connection, project_id=UUID(int=99)) == []
    assert await list_keys(connection, organization_id=UUID(int=99)) == []
    assert [k.id.int for k in await list_keys(connection, key_id=UUID(int=4))] == [4]


async def test_management_keys_are_apart(connection: Connection) -> None:
    """A key of the management API is no API key, and the other way round."""
    new = NewManagementKey(id=KEY, name="ops", digest=DIGEST, prefix="fbx_admin_1111")
    await insert_management_key(connection, new)
    assert await find_key(connection, DIGEST) is None
    found = await find_management_key(connection, DIGEST)
    assert found is not None
    assert (found.id, found.name, found.revoked_at) == (KEY, "ops", None)
    revoked = await revoke_management_key(connection, KEY)
    assert await revoke_management_key(connection, KEY) == revoked
    assert [key.revoked_at for key in await list_management_keys(connection)] == [revoked]
    assert await find_management_key(connection, bytes(32)) is None
    with pytest.raises(NotFoundError):
        await revoke_management_key(connection, UUID(int=99))
