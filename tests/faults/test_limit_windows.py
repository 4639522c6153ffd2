"""Windows that turn, and raises that end, while calls are open: the sandbox's clock turns them.

A call belongs to the window of its admission: what it holds and what it is charged counts there,
however late its answer comes.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.faults.limit_cases import CREDIT
from tests.faults.limit_house import House, Order, Tenant, Told, house
from tests.faults.limit_judge import Judge
from tests.faults.test_limit_storms import recounted
from tests.faults.traffic import MESSAGE, MODEL
from tests.faults.wall_windows import window
from tests.support.figures import Figures
from tests.support.openai_clients import async_client
from tests.support.processes import DurableServer

ZONE = "Europe/Berlin"
FIT = 3
"""Calls that each window takes."""

LONG = Order(40, stream=False, head_ms=2_000)
"""Open while the clock is turned."""
SHORT = Order(40)
ENDLESS = Order(40, stream=True, head_ms=600_000)

KINDS = (
    *(("calls", period) for period in ("minute", "utc_day", "day", "week", "month", "total")),
    *(("money", period) for period in ("minute", "day", "month")),
    *(("tokens", period) for period in ("utc_day", "week")),
)

STEPS = (
    timedelta(minutes=1),
    timedelta(days=1),
    timedelta(days=31),
)

FRESH = timedelta(days=32)
"""After which every window is another."""

MARGIN = timedelta(seconds=5)
"""Behind the beginning of a minute: it does not end by itself while we look."""


async def now_of(home: House) -> datetime:
    """The database's time."""
    ((now,),) = await home.installed.rows("SELECT farebox_now()")
    assert isinstance(now, datetime)
    return now


def micros_of(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - datetime.fromisoformat("1970-01-01T00:00:00Z")) // timedelta(microseconds=1)


class Turning:
    """A tenant whose one limit takes three calls in each window."""

    def __init__(self, home: House, tenant: Tenant, measure: str, period: str) -> None:
        self.home = home
        self.tenant = tenant
        self.measure = measure
        self.period = period
        self.told: list[Told] = []
        self.running: list[asyncio.Task[Told]] = []
        self._filled: set[int] = set()

    async def limit(self) -> None:
        """Set it: so that three calls fit, and nothing besides."""
        maximum = FIT * LONG.needed[self.measure]
        await self.home.set_limit(
            self.tenant, measure=self.measure, period=self.period, maximum=maximum
        )

    async def fill(self, order: Order, at: datetime) -> int:
        """As many calls as a window takes, which are all admitted or all refused; gives how many.

        They are left running.
        """
        start = window(self.period, micros_of(at), ZONE)[0]
        fits = 0 if start in self._filled else FIT
        self._filled.add(start)
        begun = [asyncio.create_task(self.home.call(self.tenant, order)) for _ in range(FIT)]
        self.running += begun
        if not fits:
            self.told += await asyncio.gather(*begun)
            assert not any(told.is_whole for told in self.told[-FIT:]), self.tenant.name
            self.running = [task for task in self.running if task not in begun]
        return fits

    async def one_more(self) -> None:
        """One more is refused; what counts money or tokens might let it wait."""
        if self.measure == "calls":
            told = await self.home.call(self.tenant, SHORT)
            self.told.append(told)
            assert not told.is_whole, self.tenant.name

    async def finish(self) -> None:
        """See all running calls answered."""
        told = await asyncio.gather(*self.running)
        assert all(each.is_whole for each in told), self.tenant.name
        self.told += told
        self.running = []


async def admitted(home: House, count: int) -> None:
    """Wait until so many calls in all have been admitted."""
    await home.installed.until(
        "SELECT (SELECT count(*) FROM hold) + (SELECT count(*) FROM call) = %s", count
    )


async def crossed(home: House, tenant: Tenant, period: str) -> int:
    """Calls that ended in another window than they began in."""
    rows = await home.installed.rows(
        "SELECT admitted_at, ended_at FROM call WHERE organization_id = %s", tenant.id
    )
    return sum(
        window(period, micros_of(begun), ZONE) != window(period, micros_of(ended), ZONE)
        for begun, ended in rows
    )


async def turn_windows(home: House, figures: Figures) -> None:
    """Fill every window, turn the clock while its calls are open, and fill what has turned."""
    all_turning = []
    for measure, period in KINDS:
        tenant = await home.tenant(f"{measure} by {period}", CREDIT, zone=ZONE)
        turning = Turning(home, tenant, measure, period)
        await turning.limit()
        all_turning.append(turning)
    ((total,),) = await home.installed.rows("SELECT count(*) FROM call")
    for step in STEPS:
        now = await now_of(home)
        minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        await home.advance(FRESH + minute + MARGIN - now)
        now = await now_of(home)
        total += sum(await asyncio.gather(*(each.fill(LONG, now) for each in all_turning)))
        await admitted(home, total)
        await asyncio.gather(*(each.one_more() for each in all_turning))
        await home.advance(step)
        now = await now_of(home)
        total += sum(await asyncio.gather(*(each.fill(SHORT, now) for each in all_turning)))
        await admitted(home, total)
        await asyncio.gather(*(each.one_more() for each in all_turning))
        await asyncio.gather(*(each.finish() for each in all_turning))
    for each in all_turning:
        recount = await asyncio.to_thread(recounted, home, each.tenant)
        counts = await Judge(home, each.tenant, recount, each.told).whatever_changed(
            command=False, receipts=1
        )
        across = await crossed(home, each.tenant, each.period)
        assert across or each.period == "total", each.tenant.name
        counts |= {"calls that crossed a window's end": across, "calls made": len(each.told)}
        figures.add("windows that turn while calls are open", counts)


