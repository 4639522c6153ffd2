"""Usage on PostgreSQL: sums over rollups or calls, calls narrowed, runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import structs
from psycopg import AsyncConnection

from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.kit.money import Nanos
from farebox.operations.call_facts import CallSummary, Position
from farebox.operations.usage import (
    CallFilter,
    Dimension,
    QualityRow,
    RunFacts,
    Unattributed,
    UsagePage,
    UsageQuestion,
    UsageRow,
    UsageSums,
    UsageTotal,
)
from farebox.storage.call_store import summary_of
from farebox.storage.rows import utc
from farebox.storage.sql import queries

_LOWEST: Final = UUID(int=0)
_HIGHEST: Final = UUID(int=2**128 - 1)
_NEWEST: Final = Position(_HIGHEST, -1)

NEAR_CALLS: Final = 20_000
"""The newest calls, which a list reads before it looks when there were more of what it seeks."""

_HOLD_TURN: Final = 1
_CALLS_COLUMN: Final = 12
_ROW_COLUMNS: Final = 21

_Row = tuple[Any, ...]


class PostgresUsageStore:
    """Implements ``operations.usage.UsageStore`` on one connection in autocommit mode."""

    def __init__(self, connection: AsyncConnection[_Row]) -> None:
        self._connection = connection
        self._sql = queries("usage")

    async def read(self, question: UsageQuestion, *, limit: int, offset: int) -> UsagePage:
        """See the port."""
        values = _values(question) | {f"by_{each}": each in question.by for each in Dimension}
        values |= {
            "bucket": None if question.bucket is None else question.bucket.value,
            "whole_days": question.takes_whole_days,
        }
        name = "by_call" if question.over_calls else "by_rollup"
        found = await self._ask(name, values | {"limit": limit, "offset": offset})
        whole = found[0][_ROW_COLUMNS:]
        total = UsageTotal(
            sums=_sums(whole),
            no_feature=Unattributed(whole[9], Nanos(whole[10])),
            no_environment=Unattributed(whole[11], Nanos(whole[12])),
        )
        # Beyond the last group there is one row, with the total alone.
        rows = [_usage_row(row) for row in found if row[_CALLS_COLUMN] is not None]
        return UsagePage(rows=rows, total=total)

    async def newest_at(self, organization_id: UUID) -> datetime | None:
        """See the port."""
        found = await self._ask("newest", {"organization_id": organization_id})
        return utc(found[0][0]) if found else None

    async def quality(
        self,
        organization_id: UUID,
        *,
        since: datetime,
        until: datetime,
        by: frozenset[Dimension],
        limit: int,
        offset: int,
    ) -> list[QualityRow]:
        """See the port."""
        values = {
            "organization_id": organization_id,
            "since": since,
            "until": until,
            "limit": limit,
            "offset": offset,
        }
        values |= {f"by_{each}": each in by for each in Dimension}
        names = QualityRow.__struct_fields__
        return [
            QualityRow(**dict(zip(names, row, strict=True)))
            for row in await self._ask("quality", values)
        ]

    async def calls(
        self, organization_id: UUID, narrowed: CallFilter, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        """See the port.

        What few calls have is not looked for in all of them, but on the days that had it.
        """
        place = after or _NEWEST
        values = structs.asdict(narrowed) | {
            "organization_id": organization_id,
            "id": place.id,
            "turn": place.turn,
            "low": _LOWEST if narrowed.since is None else _floor(narrowed.since),
            "high": _HIGHEST if narrowed.until is None else _floor(narrowed.until),
            "limit": limit,
            "closed": True,
            "others": True,
        }
        near = await self._ask("near", values | {"calls": NEAR_CALLS}) if _by_days(narrowed) else []
        if not near or near[0][0] <= values["low"]:
            found = await self._ask("calls", values)
        else:
            found = await self._ask("calls", values | {"low": near[0][0]})
            if len(found) < limit:
                found += await self._far(values | {"high": near[0][0]}, limit - len(found))
        return [summary_of(row) for row in found]

    async def _far(self, values: dict[str, Any], limit: int) -> list[_Row]:
        """What comes after the near ones: closed calls by days, open holds and refusals as ever."""
        high: UUID = values["high"]
        until = utc(datetime.fromtimestamp((high.int >> 80) / 1_000, UTC)) + timedelta(days=1)
        found = await self._ask("calls", values | {"closed": False})
        closed: list[_Row] = []
        for low_at, high_at in await self._ask("spans", values | {"until": until}):
            span = {
                "low": max(values["low"], _floor(utc(low_at))),
                "high": min(high, _floor(utc(high_at))),
            }
            if span["low"] < span["high"] and len(closed) < limit:
                closed += await self._ask("calls", values | span | {"others": False})
        ended = {row[0] for row in closed}  # a hold may have closed since it was read
        found = [row for row in found if row[1] != _HOLD_TURN or row[0] not in ended]
        return sorted(found + closed, key=lambda row: (-row[0].int, row[1]))[:limit]

    async def runs(
        self,
        organization_id: UUID,
        *,
        run: str | None,
        since: datetime,
        before: UUID | None,
        limit: int,
    ) -> list[RunFacts]:
        """See the port."""
        values = {
            "organization_id": organization_id,
            "run": run,
            "since": since,
            "before": before,
            "limit": limit,
        }
        return [
            RunFacts(
                run=row[0],
                calls=row[1],
                charge=Nanos(row[2]),
                input_tokens=row[3],
                output_tokens=row[4],
                first_at=utc(row[5]),
                last_at=utc(row[6]),
                last_id=row[7],
            )
            for row in await self._ask("runs", values)
        ]

    async def _ask(self, name: str, values: dict[str, Any]) -> list[_Row]:
        # Never prepared: what narrows nothing is left out of a plan that is made for the question.
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], values, prepare=False)
        return await cursor.fetchall()


def _by_days(narrowed: CallFilter) -> bool:
    """Whether the rollups know when there was what is looked for, and no index of calls does."""
    sought = (narrowed.project_id, narrowed.key_id, narrowed.model, narrowed.feature)
    return any(each is not None for each in sought) and narrowed.user is narrowed.run is None


def _values(question: UsageQuestion) -> dict[str, Any]:
    since, until = question.hours
    return structs.asdict(question) | {"since": since, "until": until}


def _usage_row(row: _Row) -> UsageRow:
    return UsageRow(
        at=None if row[0] is None else utc(row[0]),
        project_id=row[1],
        project_name=row[2],
        key_id=row[3],
        key_name=row[4],
        feature=row[5],
        environment=row[6],
        model=row[7],
        endpoint=row[8],
        user=row[9],
        run=row[10],
        tag=row[11],
        sums=_sums(row[_CALLS_COLUMN:]),
    )


def _sums(row: _Row) -> UsageSums:
    return UsageSums(
        calls=row[0],
        charge=Nanos(row[1]),
        absorbed=Nanos(row[2]),
        cost=Nanos(row[3]),
        input_tokens=row[4],
        cached_tokens=row[5],
        cache_write_tokens=row[6],
        output_tokens=row[7],
        reasoning_tokens=row[8],
    )


def _floor(instant: datetime) -> UUID:
    """The smallest id that a call of that instant can have."""
    at = uuid7(instant, bytes(RANDOM_BYTES))
    return UUID(int=at.int >> 80 << 80)
