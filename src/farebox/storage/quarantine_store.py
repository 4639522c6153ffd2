"""Quarantined commands on PostgreSQL: shown to the operator, and ruled on.

The database rejected such a command, so its hold stays. A ruling lets the sweep end the hold as it
ends any other whose node is gone: it lapses and charges what was last reported (ENGINE.md).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.storage.sql import queries

_Connection = AsyncConnection[tuple[Any, ...]]


class Quarantined(NamedTuple):
    """A command that was put aside."""

    id: int
    at: datetime
    organization_name: str | None
    command_kind: str
    call_id: str | None
    """The call whose hold stays, for a command about one."""
    error: str
    ruled_at: datetime | None


async def list_quarantined(
    connection: _Connection, *, every: bool, limit: int
) -> list[Quarantined]:
    """Commands that wait for a ruling, oldest first; with ``every`` those ruled on too."""
    cursor = await connection.execute(
        queries("quarantine")["list_quarantined"], {"all": every, "limit": limit}
    )
    return [Quarantined(*row) for row in await cursor.fetchall()]


async def rule_quarantined(connection: _Connection, quarantine_id: int) -> None:
    """Rule that a command shall not take effect: its hold may lapse.

    Raises:
        NotFoundError: There is none of that number that waits for a ruling.
    """
    cursor = await connection.execute(
        queries("quarantine")["rule_quarantined"], {"id": quarantine_id}
    )
    if await cursor.fetchone() is None:
        raise NotFoundError(
            f"There is no command {quarantine_id} that waits for a ruling; "
            "`farebox quarantine list` shows them."
        )
