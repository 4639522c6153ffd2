"""The audit log on PostgreSQL: appended to under its head's lock, in the change's transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import structs
from psycopg import AsyncConnection

from farebox.operations.audit_log import AuditNote, cleaned, sealed
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor
from farebox.tenancy.audit_chain import AuditEvent, ChainHead, Outcome

ABANDONED_AFTER: Final = timedelta(minutes=10)
"""No command is sent again for so long: whoever began it is gone."""

_Connection = AsyncConnection[tuple[Any, ...]]

_encode: Final = msgspec.json.Encoder().encode
_read_actor: Final = msgspec.json.Decoder(Actor).decode
_read_note: Final = msgspec.json.Decoder(AuditNote).decode


async def append_event(connection: _Connection, by: Actor, note: AuditNote | None) -> None:
    """Chain an event, as the last statement of the transaction that makes the change.

    Args:
        connection: Inside a transaction; nothing else may be locked in it afterwards.
        by: Who did it.
        note: What they did; None where nothing changed.
    """
    if note is None:
        return
    sql = queries("audit_log")
    cursor = connection.cursor(binary=True)
    await cursor.execute(sql["lock_head"])
    row = await cursor.fetchone()
    assert row is not None, "the audit log has lost its head"
    event = sealed(by, note, ChainHead(row[0], row[1]), utc(row[2]))
    await connection.execute(sql["append"], structs.asdict(event))


class PostgresAuditLog:
    """Implements ``operations.audit_log.AuditLog`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by
        self._sql = queries("audit_log")

    async def events(
        self,
        *,
        organization_id: UUID | None = None,
        actor_id: str | None = None,
        action: str | None = None,
        subject_id: str | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[AuditEvent]:
        """See the port."""
        values = {
            "organization_id": organization_id,
            "actor_id": actor_id,
            "action": action,
            "subject_id": subject_id,
            "before": before,
            "limit": limit,
        }
        return [_event(row) for row in await self._ask("list", values)]

    async def onward(self, after: int, *, limit: int) -> list[AuditEvent]:
        """See the port."""
        return [_event(row) for row in await self._ask("onward", {"after": after, "limit": limit})]

    async def head(self) -> ChainHead:
        """See the port."""
        rows = await self._ask("read_head", None)
        return ChainHead(*rows[0])

    async def begin(self, note: AuditNote) -> UUID:
        """See the port."""
        values = {
            "actor": _encode(self._by).decode(),
            "note": _encode(cleaned(note)).decode(),
        }
        rows = await self._ask("begin", values)
        found: UUID = rows[0][0]
        return found

    async def finish(self, pending_id: UUID, note: AuditNote) -> None:
        """See the port."""
        async with self._connection.transaction():
            if await self._ask("end", (pending_id,)):
                await append_event(self._connection, self._by, note)

    async def chain_abandoned(self) -> int:
        """See the port."""
        chained = 0
        while True:
            async with self._connection.transaction():
                rows = await self._ask("take_abandoned", (ABANDONED_AFTER,))
                if not rows:
                    return chained
                by, note = _read_actor(rows[0][0]), _read_note(rows[0][1])
                unknown = structs.replace(note, outcome=Outcome.UNKNOWN)
                await append_event(self._connection, by, unknown)
            chained += 1

    async def _ask(self, name: str, values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], values)
        return await cursor.fetchall()


def _event(row: tuple[Any, ...]) -> AuditEvent:
    return AuditEvent(
        sequence=row[0],
        at=utc(row[1]),
        actor_kind=row[2],
        actor_id=row[3],
        actor_name=row[4],
        door=row[5],
        address=row[6],
        request_id=row[7],
        action=row[8],
        subject_kind=row[9],
        subject_id=row[10],
        organization_id=row[11],
        outcome=row[12],
        reason=row[13],
        before=row[14],
        after=row[15],
        previous_hash=row[16],
        hash=row[17],
    )
