"""Where a calendar's windows begin and end, found without any arithmetic of dates.

The instants of a quarter of an hour all have the same date in every zone of today. So a window is
looked for one quarter at a time: as far back and forth as the zone's own clock on the wall still
shows the same day, week or month. Nothing of ``farebox.kit.periods`` is used.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER = timedelta(minutes=15)

ALWAYS = (0, 253_370_764_800_000_000)
"""The one window of what never begins anew, as the counters keep it."""

UTC_PERIODS = {"minute": 60_000_000, "utc_day": 86_400_000_000}
"""Windows that no zone moves, and their length in microseconds."""


def window(period: str, at: int, zone: str) -> tuple[int, int]:
    """The window that an instant lies in; everything in microseconds since 1970."""
    if period == "total":
        return ALWAYS
    if period in UTC_PERIODS:
        length = UTC_PERIODS[period]
        return at // length * length, at // length * length + length
    quarter = at // 900_000_000
    start, end = _around(period, quarter, zone)
    return _micros(start), _micros(end)


@lru_cache(maxsize=1 << 14)
def _around(period: str, quarter: int, zone: str) -> tuple[datetime, datetime]:
    here = _EPOCH + quarter * _QUARTER
    return _edge(period, here, zone, -_QUARTER), _edge(period, here, zone, _QUARTER) + _QUARTER


def _edge(period: str, here: datetime, zone: str, step: timedelta) -> datetime:
    """The last quarter in one direction that shows the same day, week or month."""
    wanted, at = _shown(period, here, zone), here
    for stride in (step * 96, step):
        while _shown(period, at + stride, zone) == wanted:
            at += stride
    return at


def _shown(period: str, at: datetime, zone: str) -> object:
    local = at.astimezone(ZoneInfo(zone))
    match period:
        case "day":
            return local.date()
        case "week":
            return local.isocalendar()[:2]
        case "month":
            return local.year, local.month
        case _:
            raise AssertionError(period)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
