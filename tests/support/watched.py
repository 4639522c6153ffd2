"""An organisation that is watched: it spends when the test says, and its alerts are read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from farebox.assembly.upkeep import Watching
from farebox.kit.money import NANOS_PER_UNIT
from farebox.ledger.commands import AnyCommand, Attribution, Result, SetLimit, Usage
from farebox.ledger.limits import Period
from farebox.operations.alerts import Alert
from farebox.storage.anomaly_store import PostgresAnomalyStore
from farebox.storage.connecting import Connector
from tests.support.shop import Shop
from tests.support.till import Till

NOON = datetime(2040, 3, 14, 12, tzinfo=UTC)
"""A Wednesday, later than any clock that runs the tests."""

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def dollars(amount: str) -> int:
    """An amount in nanos."""
    whole, _, cents = amount.partition(".")
    return int(whole) * NANOS_PER_UNIT + int((cents + "0" * 9)[:9])


class Watched:
    """A database with one organisation in it, a clock that is set, and workers that look."""

    def __init__(self, dsn: str, now: datetime = NOON, **options: Any) -> None:
        self.dsn = dsn
        self.now = now
        self.set_clock(now)
        self.shop = Shop.of(dsn)
        self.till = Till(**options)
        self.till.put_into_database(dsn)
        self._workers: list[tuple[AsyncConnectionPool[Any], Shop]] = []

    def other(self) -> Till:
        """Another organisation."""
        till = Till()
        till.put_into_database(self.dsn)
        return till

    async def aclose(self) -> None:
        """Let go of everything."""
        for pool, lane in self._workers:
            await pool.close()
            await lane.store.aclose()
        await self.shop.store.aclose()

    # Time.

    def set_clock(self, now: datetime) -> None:
        """It is now so late, and the clock goes on from there."""
        self.now = now
        self._sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", now)

    def later(self, by: timedelta) -> None:
        """Time passes."""
        self.set_clock(self.now + by)

    # Spending.

    async def credit(self, amount: str = "1000") -> None:
        """Enough money."""
        await self.submit(self.till.grant(dollars(amount)))

    async def spend(
        self,
        amount: str = "0.01",
        *,
        run: str = "",
        user: str = "",
        tokens: int = 10,
        till: Till | None = None,
    ) -> UUID:
        """One call that is charged so much; gives its id."""
        till = till or self.till
        nanos = dollars(amount)
        admit = till.admit(nanos, attribution=Attribution(run=run, user=user))
        settle = till.settle(admit, nanos, usage=Usage(input_tokens=tokens, output_tokens=5))
        await self.shop.run(admit)
        await self.shop.run(settle)
        return admit.call_id

    def spent_before(self, amounts: dict[datetime, str], till: Till | None = None) -> None:
        """Hours that are over, each with one call of so much."""
        till = till or self.till
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.cursor().executemany(
                "INSERT INTO rollup_hour VALUES (%s, %s, gen_random_uuid(), %s, %s, 'f',"
                " 'production', 'gpt-5.4', 'standard', 'chat', 1, %s, 0, 0, 10, 0, 0, 5, 0)",
                [
                    (till.organization_id, hour, till.project_id, till.key_id, dollars(amount))
                    for hour, amount in amounts.items()
                ],
            )

    def steady(self, amount: str, *, days: int, until: datetime | None = None) -> None:
        """The same in every hour of the days before."""
        end = (until or self.now).replace(minute=0, second=0, microsecond=0)
        self.spent_before({end - HOUR * back: amount for back in range(1, 24 * days + 1)})

    async def limit(self, amount: str, period: Period = Period.MONTH, **which: Any) -> None:
        """A limit of money."""
        await self.submit(
            SetLimit(
                organization_id=self.till.organization_id,
                period=period,
                maximum=dollars(amount),
                **which,
            )
        )

    async def submit(self, command: AnyCommand) -> Result:
        """Have the engine decide."""
        result: Result = await self.shop.run(command)
        return result

    # The watch.

    async def worker(self) -> Watching:
        """One more worker, as after a restart."""
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            self.dsn, min_size=1, max_size=2, open=False, kwargs={"autocommit": True}
        )
        await pool.open()
        lane = Shop.of(self.dsn)

        async def submit(command: AnyCommand) -> Result:
            result: Result = await lane.run(command)
            return result

        self._workers.append((pool, lane))
        return Watching(pool, submit)

    async def look(self, *, workers: int = 1, repeats: bool = False) -> int:
        """So many new workers look at once; gives how many alerts were new."""
        watching = [await self.worker() for _ in range(workers)]
        steps = [w.step_repeats() if repeats else w.step() for w in watching]
        return sum(await asyncio.gather(*steps))

    async def alerts(self, kind: str | None = None) -> list[Alert]:
        """What was told, the oldest first."""
        connector = Connector(self.dsn, name="test", durable=False)
        async with await connector.connect() as connection:
            store = PostgresAnomalyStore(connection)
            found = await store.alerts(
                self.till.organization_id, kind=kind, before=None, limit=1_000
            )
        return found[::-1]

    async def settings(self, **changes: Any) -> None:
        """Change what the organisation is told of."""
        connector = Connector(self.dsn, name="test", durable=False)
        async with await connector.connect() as connection:
            store = PostgresAnomalyStore(connection)
            await store.change_settings(self.till.organization_id, changes)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement behind everybody's back."""
        return self.shop.sql(statement, *values)

    def _sql(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode(), values)
