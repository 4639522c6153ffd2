"""The outbox, read while others write to it."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from farebox.storage import outbox_store
from farebox.storage.connecting import Connector
from farebox.storage.outbox_store import OutboxReader, read_events

ORG, OTHER = UUID(int=1), UUID(int=2)
TELL = "INSERT INTO outbox (organization_id, kind, at, facts) VALUES (%s, %s, farebox_now(), '{}')"


async def test_every_event_is_read_once_and_in_order(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader goes on from where it was, page by page."""
    monkeypatch.setattr(outbox_store, "PAGE_EVENTS", 3)
    with psycopg.connect(dsn, autocommit=True) as writer:
        for number in range(7):
            writer.execute(TELL, (ORG, f"event {number}"))
    reader = OutboxReader(after=0)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        pages = [[event.kind for event in await reader.read(connection)] for _ in range(4)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [kind for page in pages for kind in page] == [f"event {n}" for n in range(7)]


async def test_an_event_that_commits_later_is_not_left_out(dsn: str) -> None:
    """A smaller id that commits after a larger one is waited for, then both come in order."""
    reader = OutboxReader(after=0)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        with psycopg.connect(dsn) as slow, psycopg.connect(dsn, autocommit=True) as quick:
            slow.execute(TELL, (ORG, "first"))
            quick.execute(TELL, (OTHER, "second"))
            assert await reader.read(connection) == []
            assert await reader.read(connection) == []
            slow.commit()
            assert [e.kind for e in await reader.read(connection)] == ["first", "second"]


async def test_a_gap_that_nobody_will_fill_is_passed(dsn: str) -> None:
    """An id of a transaction that was rolled back holds nobody up once it has ended."""
    reader = OutboxReader(after=0)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        with psycopg.connect(dsn) as failing, psycopg.connect(dsn) as later:
            failing.execute(TELL, (ORG, "never"))
            later.execute(TELL, (OTHER, "second"))
            later.commit()
            assert await reader.read(connection) == []
            failing.rollback()
            # A transaction that began after the gap was seen cannot fill it.
            later.execute(TELL, (OTHER, "third"))
            assert [e.kind for e in await reader.read(connection)] == ["second"]
            later.commit()
            assert [e.kind for e in await reader.read(connection)] == ["third"]
    assert reader.after == 3


async def test_a_page_of_one_organisation(dsn: str) -> None:
    """A page shows an organisation's own events behind an id, with their facts."""
    with psycopg.connect(dsn, autocommit=True) as writer:
        for number in range(3):
            writer.execute(TELL, (ORG, f"event {number}"))
            writer.execute(TELL, (OTHER, "not mine"))
        writer.execute('UPDATE outbox SET facts = \'{"call_id": "7"}\'')
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        events = await read_events(connection, ORG, limit=2)
        assert [(event.kind, event.facts) for event in events] == [
            ("event 0", {"call_id": "7"}),
            ("event 1", {"call_id": "7"}),
        ]
        rest = await read_events(connection, ORG, after=events[-1].id)
        assert [event.kind for event in rest] == ["event 2"]
        assert rest[0].at.tzinfo is not None
