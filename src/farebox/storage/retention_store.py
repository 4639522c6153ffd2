"""Retention on PostgreSQL: a month is sealed, added up and dropped, and nobody waits for it long.

Dropping a partition needs the table to itself for a moment. While that is waited for, everybody
else would wait in line behind it: so it is tried for :data:`LOCK_MILLISECONDS` at a time, with
pauses, and given up for now where somebody reads for longer (a check of the books, a backup).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any, Final

from msgspec import structs
from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable, QueryCanceled

from farebox.kit.errors import UnavailableError
from farebox.kit.money import Nanos
from farebox.operations.audit_log import AuditNote
from farebox.operations.retention import (
    DroppedMonth,
    Parent,
    Reach,
    RetentionSettings,
    StoredMonth,
    month_bounds,
)
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

LOCK_MILLISECONDS: Final = 150
"""How long traffic may stand in line behind one try."""

LOCK_TRIES: Final = 10
LOCK_PAUSE_SECONDS: Final = 1.0

_SUMS: Final = ("keep_parts", "keep_sums", "keep_draws", "keep_named", "keep_use")

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresRetentionStore:
    """Implements ``operations.retention.RetentionStore`` on one connection in autocommit mode."""

    def __init__(
        self,
        connection: _Connection,
        by: Actor = SYSTEM,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Choose in whose name it writes, and how it waits between tries."""
        self._connection = connection
        self._by = by
        self._sleep = sleep
        self._sql = queries("retention")

    async def now(self) -> datetime:
        """See the port."""
        cursor = await self._connection.execute(queries("tenants")["read_now"])
        row = await cursor.fetchone()
        assert row is not None
        return utc(row[0])

    async def settings(self) -> RetentionSettings:
        """See the port."""
        calls, refusals = (await self._ask("settings"))[0]
        return RetentionSettings(call_months=calls, refusal_months=refusals)

    async def change(self, settings: RetentionSettings, note: AuditNote) -> None:
        """See the port."""
        async with self._connection.transaction():
            await self._do("change_settings", **structs.asdict(settings))
            await append_event(self._connection, self._by, note)

    async def months(self) -> list[StoredMonth]:
        """See the port."""
        return [StoredMonth(Parent(row[0]), *row[1:]) for row in await self._ask("months")]

    async def dropped(self, *, limit: int) -> list[DroppedMonth]:
        """See the port."""
        return [
            DroppedMonth(Parent(parent), month, rows, Nanos(charge), utc(at))
            for parent, month, rows, charge, at in await self._ask("dropped", limit=limit)
        ]

    async def make_missing(self, *, limit: int) -> int:
        """See the port."""
        months = {row[1] for row in await self._ask("strays", limit=limit)}
        made = 0
        for month in sorted(months):
            try:
                async with self._connection.transaction():
                    await self._do("bound_locks", milliseconds=LOCK_MILLISECONDS)
                    await self._do("make_month", month=month)
            except LockNotAvailable:
                continue  # somebody reads for long; the next step makes it
            made += 1
        return made

    async def reach(self, start: datetime, end: datetime) -> Reach:
        """See the port."""
        holds, last, now = (await self._ask("reasons_to_keep", start=start, end=end))[0]
        return Reach(holds, None if last is None else utc(last), utc(now))

    async def drop(self, parent: Parent, month: date) -> DroppedMonth:
        """See the port."""
        what = {"parent": parent.value, "month": month}
        try:
            async with self._connection.transaction():
                await self._take_turn(what)
                await self._do("bound_work")
                await self._patiently("seal_month", what)
            async with self._connection.transaction():
                await self._take_turn(what)
                await self._do("bound_work")
                rows, charge = await self._add_up(parent, month)
                await self._patiently("drop_month", what)
                now = await self.now()
        except QueryCanceled as error:
            raise UnavailableError(
                "it took too long to add up; it is tried again, best while little else runs"
            ) from error
        return DroppedMonth(parent, month, rows, Nanos(charge), now)

    async def drop_content(self, *, limit: int) -> int:
        """See the port."""
        async with self._connection.transaction():
            await self._do("bound_locks", milliseconds=LOCK_MILLISECONDS)
            try:
                return int((await self._ask("drop_content", most=limit))[0][0])
            except LockNotAvailable as error:
                raise UnavailableError("stored content is in use just now") from error

    async def _add_up(self, parent: Parent, month: date) -> tuple[int, int]:
        """Keep what outlives the month; gives its rows and their charge."""
        start, end = month_bounds(month)
        of = {"month": month, "start": start, "end": end}
        if parent is Parent.REFUSAL:
            return self._pair(await self._ask("note_refusals", **of))
        for name in _SUMS:
            await self._do(name, **of)
        return self._pair(await self._ask("note_calls", **of))

    @staticmethod
    def _pair(rows: list[tuple[Any, ...]]) -> tuple[int, int]:
        ((first, second),) = rows
        return int(first), int(second)

    async def _take_turn(self, what: dict[str, Any]) -> None:
        if (
            not (await self._ask("take_turn"))[0][0]
            or not (await self._ask("has_month", **what))[0][0]
        ):
            raise UnavailableError("another worker drops it just now")

    async def _patiently(self, name: str, what: dict[str, Any]) -> None:
        """Do what needs the table to itself, in short tries.

        Raises:
            UnavailableError: Others used it all the time.
        """
        for tried in range(LOCK_TRIES):
            if tried:
                await self._sleep(LOCK_PAUSE_SECONDS)
            try:
                async with self._connection.transaction():
                    await self._do("bound_locks", milliseconds=LOCK_MILLISECONDS)
                    await self._do(name, **what)
            except LockNotAvailable:
                continue
            return
        raise UnavailableError("others read it all the time just now; it is tried again")

    async def _do(self, name: str, **parameters: object) -> None:
        await self._connection.execute(self._sql[name], parameters)

    async def _ask(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], parameters)
        return await cursor.fetchall()
