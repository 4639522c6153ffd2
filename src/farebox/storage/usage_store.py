"""Usage on PostgreSQL: sums over rollups or calls, calls narrowed, runs."""

from __future__ import annotations

from datetime import UTC, datetime
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
    RunFacts,
    Unattributed,
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

_Row = tuple[Any, ...]


class PostgresUsageStore:
    """Implements ``operations.usage.UsageStore`` on one connection in autocommit mode."""

    def __init__(self, connection: AsyncConnection[_Row]) -> None:
        self._connection = connection
        self._sql = queries("usage")

    async def rows(self, question: UsageQuestion, *, limit: int, offset: int) -> list[UsageRow]:
        """See the port."""
        values = _values(question) | {f"by_{each}": each in question.by for each in Dimension}
        values |= {"bucket": None if question.bucket is None else question.bucket.value}
        name = "by_call" if question.over_calls else "by_rollup"
        found = await self._ask(name, values | {"limit": limit, "offset": offset})
        return [_usage_row(row) for row in found]

    async def total(self, question: UsageQuestion) -> UsageTotal:
        """See the port."""
        row = (await self._ask("total", _values(question)))[0]
        return UsageTotal(
            sums=_sums(row[:9]),
            no_feature=Unattributed(row[9], Nanos(row[10])),
            no_environment=Unattributed(row[11], Nanos(row[12])),
        )

    async def calls(
        self, organization_id: UUID, narrowed: CallFilter, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        """See the port."""
        place = after or _NEWEST
        values = structs.asdict(narrowed) | {
            "organization_id": organization_id,
            "id": place.id,
            "turn": place.turn,
            "low": _LOWEST if narrowed.since is None else _floor(narrowed.since),
            "high": _HIGHEST if narrowed.until is None else _floor(narrowed.until),
            "limit": limit,
        }
        return [summary_of(row) for row in await self._ask("calls", values)]

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
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], values)
        return await cursor.fetchall()


def _values(question: UsageQuestion) -> dict[str, Any]:
    names = ("organization_id", "zone", "project_id", "key_id", "model", "feature", "environment")
    values: dict[str, Any] = {name: getattr(question, name) for name in names}
    hour = question.since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return values | {"since": hour, "until": question.until}


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
        sums=_sums(row[11:]),
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
