"""Quarantined commands on PostgreSQL: shown to the operator, and ruled on."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.operations.audit_log import AuditNote
from farebox.operations.quarantine import QuarantinedCommand
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresQuarantineStore:
    """Implements ``operations.quarantine.QuarantineStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by

    async def commands(
        self,
        *,
        number: int | None = None,
        every: bool = False,
        after: int | None = None,
        limit: int,
    ) -> list[QuarantinedCommand]:
        """See the port."""
        values = {"id": number, "all": every, "after": after, "limit": limit}
        return [
            QuarantinedCommand(
                id=row[0],
                at=utc(row[1]),
                organization_id=row[2],
                organization_name=row[3],
                command_kind=row[4],
                call_id=row[5],
                error=row[6],
                ruled_at=None if row[7] is None else utc(row[7]),
                command=msgspec.json.decode(row[8], type=dict[str, Any]),
            )
            for row in await self._ask("list_quarantined", values)
        ]

    async def rule(self, number: int) -> None:
        """See the port."""
        async with self._connection.transaction():
            if not await self._ask("rule_quarantined", {"id": number}):
                raise NotFoundError(
                    f"There is no command {number} that waits for a ruling; "
                    "`farebox quarantine list` shows them."
                )
            note = AuditNote(
                action="quarantine.ruled",
                subject_kind="quarantine",
                subject_id=str(number),
                after={"may_lapse": True},
            )
            await append_event(self._connection, self._by, note)

    async def _ask(self, name: str, values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(queries("quarantine")[name], values)
        return await cursor.fetchall()
