"""Days of usage on PostgreSQL: whatever happens, they say what their hours say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec import structs

from farebox.operations.usage import Bucket, Dimension, UsagePage, UsageQuestion
from farebox.storage import usage_days
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from farebox.storage.usage_days import PostgresUsageDays
from farebox.storage.usage_store import PostgresUsageStore
from tests.support.console_people import Payer

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
KNOWN = sorted(set(Dimension) - {Dimension.USER, Dimension.RUN, Dimension.TAG})
SUMS = (
    "calls, charge_nanos, absorbed_nanos, cost_nanos, input_tokens, cached_tokens,"
    " cache_write_tokens, output_tokens, reasoning_tokens"
)


class House:
    """A connection for the worker and one for whoever reads or changes something."""

    def __init__(self, dsn: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self.dsn = dsn
        self.payer = Payer(dsn)
        self.connection = connection
        self.days = PostgresUsageDays(connection)
        self.usage = PostgresUsageStore(connection)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a statement answers."""
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            cursor = sql.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def use(self, hour: datetime, *, model: str = "m", feature: str = "", sums: Any = 1) -> None:
        """Usage in an hour."""
        sums = sums if isinstance(sums, list) else [sums] * 9
        self.sql(
            f"INSERT INTO rollup_hour (organization_id, hour, bucket, project_id, key_id, feature,"
            f" environment, model, lane, endpoint, {SUMS}) SELECT %s, %s, gen_random_uuid(), %s,"
            f" %s, %s, '', %s, 'standard', 'chat', {', '.join(['%s'] * 9)}",
            *(self.payer.id, hour, self.payer.project_id, self.payer.key_id, feature, model),
            *sums,
        )

    async def read(self, **more: Any) -> UsagePage:
        """Usage of the last days; all of it unless a question says otherwise."""
        asked: dict[str, Any] = {
            "organization_id": self.payer.id,
            "zone": "UTC",
            "since": TODAY - timedelta(days=8),
            "until": TODAY + timedelta(days=1),
        }
        return await self.usage.read(UsageQuestion(**asked | more), limit=1_000, offset=0)

    def summed(self) -> int:
        """How many days are summed."""
        return int(self.sql("SELECT count(*) FROM summed_day WHERE is_summed")[0][0])

    async def unequal(self) -> list[object]:
        """What the check of the books says of days."""
        store = PostgresAuditStore(self.connection)
        async with store.snapshot(self.payer.id) as snapshot:
            return [fact async for fact in snapshot.unequal_rollups() if fact.hour.hour == 0]


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    """A database with one organisation."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield House(dsn, connection)


def day(number: int, hour: int = 12) -> datetime:
    """An hour so many days ago."""
    return TODAY - timedelta(days=number) + timedelta(hours=hour)


async def test_days_answer_as_their_hours_do(house: House) -> None:
    """ATT-01, ATT-03: every question has the same answer before and after days are added up."""
    chance = random.Random(11)
    for _ in range(120):
        house.use(
            day(chance.randrange(8), chance.randrange(24)),
            model=chance.choice("abc"),
            feature=chance.choice(("", "chat")),
            sums=[chance.randrange(10**12) for _ in range(9)],
        )
    questions: list[dict[str, Any]] = [
        {"by": frozenset(by), "bucket": bucket, "zone": zone, **span}
        for by in (*combinations(KNOWN, 0), *combinations(KNOWN, 1), KNOWN)
        for bucket, zone in ((None, "Asia/Tokyo"), (Bucket.DAY, "UTC"), (Bucket.DAY, "Asia/Tokyo"))
        for span in ({}, {"since": day(6, 5), "until": day(2, 17)}, {"since": day(3, 1)})
    ]
    questions += [{"model": "a"}, {"feature": "chat", "bucket": Bucket.HOUR}]
    before = [await house.read(**asked) for asked in questions]
    assert await house.days.step() >= 5
    assert [await house.read(**asked) for asked in questions] == before
    assert before[0].total.sums.calls > 0
    assert await house.days.step() == 0


async def test_a_late_change_counts_at_once(house: House) -> None:
    """DED: what reaches a summed day later is in the very next answer, and is summed again."""
    house.use(day(5))
    house.use(day(4))
    assert await house.days.step() == 2
    house.sql("UPDATE rollup_hour SET charge_nanos = 8 WHERE hour = %s", day(5))
    house.use(day(4, 3), model="late")
    house.use(day(3), model="first of its day")
    assert house.summed() == 0
    before = await house.read(by=frozenset({Dimension.MODEL}))
    assert (before.total.sums.calls, before.total.sums.charge) == (4, 11)
    assert await house.days.step() == 3
    assert await house.read(by=frozenset({Dimension.MODEL})) == before
    assert house.summed() == 3
    assert await house.unequal() == []


async def test_an_answer_that_the_engine_settles_days_later_counts_at_once(house: House) -> None:
    """DED, LIM: a call that outlives its day reaches the sum of the day it was admitted on."""
    payer = house.payer
    house.sql("UPDATE deployment SET clock_offset = '-3 days'")
    house.sql("UPDATE organization SET last_time = farebox_now()")
    await payer.grant("50")
    early, late = await payer.admit("1"), await payer.admit("1")
    await payer.settle(early, 1_000, 10)
    house.sql("UPDATE deployment SET clock_offset = '0'")
    assert await house.days.step() == 1
    assert (await house.read()).total.sums.calls == 1
    await payer.settle(late, 1_000, 10)
    assert house.summed() == 0
    before = await house.read()
    assert before.total.sums.calls == 2
    assert await house.days.step() == 1
    assert await house.read() == before
    assert await house.unequal() == []


async def test_days_that_are_not_over_stay_hours(house: House) -> None:
    """Of the last day or two calls still end: they are read by the hour."""
    house.use(day(0, 0))
    house.use(day(9))
    assert await house.days.step() == 1
    house.use(day(0, 0), model="next")
    assert house.summed() == 1
    assert (await house.read()).total.sums.calls == 2


async def test_a_clock_that_goes_back_leaves_the_watch(house: House) -> None:
    """The watch never goes back, or a summed day could change unseen."""
    house.use(day(3))
    assert await house.days.step() == 1
    house.sql("UPDATE deployment SET clock_offset = '-30 days'")
    assert await house.days.step() == 0
    house.use(day(3, 4))
    assert (await house.read()).total.sums.calls == 2
    assert await house.days.step() == 1
    assert await house.unequal() == []


async def test_the_watch_does_not_wait_behind_a_long_transaction(house: House) -> None:
    """Traffic does not stand in line behind the worker: it tries again at its next turn."""
    house.use(day(3))
    with psycopg.connect(house.dsn) as other:
        other.execute("LOCK TABLE rollup_hour IN ROW EXCLUSIVE MODE")
        assert await house.days.step() == 0
    assert await house.days.step() == 1


async def test_while_usage_is_vacuumed_the_watch_asks_for_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vacuum gives way to nobody who waits so short: traffic would stand in line each minute."""
    monkeypatch.setattr(usage_days, "LOCK_MILLISECONDS", 0)  # whoever waits now waits for good
    house.use(day(3))
    with psycopg.connect(house.dsn) as vacuum:
        vacuum.execute("LOCK TABLE rollup_hour IN SHARE UPDATE EXCLUSIVE MODE")
        async with asyncio.timeout(30):
            assert await house.days.step() == 0
    assert await house.days.step() == 1
    cursor = await house.connection.execute("SHOW lock_timeout")
    assert await cursor.fetchone() == ("5s",), "the bound is the watch's alone"


