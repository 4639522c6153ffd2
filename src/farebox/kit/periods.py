"""Calendar arithmetic that money depends on: when credit expires and where a budget month begins.

Everything takes and gives aware UTC datetimes; a zone is an IANA name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
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
    local = instant.astimezone(zone(zone_name))
    return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)


def next_month_start(instant: datetime, zone_name: str) -> datetime:
    """The UTC instant at which the next calendar month begins in that zone."""
    local = instant.astimezone(zone(zone_name))
    year, month0 = divmod(local.year * 12 + local.month, 12)
    return local.replace(
        year=year, month=month0 + 1, day=1, hour=0, minute=0, second=0, microsecond=0, fold=0
    ).astimezone(UTC)


def hour_start(instant: datetime) -> datetime:
    """The UTC hour that the instant lies in."""
    return instant.replace(minute=0, second=0, microsecond=0)
