"""Days of usage that are over are added up, so that months and years are read by the day.

Promise: sums of days never differ from their hours. A day that changes after all counts by its
hours at once, and is added up anew by a later step (migration 0010).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from farebox.storage.sql import queries

OVER_AFTER: Final = timedelta(hours=26)
"""How long after its end a day is added up: a call runs for a day at most, then the sweep comes."""

LOCK_MILLISECONDS: Final = 150
"""How long traffic may stand in line behind the watch, once a day."""

LISTED_MAX: Final = 10
"""Days that one step looks for usage in: of a hundred thousand organisations, within seconds."""

DAYS_PER_STEP: Final = 1_000
"""Of all organisations together; each takes milliseconds."""


class PostgresUsageDays:
    """Adds up on one connection in autocommit mode; two workers may do so at once."""

    def __init__(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._sql = queries("usage_days")

    async def step(self) -> int:
        """Watch days that are over, and add up what is due; gives how many days were."""
        with suppress(LockNotAvailable):  # usage is written for long just now: the next step does
            await self._do("watch", milliseconds=LOCK_MILLISECONDS, after=OVER_AFTER)
        await self._do("list", days=LISTED_MAX)
        cursor = await self._connection.execute(self._sql["due"], {"limit": DAYS_PER_STEP})
        due = await cursor.fetchall()
        for organization_id, day in due:
            await self._do("sum", organization_id=organization_id, day=day)
        return len(due)

    async def _do(self, name: str, **parameters: object) -> None:
        await self._connection.execute(self._sql[name], parameters)
