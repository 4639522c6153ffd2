"""Spending far above what is usual, by the hour and by the day (ANO-02, BUD-15).

What is usual for an hour is the largest of three medians, so that neither a night nor a weekly job
looks like a surprise: the same hour of the day on the fourteen days before (a day without spending
counts as nothing), the same hour of the week in the four weeks before, and the hours of those
fourteen days that had any spending. A day goes by days: the fourteen before, the same weekday, the
days with spending. Fewer than three days of history say nothing.

The running hour (or day) is compared as it stands with a whole one, so its beginning raises no
alarm, and a rate of sixty times the usual is seen after a minute of the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from statistics import median_high
from typing import Final

import msgspec

from farebox.advice.anomalies import AlertSettings, Anomaly, AnomalyKind, is_many_times
from farebox.kit.periods import day_start, hour_start, zone

HISTORY_DAYS_MIN: Final = 3
"""Fewer whole days before do not say what is usual."""
DAYS: Final = 14
WEEKS: Final = 4
HISTORY: Final = timedelta(days=7 * WEEKS)
"""How far back spending is read."""

_WEEKS_MIN: Final = 2
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)

ByHour = Mapping[datetime, int]
"""Hour -> nanodollars; hours without spending are left out."""


class Spender(msgspec.Struct, frozen=True):
    """Whose spending it is."""

    kind: str
    """``organization``, ``project`` or ``key``."""
    ref: str
    """The id as 32 hex digits."""

    @property
    def subject(self) -> str:
        """The same as one text."""
        return f"{self.kind}:{self.ref}"


class Usual(msgspec.Struct, frozen=True):
    """What is usual for somebody; None where too little is known."""

    hour: int | None
    day: int | None


class Spent(msgspec.Struct, frozen=True):
    """What somebody has spent in the running hour and in the running day."""

    who: Spender
    hour: int
    day: int
    calls: int
    """Of the day."""


def usual_hour(history: ByHour, hour: datetime) -> int | None:
    """What an hour usually costs, in nanodollars; None where too little is known.

    Args:
        history: Of the :data:`HISTORY` before.
        hour: Its beginning.
    """
    before = {at: spent for at, spent in history.items() if at < hour and spent > 0}
    if not before:
        return None
    first = min(before)
    known = (hour - first) // _DAY
    if known < HISTORY_DAYS_MIN:
        return None
    days = [before.get(hour - _DAY * back, 0) for back in range(1, min(DAYS, known) + 1)]
    weeks = [before.get(hour - _DAY * 7 * back, 0) for back in range(1, min(WEEKS, known // 7) + 1)]
    active = [spent for at, spent in before.items() if at >= hour - _DAY * DAYS]
    return _largest_median(days, weeks, active)


def usual_day(history: ByHour, now: datetime, zone_name: str) -> int | None:
    """What a day of the organisation's zone usually costs; None where too little is known.

    An hour belongs to the day that it begins in.
    """
    today = _ordinal(now.replace(second=0, microsecond=0), zone_name)
    by_day: dict[int, int] = {}
    for hour, spent in history.items():
        day = _ordinal(hour, zone_name)
        if day < today and spent > 0:
            by_day[day] = by_day.get(day, 0) + spent
    if not by_day or (known := today - min(by_day)) < HISTORY_DAYS_MIN:
        return None
    days = [by_day.get(today - back, 0) for back in range(1, min(DAYS, known) + 1)]
    weeks = [by_day.get(today - 7 * back, 0) for back in range(1, min(WEEKS, known // 7) + 1)]
    active = [spent for day, spent in by_day.items() if day >= today - DAYS]
    return _largest_median(days, weeks, active)


def usual_of(history: ByHour, now: datetime, zone_name: str) -> Usual:
    """What the running hour and the running day usually cost."""
    return Usual(usual_hour(history, hour_start(now)), usual_day(history, now, zone_name))


def may_be_unusual(spent: Spent, settings: AlertSettings) -> tuple[bool, bool]:
    """Whether the running hour, and the running day, cost enough to ask what is usual."""
    return (
        spent.hour > 0 and spent.hour >= settings.hour_minimum,
        spent.day > 0 and spent.day >= settings.day_minimum,
    )


def unusual_hour(
    spent: Spent, usual: int | None, settings: AlertSettings, now: datetime
) -> Anomaly | None:
    """The finding that the running hour costs far more than such hours do."""
    hour = hour_start(now)
    if usual is None or spent.hour - usual < settings.hour_minimum:
        return None
    if not is_many_times(spent.hour, usual, settings.spending_times_percent):
        return None
    minutes = max(1, (now - hour) // timedelta(minutes=1))
    facts = _facts(spent, spent.hour, usual) | {
        "per_minute_nanos": str(spent.hour // minutes),
        "hour": hour.isoformat(),
    }
    return Anomaly(
        kind=AnomalyKind.SPEND_RATE, subject=spent.who.subject, period_start=hour, facts=facts
    )


def unusual_day(
    spent: Spent, usual: int | None, settings: AlertSettings, now: datetime, zone_name: str
) -> Anomaly | None:
    """The finding that the running day costs far more than days do."""
    if usual is None or spent.day - usual < settings.day_minimum:
        return None
    if not is_many_times(spent.day, usual, settings.spending_times_percent):
        return None
    begun = day_start(now, zone_name)
    facts = _facts(spent, spent.day, usual) | {
        "calls": str(spent.calls),
        "day": begun.astimezone(zone(zone_name)).date().isoformat(),
        "zone": zone_name,
    }
    return Anomaly(
        kind=AnomalyKind.DAILY_SPEND, subject=spent.who.subject, period_start=begun, facts=facts
    )


def first_hour_of_day(now: datetime, zone_name: str) -> datetime:
    """The first hour that begins in the running day."""
    begun = day_start(now, zone_name)
    hour = hour_start(begun)
    return hour if hour == begun else hour + _HOUR


def _largest_median(days: list[int], weeks: list[int], active: list[int]) -> int:
    known = [median_high(days)]
    if len(weeks) >= _WEEKS_MIN:
        known.append(median_high(weeks))
    if active:
        known.append(median_high(active))
    return max(known)


@lru_cache(maxsize=1 << 13)
def _ordinal(at: datetime, zone_name: str) -> int:
    return at.astimezone(zone(zone_name)).toordinal()


def _facts(spent: Spent, amount: int, usual: int) -> dict[str, str]:
    return {
        "scope_kind": spent.who.kind,
        "scope_ref": spent.who.ref,
        "spent_nanos": str(amount),
        "usual_nanos": str(usual),
    }
