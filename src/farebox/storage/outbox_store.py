"""The outbox on PostgreSQL: read in order, every event once, none left out.

Ids are given out before commits: an event with a smaller id may become visible after one with a
larger id. :class:`OutboxReader` therefore stops at a gap until every transaction that ran when the
gap was first seen has ended; then what is still missing was rolled back and will never come.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from farebox.storage.rows import utc
from farebox.storage.sql import queries

PAGE_EVENTS: Final = 500

_Row = tuple[Any, ...]


class OutboxEvent(msgspec.Struct, frozen=True):
    """Something that people or jobs must hear of."""

    id: int
    organization_id: UUID
    kind: str
    at: datetime
    facts: dict[str, str]


async def read_events(
    connection: AsyncConnection[_Row],
    organization_id: UUID,
    *,
    after: int = 0,
    limit: int = PAGE_EVENTS,
) -> list[OutboxEvent]:
    """Events of one organisation behind an id, for a page; its lock puts its ids in order."""
    cursor = connection.cursor(binary=True)
    parameters = {"organization_id": organization_id, "after": after, "limit": limit}
    await cursor.execute(queries("outbox")["read_events_of"], parameters)
    return [_event(row) for row in await cursor.fetchall()]


class OutboxReader:
    """Reads on from an id, for whoever must act on every event."""

    def __init__(self, *, after: int) -> None:
        """Begin behind an event.

        Args:
            after: The last event that was dealt with; zero begins with the first.
        """
        self.after = after
        """The last event that was read."""
        self._gap_ends_with: int | None = None
        """Transactions before this one may still fill the gap behind ``after``."""

    async def read(self, connection: AsyncConnection[_Row]) -> list[OutboxEvent]:
        """The next events, in order; none if there is nothing new, or a gap may yet be filled."""
        cursor = connection.cursor(binary=True)
        parameters = {"after": self.after, "limit": PAGE_EVENTS}
        await cursor.execute(queries("outbox")["read_events"], parameters)
        events: list[OutboxEvent] = []
        for row in await cursor.fetchall():
            oldest_running, next_transaction = row[5:]
            if row[0] != self.after + 1:
                if self._gap_ends_with is None:
                    self._gap_ends_with = next_transaction
                if self._gap_ends_with > oldest_running:
                    break
            self._gap_ends_with = None
            self.after = row[0]
            events.append(_event(row))
        return events


def _event(row: _Row) -> OutboxEvent:
    return OutboxEvent(row[0], row[1], row[2], utc(row[3]), row[4])