async def test_summing_waits_for_who_holds_the_organisation(house: House) -> None:
    """A change that is under way is either in the sum or makes the day unsummed."""
    house.use(day(3))
    assert await house.days.step() == 1
    house.use(day(3, 4))
    async with await psycopg.AsyncConnection.connect(house.dsn) as engine:
        await engine.execute(
            "SELECT FROM organization WHERE id = %s FOR NO KEY UPDATE", (house.payer.id,)
        )
        await engine.execute("UPDATE rollup_hour SET calls = 5")
        step = asyncio.create_task(house.days.step())
        await _waited_for(house, engine.info.backend_pid)
        await engine.commit()
    assert await step == 1
    assert house.summed() == 1
    assert (await house.read()).total.sums.calls == 10
    assert await house.unequal() == []


async def _waited_for(house: House, backend: int) -> None:
    """Until somebody waits for that connection."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    for _ in range(500):
        if house.sql(asked, backend)[0][0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rollup_day SET charge_nanos = charge_nanos + 1",
        "UPDATE rollup_day SET model = 'other'",
        "DELETE FROM rollup_day",
        "INSERT INTO rollup_day SELECT * FROM rollup_day",
    ],
)
async def test_the_check_of_the_books_sees_days(house: House, change: str) -> None:
    """AUD: a day that differs from its hours is found."""
    house.use(day(3))
    assert await house.days.step() == 1
    assert await house.unequal() == []
    house.sql(change)
    assert await house.unequal() != []


def test_whole_days_serve_whom_they_suit() -> None:
    """A day of another zone, or an hour, is not made of days of UTC."""
    asked = UsageQuestion(organization_id=UUID(int=1), zone="UTC", since=day(3), until=day(1))
    for bucket, zone, suits in (
        (None, "Asia/Tokyo", True),
        (Bucket.DAY, "UTC", True),
        (Bucket.DAY, "Asia/Tokyo", False),
        (Bucket.HOUR, "UTC", False),
    ):
        assert structs.replace(asked, bucket=bucket, zone=zone).takes_whole_days is suits
