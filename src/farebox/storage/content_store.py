"""Stored content on PostgreSQL; see ``operations.content``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from msgspec import structs
from psycopg import AsyncConnection

from farebox.kit.ids import format_id
from farebox.operations.audit_log import AuditNote
from farebox.operations.content import ContentRow, StoredContent
from farebox.storage.audit_log_store import append_event
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor


class PostgresContentWriter:
    """Implements ``operations.content.ContentWriter`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = queries("content")

    async def insert(self, rows: Sequence[ContentRow]) -> None:
        """Write rows, each to the day on which it is dropped.

        Raises:
            UnavailableError: The database is away.
        """
        async with borrowed(self._pool) as connection, connection.transaction():
            row = await (await connection.execute(self._sql["today"])).fetchone()
            assert row is not None
            # Whole days: what came in the evening is kept as long as what came in the morning.
            ends = {each.days: row[0] + timedelta(days=each.days + 1) for each in rows}
            for day in sorted(set(ends.values())):
                await connection.execute(self._sql["make_day"], {"day": day})
            await connection.cursor().executemany(
                self._sql["insert"],
                [structs.asdict(each.content) | {"ends_on": ends[each.days]} for each in rows],
            )


class PostgresContentStore:
    """Implements ``operations.content.ContentStore`` on one connection in autocommit mode."""

    def __init__(self, connection: AsyncConnection[tuple[Any, ...]], by: Actor = SYSTEM) -> None:
        """Choose in whose name it deletes."""
        self._connection = connection
        self._by = by
        self._sql = queries("content")

    async def find(self, call_id: UUID) -> StoredContent | None:
        """See the port."""
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql["find"], {"call_id": call_id})
        row = await cursor.fetchone()
        if row is None:
            return None
        return StoredContent(
            call_id=row[0],
            organization_id=row[1],
            project_id=row[2],
            request=row[3],
            request_bytes=row[4],
            answer=row[5],
            answer_bytes=row[6],
            answer_type=row[7],
            stored_at=utc(row[8]),
            ends_at=_midnight(row[9]),
        )

    async def forget(self, organization_id: UUID, project_id: UUID | None, *, limit: int) -> int:
        """See the port."""
        cursor = await self._connection.execute(
            self._sql["forget"],
            {"organization_id": organization_id, "project_id": project_id, "limit": limit},
        )
        return cursor.rowcount

    async def note_forgotten(
        self, organization_id: UUID, project_id: UUID | None, calls: int
    ) -> None:
        """See the port."""
        kind, subject = ("org", organization_id) if project_id is None else ("proj", project_id)
        note = AuditNote(
            action="content.forgotten",
            subject_kind="organization" if project_id is None else "project",
            subject_id=format_id(kind, subject),
            organization_id=organization_id,
            after={"calls": calls},
        )
        async with self._connection.transaction():
            await append_event(self._connection, self._by, note)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
