"""The audit log on PostgreSQL: changes and their events commit together, and nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.errors import RestrictViolation
from typing_extensions import override

from farebox.kit.errors import NotFoundError
from farebox.operations.audit_log import AuditNote, verify_log
from farebox.storage.audit_log_store import PostgresAuditLog, append_event
from farebox.storage.connecting import Connector
from farebox.storage.sql import queries
from farebox.tenancy.actors import Actor, ActorKind, Door
from farebox.tenancy.audit_chain import ChainHead, Outcome

ADA = Actor(
    kind=ActorKind.USER,
    id="user_1",
    name="ada@example.org",
    door=Door.CONSOLE,
    address="192.0.2.7",
    request_id="r1",
)
ORG = UUID(int=7)

Connection = AsyncConnection[tuple[Any, ...]]


def note(number: int = 1, **changes: Any) -> AuditNote:
    """A note of some change."""
    values: dict[str, Any] = {
        "action": "project.changed",
        "subject_kind": "project",
        "subject_id": f"proj_{number}",
        "organization_id": ORG,
        "before": {"name": "old"},
        "after": {"name": "new", "cap": number},
        "reason": "because",
    }
    return AuditNote(**(values | changes))


async def append(connection: Connection, *notes: AuditNote) -> None:
    """Append events, each in a transaction of its own."""
    for each in notes:
        async with connection.transaction():
            await append_event(connection, ADA, each)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """A connection to an empty sandbox."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield connection


@pytest.fixture
def log(connection: Connection) -> PostgresAuditLog:
    """The log on it."""
    return PostgresAuditLog(connection, ADA)


async def test_an_event_comes_back_as_it_was_written(
    connection: Connection, log: PostgresAuditLog
) -> None:
    """Who, from where, what, before and after: every field is read as it was hashed."""
    await append(connection, note(), note(2, after=None, organization_id=None))
    second, first = await log.events(limit=9)
    assert (first.sequence, second.sequence) == (1, 2)
    assert (first.actor_kind, first.actor_id, first.actor_name) == ("user", ADA.id, ADA.name)
    assert (first.door, first.address, first.request_id) == ("console", "192.0.2.7", "r1")
    assert (first.action, first.subject_kind, first.subject_id) == (
        *("project.changed", "project"),
        "proj_1",
    )
    assert (first.before, first.after) == ('{"name":"old"}', '{"cap":1,"name":"new"}')
    assert (first.outcome, first.reason, first.organization_id) == ("done", "because", ORG)
    assert (second.after, second.organization_id) == (None, None)
    assert second.previous_hash == first.hash
    assert await log.head() == ChainHead(2, second.hash)
    assert (await verify_log(log)).is_whole


async def test_events_are_narrowed(connection: Connection, log: PostgresAuditLog) -> None:
    """By organisation, actor, action and subject; the newest first, page by page."""
    await append(connection, note(1), note(2, organization_id=None), note(3, action="key.revoked"))

    async def found(**narrowed: Any) -> list[int]:
        return [event.sequence for event in await log.events(**{"limit": 9} | narrowed)]

    assert await found() == [3, 2, 1]
    assert await found(organization_id=ORG) == [3, 1]
    assert await found(action="key.revoked") == [3]
    assert await found(subject_id="proj_2") == [2]
    assert await found(actor_id="somebody") == []
    assert await found(before=3, limit=1) == [2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET reason = ''",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event",
        "DELETE FROM audit_head",
        "TRUNCATE audit_head",
    ],
)
async def test_nothing_is_changed_or_deleted(
    connection: Connection, log: PostgresAuditLog, statement: str
) -> None:
    """The database itself refuses: the log is append-only."""
    await append(connection, note())
    with pytest.raises(RestrictViolation, match="append-only"):
        await connection.execute(statement.encode())
    assert len(await log.events(limit=9)) == 1