async def end_raises(home: House) -> None:
    """BUD-16: a raise holds until its instant, and what was used under it stays used."""
    tenant = await home.tenant("raised", CREDIT, zone=ZONE)
    told = []

    async def made() -> int:
        some = await asyncio.gather(*(home.call(tenant, SHORT) for _ in range(2 * FIT + 1)))
        told.extend(some)
        return sum(each.is_whole for each in some)

    async def raised(maximum: int, until: datetime) -> None:
        await home.set_limit(
            tenant,
            measure="calls",
            period="total",
            maximum=FIT,
            raised_to=maximum,
            raised_until=until.isoformat(),
        )

    await raised(2 * FIT, await now_of(home) + timedelta(hours=1))
    assert await made() == 2 * FIT
    await home.command("clock", "advance", "1h")
    assert await made() == 0
    (shown,) = await home.shown_limits(tenant)
    assert (shown["maximum"], shown["used"], shown["left"]) == (FIT, 2 * FIT, 0)
    await raised(3 * FIT, await now_of(home) + timedelta(hours=1))
    assert await made() == FIT
    recount = await asyncio.to_thread(recounted, home, tenant)
    await Judge(home, tenant, recount, told).whatever_changed(command=True, receipts=1)


async def change_zone(home: House) -> None:
    """A zone changes while a call is open: limits count anew, by the new zone's windows."""
    tenant = await home.tenant("moving", CREDIT, zone="Asia/Kathmandu")
    for period in ("day", "week", "month", "total"):
        await home.set_limit(tenant, measure="calls", period=period, maximum=FIT)
    running = asyncio.create_task(home.call(tenant, LONG))
    await home.installed.until(
        "SELECT count(*) = 1 FROM hold WHERE organization_id = %s", tenant.id
    )
    told = [await home.call(tenant, SHORT)]
    await home.command("orgs", "update", tenant.name, "--zone", "America/New_York")
    now = micros_of(await now_of(home))
    for shown in await home.shown_limits(tenant):
        if shown["period"] != "total":
            texts = (shown["starts_at"], shown["resets_at"])
            bounds = tuple(micros_of(datetime.fromisoformat(text)) for text in texts)
            assert bounds == window(shown["period"], now, "America/New_York"), shown
    told += [await home.call(tenant, SHORT) for _ in range(FIT)]
    told.append(await running)
    assert sum(each.is_whole for each in told) == FIT
    recount = await asyncio.to_thread(recounted, home, tenant)
    await Judge(home, tenant, recount, told).whatever_changed(command=False, receipts=1)
    assert recount.zone == "America/New_York"


async def ask_officially(home: House) -> None:
    """LIM-02, LIM-04: the official client comes back when it may help, and not for money."""
    tenant = await home.tenant("official", CREDIT, zone=ZONE)
    await home.set_limit(tenant, measure="parallel", period="total", maximum=1)
    too_little = SHORT.needed["money"] - 1
    await home.set_limit(
        tenant, scope_kind="key", scope_name="side", maximum=too_little, period="month"
    )
    words: dict[str, Any] = {"model": MODEL, "messages": [MESSAGE], "max_tokens": SHORT.tokens}
    url = f"{home.urls[0]}/v1"
    async with async_client(url, tenant.secrets["side"]) as (client, wire):
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**words)
        assert (wire.count, refused.value.code) == (1, "key_spend_limit_exceeded")
    running = asyncio.create_task(home.call(tenant, ENDLESS))
    await home.installed.until("SELECT count(*) = 1 FROM hold")
    async with async_client(url, tenant.secrets["main"]) as (client, wire):
        asking = asyncio.create_task(client.chat.completions.create(**words))
        await home.installed.until(
            "SELECT count(*) > 0 FROM refusal WHERE code = 'rate_limit_exceeded'"
        )
        running.cancel()
        assert (await asking).usage is not None
        assert wire.count > 1


async def test_windows_turn_and_raises_end_in_the_middle_of_calls(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """BUD-01, BUD-16, LIM-03, LIM-04: what is open belongs to the window it was admitted in."""
    async with house(durable, tmp_path) as home:
        await ask_officially(home)
        await change_zone(home)
        await end_raises(home)
        await turn_windows(home, figures)
