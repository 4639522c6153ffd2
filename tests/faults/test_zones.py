"""Days, weeks and months of zones whose clocks change, to the second, on the sandbox's clock.

Where a window begins and ends is found by ``wall_windows``: from the zone's clock on the wall, not
by our arithmetic. A limit of two calls shows it: a few seconds before the window ends the third is
refused, and a second after it two are taken. The long one alone: ``./dev test-long -k zones``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest

from farebox.kit.periods import (
    day_start,
    month_start,
    next_day_start,
    next_month_start,
    next_week_start,
    week_start,
)
from tests.faults.limit_cases import CREDIT
from tests.faults.limit_house import House, Order, Tenant, Told, house
from tests.faults.limit_judge import Judge
from tests.faults.test_limit_storms import recounted
from tests.faults.test_limit_windows import micros_of, now_of
from tests.faults.wall_windows import window
from tests.support.figures import Figures
from tests.support.processes import DurableServer

FIT = 2
BEFORE = timedelta(seconds=30)
AFTER = timedelta(seconds=1)

HAIR = timedelta(microseconds=1)
NOTHING = timedelta(0)

PERIODS = ("day", "week", "month")

OPEN = Order(40, {"user": "open"}, head_ms=250)
"""A call that is open when the window ends."""

DAYS = {
    "Europe/Berlin": ("2027-03-28", "2027-10-31", "2028-02-29"),
    "America/New_York": ("2027-03-14", "2027-11-07"),
    "Asia/Kathmandu": ("2027-12-31",),
    "Australia/Lord_Howe": ("2027-04-04", "2027-10-03"),
    "UTC": ("2028-02-29",),
}
"""Days whose clocks change, a 29 February, ends of months and of a year."""

MORE_DAYS = {
    "Europe/Berlin": (
        "2027-01-31",
        "2027-03-31",
        "2027-12-31",
        "2028-01-02",
        "2028-03-26",
        "2032-02-29",
    ),
    "America/New_York": ("2027-02-28", "2028-02-29", "2028-03-12", "2028-11-05", "2028-12-31"),
    "Asia/Kathmandu": ("2027-02-28", "2027-04-30", "2028-02-29", "2029-12-31"),
    "Australia/Lord_Howe": ("2028-02-29", "2028-04-02", "2028-10-01", "2028-12-31"),
    "America/Santiago": ("2027-04-03", "2027-04-04", "2027-09-05"),
    "America/Havana": ("2027-03-14", "2027-11-07", "2028-02-29"),
    "Pacific/Chatham": ("2027-04-04", "2027-09-26", "2028-02-29"),
    "Africa/Cairo": ("2027-04-30", "2027-10-28", "2027-10-29"),
    "Pacific/Apia": ("2027-12-31", "2028-02-29"),
    "UTC": ("2027-12-31", "2100-02-28"),
}
"""Zones that change their clocks at midnight or by three quarters, and years further away."""


class Edge(NamedTuple):
    """The beginning of a day somewhere."""

    at: datetime
    zone: str


def edges_of(days: dict[str, tuple[str, ...]]) -> list[Edge]:
    """Where these days begin and end, the earliest first: the clock goes forwards alone."""
    found = set()
    for zone, names in days.items():
        for name in names:
            noon = datetime.combine(
                date.fromisoformat(name), datetime.min.time().replace(hour=12), ZoneInfo(zone)
            )
            for edge in window("day", micros_of(noon.astimezone(UTC)), zone):
                at = datetime.fromtimestamp(edge // 1_000_000, UTC)
                found.add(Edge(at, zone))
    return sorted(found)


class Place:
    """A tenant in one zone: a user for each period, who may make two calls in it."""

    def __init__(self, home: House, tenant: Tenant) -> None:
        self.home = home
        self.tenant = tenant
        self.told: list[Told] = []
        self.used: Counter[tuple[str, int]] = Counter()

    async def limit(self) -> None:
        """Two calls for each user's period; and what all cost, counted by every period."""
        for period in PERIODS:
            await self.home.set_limit(
                self.tenant,
                scope_kind="user",
                scope_name=period,
                measure="calls",
                period=period,
                maximum=FIT,
            )
            await self.home.set_limit(
                self.tenant, period=period, effect="alert", maximum=10**12, thresholds_percent=[1]
            )

    async def call(self, at: datetime) -> int:
        """Three calls of each user, one after the other; gives how many were taken."""
        taken = await asyncio.gather(*(self._calls(period, at) for period in PERIODS))
        return sum(taken)

    async def _calls(self, period: str, at: datetime) -> int:
        start, end = window(period, micros_of(at), self.tenant.zone)
        room = FIT - self.used[period, start]
        for number in range(FIT + 1):
            told = await self.home.call(self.tenant, Order(40, {"user": period}))
            self.told.append(told)
            assert told.is_whole == (number < room), (self.tenant.zone, period, at, told)
            if not told.is_whole:
                reset = datetime.fromtimestamp(end // 1_000_000, UTC).isoformat()
                assert f"resets at {reset}" in told.message, told
        self.used[period, start] += room
        return room

    async def look(self, at: datetime) -> int:
        """What is shown are the windows on the wall; gives how many."""
        shown = await self.home.shown_limits(self.tenant)
        for limit in shown:
            bounds = window(limit["period"], micros_of(at), self.tenant.zone)
            texts = (limit["starts_at"], limit["resets_at"])
            assert tuple(micros_of(datetime.fromisoformat(t)) for t in texts) == bounds, limit
            if limit["scope_kind"] == "user":
                assert limit["used"] == self.used[limit["period"], bounds[0]], limit
        return len(shown)


async def pass_edges(home: House, edges: Sequence[Edge], figures: Figures) -> None:
    """Call before and after every edge, with a call open over it."""
    places = {}
    for zone in sorted({edge.zone for edge in edges}):
        places[zone] = Place(home, await home.tenant(zone, CREDIT, zone=zone))
        await places[zone].limit()
    counts: Counter[str] = Counter()
    for at, zone in edges:
        place = places[zone]
        await home.advance(at - BEFORE - await now_of(home))
        counts["calls taken"] += await place.call(at - BEFORE)
        running = asyncio.create_task(home.call(place.tenant, OPEN))
        await home.installed.until("SELECT count(*) = 1 FROM hold")
        now = await now_of(home)
        assert now < at, f"it took {now - at + BEFORE} to make a few calls"
        await home.advance(at + AFTER - now)
        counts["calls taken"] += await place.call(at + AFTER)
        place.told.append(await running)
        counts["windows looked at"] += await place.look(at + AFTER)
        counts["edges"] += 1
    for place in places.values():
        recount = await asyncio.to_thread(recounted, home, place.tenant)
        judge = Judge(home, place.tenant, recount, place.told)
        judged = await judge.whatever_changed(command=False, receipts=1)
        counts.update(judged)
        counts["counters compared at commits"] += recount.counters_compared
        counts["calls made"] += len(place.told)
        counts["zones"] += 1
    figures.add("windows of zones", counts)


def instants_of(zone: str) -> list[datetime]:
    """Around every change of the clocks in five quarters, and around the ends of months."""
    info, hour = ZoneInfo(zone), timedelta(hours=1)
    found = []
    at = datetime(2027, 1, 1, tzinfo=UTC)
    while (at.year, at.month) < (2028, 4):
        if at.astimezone(info).utcoffset() != (at + hour).astimezone(info).utcoffset():
            found.append(at)
        if at.day == 1 and at.hour == 0:
            found.append(at)
        at += hour
    around = [timedelta(hours=hours) for hours in (-25, -1, 0, 11)]
    return [at + by - hair for at in found for by in around for hair in (HAIR, NOTHING)]


def compare_periods(zones: Sequence[str]) -> int:
    """Our arithmetic beside the clock on the wall; gives how many windows."""
    starts = {
        "day": (day_start, next_day_start),
        "week": (week_start, next_week_start),
        "month": (month_start, next_month_start),
    }
    compared = 0
    for zone in zones:
        for at in instants_of(zone):
            for period, (begins, ends) in starts.items():
                ours = (micros_of(begins(at, zone)), micros_of(ends(at, zone)))
                assert ours == window(period, micros_of(at), zone), (zone, period, at)
                compared += 1
    return compared


def test_our_arithmetic_of_dates_is_the_clock_on_the_wall() -> None:
    """BUD-01: day, week and month around every change of the clocks, to the microsecond."""
    assert compare_periods(sorted({*DAYS, *MORE_DAYS}))


@pytest.mark.long
def test_our_arithmetic_of_dates_in_every_zone(figures: Figures) -> None:
    """BUD-01: the same for every zone there is."""
    zones = sorted(zone for zone in available_timezones() if "/" in zone)
    figures.add("windows of every zone", {"zones": len(zones), "windows": compare_periods(zones)})


async def test_windows_of_zones_to_the_second(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """BUD-01: days of 23, 24.5 and 25 hours, 29 February, ends of months and years."""
    async with house(durable, tmp_path) as home:
        await pass_edges(home, edges_of(DAYS), figures)


@pytest.mark.long
async def test_windows_of_more_zones_and_years(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """BUD-01: clocks that change at midnight, zones of three quarters, 2100 without a leap day."""
    async with house(durable, tmp_path) as home:
        await pass_edges(home, edges_of(MORE_DAYS), figures)