async def test_any_stored_field_is_watched(
    connection: Connection, log: PostgresAuditLog, dsn: str
) -> None:
    """Whoever gets past the trigger and changes any column of any row is found at that row."""
    await append(connection, note(1), note(2), note(3))
    cursor = await connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = 'audit_event'::regclass AND attnum > 0"
    )
    other = {
        "bigint": "9",
        "timestamp with time zone": "at + interval '1 microsecond'",
        "text": "CASE {0} WHEN 'unknown' THEN 'done' ELSE 'unknown' END",
        "uuid": "gen_random_uuid()",
        "json": "'{{\"cap\":  1}}'",
        "bytea": "sha256({0})",
    }
    for column, kind in await cursor.fetchall():
        for sequence in (1, 2, 3):
            with psycopg.connect(dsn) as vandal:
                vandal.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
                change = other[kind].format(column)
                sql = f"UPDATE audit_event SET {column} = {change} WHERE sequence = {sequence}"
                vandal.execute(sql.encode())
                report = await _verify_inside(vandal)
                vandal.rollback()
            broken = report.broken
            assert broken is not None, column
            assert broken.sequence == sequence, (column, broken)
    assert (await verify_log(log)).is_whole


async def _verify_inside(vandal: psycopg.Connection[tuple[Any, ...]]) -> Any:
    """The check, reading inside a transaction that has not committed."""

    class Inside(PostgresAuditLog):
        @override
        async def _ask(self, name: str, values: Any) -> list[tuple[Any, ...]]:
            cursor = vandal.cursor(binary=True)
            return cursor.execute(queries("audit_log")[name].encode(), values).fetchall()

    return await verify_log(Inside(None))  # type: ignore[arg-type]


async def test_a_cut_end_and_a_moved_head_are_found(
    connection: Connection, log: PostgresAuditLog
) -> None:
    """The last events cannot go, and the head cannot name others."""
    await append(connection, note(1), note(2))
    await connection.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
    await connection.execute("DELETE FROM audit_event WHERE sequence = 2")
    report = await verify_log(log)
    assert report.broken is not None
    assert (report.broken.sequence, report.broken.reason) == (2, "events up to 2 are missing")
    await connection.execute("UPDATE audit_head SET sequence = 1")
    report = await verify_log(log)
    assert report.broken is not None
    assert "head" in report.broken.reason


async def test_a_rewritten_chain_is_found_by_a_noted_head(
    connection: Connection, log: PostgresAuditLog
) -> None:
    """Who rewrites everything cannot rewrite what was noted elsewhere."""
    await append(connection, note(1))
    noted = await log.head()
    await append(connection, note(2))
    assert (await verify_log(log, anchor=noted)).is_whole
    await connection.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
    await connection.execute("DELETE FROM audit_event")
    await connection.execute("UPDATE audit_head SET sequence = 0, hash = %s", (bytes(32),))
    await append(connection, note(5), note(2))
    assert (await verify_log(log)).is_whole
    report = await verify_log(log, anchor=noted)
    assert report.broken is not None
    assert report.broken.sequence == 1


async def test_the_chain_has_no_gap_when_many_write(dsn: str, log: PostgresAuditLog) -> None:
    """Twenty writers at once make one chain; a change that is rolled back leaves no event."""

    async def write(number: int) -> None:
        async with await Connector(dsn, name="w", durable=False).connect() as connection:
            for step in range(5):
                with suppress(NotFoundError):
                    async with connection.transaction():
                        await append_event(connection, ADA, note(number))
                        if step == 2:
                            raise NotFoundError

    await asyncio.gather(*map(write, range(20)))
    report = await verify_log(log)
    assert report.is_whole
    assert report.checked == report.head.sequence == 80


async def test_what_was_begun_and_never_finished_is_chained_as_unknown(
    connection: Connection, log: PostgresAuditLog
) -> None:
    """A process that dies while money moves leaves its note; a finished one is chained once."""
    begun = await log.begin(note(1, reason="half \ud800 a letter"))
    done = await log.begin(note(2))
    await log.finish(done, note(2, outcome=Outcome.REFUSED))
    await log.finish(done, note(2))
    assert await log.chain_abandoned() == 0
    await connection.execute("UPDATE audit_pending SET at = at - interval '1 hour'")
    assert await log.chain_abandoned() == 1
    await log.finish(begun, note(1))
    unknown, refused = await log.events(limit=9)
    assert (refused.subject_id, refused.outcome) == ("proj_2", "refused")
    assert (unknown.subject_id, unknown.outcome) == ("proj_1", "unknown")
    assert unknown.reason == "half \ufffd a letter"
    assert unknown.actor_id == ADA.id
