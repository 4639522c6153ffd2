"""Calendar arithmetic that money depends on: when credit expires and where a budget month begins.

Everything takes and gives aware UTC datetimes; a zone is an IANA name.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from farebox.kit.errors import InvalidInputError


def one_year_after(instant: datetime) -> datetime:
    """The same UTC wall time one calendar year later (CRD-02).

    A purchase on 29 February expires on 1 March, so that nobody gets less than a full year.

    >>> one_year_after(datetime(2028, 2, 29, 15, tzinfo=UTC)).isoformat()
    '2029-03-01T15:00:00+00:00'
    """
    utc = instant.astimezone(UTC)
    if (utc.month, utc.day) == (2, 29):
        return utc.replace(year=utc.year + 1, month=3, day=1)
    return utc.replace(year=utc.year + 1)


def months_after(instant: datetime, months: int) -> datetime:
    """The same UTC wall time some months later, clamped to the month's last day (CRD-04).

    >>> months_after(datetime(2026, 1, 31, tzinfo=UTC), 1).date().isoformat()
    '2026-02-28'
    """
    utc = instant.astimezone(UTC)
    years, month0 = divmod(utc.month - 1 + months, 12)
    year = utc.year + years
    for day in range(utc.day, 27, -1):
        try:
            return utc.replace(year=year, month=month0 + 1, day=day)
        except ValueError:  # that month is shorter
            continue
    return utc.replace(year=year, month=month0 + 1)


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The IANA zone of that name.

    Raises:
        InvalidInputError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        reason = f"must be an IANA time zone such as UTC or Europe/Berlin (got {name[:40]!r})"
        raise InvalidInputError("zone", reason) from error


def month_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the calendar month of ``instant`` began in that zone (BUD-01)."""
    return _first_instant(_month_number(instant, zone_name), zone_name)


def next_month_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the next calendar month begins in that zone."""
    return _first_instant(_month_number(instant, zone_name) + 1, zone_name)


def _month_number(instant: datetime, zone_name: str) -> int:
    """Months since year zero of the month that the instant lies in.

    Where clocks go back over the midnight that begins a month (St John's did at 00:01), the month
    has begun at the first of the two midnights: a repeated evening belongs to the new month, so
    that months never overlap and every instant lies in exactly one.
    """
    local = instant.astimezone(zone(zone_name))
    number = local.year * 12 + local.month - 1
    return number + 1 if _first_instant(number + 1, zone_name) <= instant else number


def _first_instant(month_number: int, zone_name: str) -> datetime:
    year, month0 = divmod(month_number, 12)
    return datetime(year, month0 + 1, 1, tzinfo=zone(zone_name)).astimezone(UTC)


def day_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the calendar day of ``instant`` began in that zone."""
    return _day_begin(_day_number(instant, zone_name), zone_name)


def next_day_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the next calendar day begins in that zone."""
    return _day_begin(_day_number(instant, zone_name) + 1, zone_name)


def week_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the week of ``instant``, from Monday, began in that zone.

    >>> week_start(datetime(2026, 11, 22, 23, tzinfo=UTC), "UTC").date().isoformat()
    '2026-11-16'
    """
    return _day_begin(_monday(instant, zone_name), zone_name)


def next_week_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the next week begins in that zone."""
    return _day_begin(_monday(instant, zone_name) + DAYS_IN_WEEK, zone_name)


DAYS_IN_WEEK: Final = 7


def _monday(instant: datetime, zone_name: str) -> int:
    day = _day_number(instant, zone_name)
    return day - (day - 1) % DAYS_IN_WEEK  # day 1 of the calendar was a Monday


def _day_number(instant: datetime, zone_name: str) -> int:
    """Days since year one; an hour repeated over midnight is the new day's, as with months."""
    number = instant.astimezone(zone(zone_name)).toordinal()
    return number + 1 if _day_begin(number + 1, zone_name) <= instant else number


def _day_begin(number: int, zone_name: str) -> datetime:
    day = date.fromordinal(number)
    return datetime(day.year, day.month, day.day, tzinfo=zone(zone_name)).astimezone(UTC)


def hour_start(instant: datetime) -> datetime:
    """The UTC hour that the instant lies in."""
    return instant.replace(minute=0, second=0, microsecond=0)
