"""Calendar arithmetic: years, months, zones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.kit.periods import (
    day_start,
    hour_start,
    month_start,
    months_after,
    next_day_start,
    next_month_start,
    next_week_start,
    one_year_after,
    week_start,
    zone,
)

MICRO = timedelta(microseconds=1)
INSTANTS = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def utc(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("bought", "ends"),
    [
        ("2027-03-10 12:34:56.789012", "2028-03-10 12:34:56.789012"),
        ("2027-12-31 23:59:59.999999", "2028-12-31 23:59:59.999999"),
        ("2028-02-28 00:00", "2029-02-28 00:00"),
        ("2028-02-29 00:00", "2029-03-01 00:00"),
        ("2028-02-29 23:59:59.999999", "2029-03-01 23:59:59.999999"),
        ("2027-02-28 15:00", "2028-02-28 15:00"),
        ("2096-02-29 15:00", "2097-03-01 15:00"),
    ],
)
def test_a_year_is_the_same_wall_time_next_year(bought: str, ends: str) -> None:
    """CRD-02: one calendar year to the microsecond; 29 February goes on to 1 March."""
    assert one_year_after(utc(bought)) == utc(ends)


@given(INSTANTS)
def test_a_year_is_never_less_than_365_days(bought: datetime) -> None:
    """CRD-02: nobody gets less than a full year, whatever the day."""
    assert timedelta(days=365) <= one_year_after(bought) - bought <= timedelta(days=366)


def test_a_year_is_counted_in_utc() -> None:
    """CRD-02: the wall time is UTC's, also for an instant given in another zone."""
    tokyo = datetime(2028, 3, 1, 5, tzinfo=timezone(timedelta(hours=9)))
    assert one_year_after(tokyo) == utc("2029-03-01 20:00")


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2026-01-31", 1, "2026-02-28"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2026-01-30", 1, "2026-02-28"),
        ("2026-08-31", 6, "2027-02-28"),
        ("2026-05-31", 6, "2026-11-30"),
        ("2026-12-15", 1, "2027-01-15"),
        ("2026-06-15", 12, "2027-06-15"),
        ("2026-03-31", -1, "2026-02-28"),
        ("2026-01-27", -1, "2025-12-27"),
    ],
)
def test_months_are_clamped_to_the_last_day(start: str, months: int, end: str) -> None:
    """CRD-04: so many calendar months later, on the month's last day where it is shorter."""
    assert months_after(utc(start), months) == utc(end)


@pytest.mark.parametrize(
    ("zone_name", "instant", "start", "end"),
    [
        ("UTC", "2027-03-10 12:00", "2027-03-01 00:00", "2027-04-01 00:00"),
        ("UTC", "2027-12-31 23:59:59.999999", "2027-12-01 00:00", "2028-01-01 00:00"),
        # Winter time at one end, summer time at the other.
        ("America/New_York", "2027-03-10 12:00", "2027-03-01 05:00", "2027-04-01 04:00"),
        ("America/New_York", "2027-11-10 12:00", "2027-11-01 04:00", "2027-12-01 05:00"),
        ("America/New_York", "2027-11-01 03:59:59.999999", "2027-10-01 04:00", "2027-11-01 04:00"),
        ("America/New_York", "2027-11-01 04:00", "2027-11-01 04:00", "2027-12-01 05:00"),
        # The hour that comes twice.
        ("America/New_York", "2027-11-07 05:30", "2027-11-01 04:00", "2027-12-01 05:00"),
        ("America/New_York", "2027-11-07 06:30", "2027-11-01 04:00", "2027-12-01 05:00"),
        # Half an hour off.
        ("Asia/Kolkata", "2027-02-28 18:29:59.999999", "2027-01-31 18:30", "2027-02-28 18:30"),
        ("Asia/Kolkata", "2027-02-28 18:30", "2027-02-28 18:30", "2027-03-31 18:30"),
        # Thirteen hours ahead; and the month in which Samoa left out its 30th day.
        ("Pacific/Apia", "2027-12-31 10:59:59.999999", "2027-11-30 11:00", "2027-12-31 11:00"),
        ("Pacific/Apia", "2027-12-31 11:00", "2027-12-31 11:00", "2028-01-31 11:00"),
        ("Pacific/Apia", "2011-12-30 09:59:59.999999", "2011-12-01 10:00", "2011-12-31 10:00"),
        # Clocks went back at 00:01 on the first of the month: the evening before came twice.
        ("America/St_Johns", "2009-11-01 02:29:59.999999", "2009-10-01 02:30", "2009-11-01 02:30"),
        ("America/St_Johns", "2009-11-01 02:30:30", "2009-11-01 02:30", "2009-12-01 03:30"),
        ("America/St_Johns", "2009-11-01 03:00", "2009-11-01 02:30", "2009-12-01 03:30"),
    ],
)
def test_a_month_begins_at_local_midnight(
    zone_name: str, instant: str, start: str, end: str
) -> None:
    """BUD-01: a budget month is the calendar month of the organisation's zone."""
    assert month_start(utc(instant), zone_name) == utc(start)
    assert next_month_start(utc(instant), zone_name) == utc(end)


@given(INSTANTS, st.sampled_from(sorted(available_timezones())))
@example(datetime(2009, 11, 1, 3, tzinfo=UTC), "America/St_Johns")
@example(datetime(2011, 12, 30, 12, tzinfo=UTC), "Pacific/Apia")
def test_every_instant_lies_in_one_month(instant: datetime, zone_name: str) -> None:
    """BUD-01: in every zone the months follow each other without gap or overlap."""
    start, end = month_start(instant, zone_name), next_month_start(instant, zone_name)
    assert start <= instant < end
    for inside in (start, end - MICRO):
        assert month_start(inside, zone_name) == start
        assert next_month_start(inside, zone_name) == end
    assert month_start(end, zone_name) == end


DAYS = """
# zone               instant                      day's beginning    and its end
UTC                  2027-03-10T23:59:59.999999   2027-03-10T00:00   2027-03-11T00:00
Asia/Kolkata         2027-03-10T18:29:59.999999   2027-03-09T18:30   2027-03-10T18:30
Asia/Kolkata         2027-03-10T18:30             2027-03-10T18:30   2027-03-11T18:30
# A day of 23 hours and one of 25.
America/New_York     2027-03-14T12:00             2027-03-14T05:00   2027-03-15T04:00
America/New_York     2027-11-07T12:00             2027-11-07T04:00   2027-11-08T05:00
# Clocks went on over midnight: the day began at one o'clock.
America/Havana       2027-03-14T04:59:59.999999   2027-03-13T05:00   2027-03-14T05:00
America/Havana       2027-03-14T05:00             2027-03-14T05:00   2027-03-15T04:00
America/Sao_Paulo    2017-10-15T02:59:59.999999   2017-10-14T03:00   2017-10-15T03:00
America/Sao_Paulo    2017-10-15T03:00             2017-10-15T03:00   2017-10-16T02:00
# Clocks went back at midnight to 23: the day ended with the second of them.
America/Sao_Paulo    2018-02-18T01:59:59.999999   2018-02-17T02:00   2018-02-18T03:00
America/Sao_Paulo    2018-02-18T02:30             2018-02-17T02:00   2018-02-18T03:00
# Clocks went back at one to midnight: the day began with the first of them.
America/Havana       2027-11-07T04:30             2027-11-07T04:00   2027-11-08T05:00
America/Havana       2027-11-07T05:30             2027-11-07T04:00   2027-11-08T05:00
# Clocks went back at 00:01: the evening that came twice is the new day's.
America/St_Johns     2009-11-01T02:29:59.999999   2009-10-31T02:30   2009-11-01T02:30
America/St_Johns     2009-11-01T02:30:30          2009-11-01T02:30   2009-11-02T03:30
America/St_Johns     2009-11-01T03:00             2009-11-01T02:30   2009-11-02T03:30
# Samoa went from the 29th to the 31st, and Kwajalein from the 20th to the 22nd.
Pacific/Apia         2011-12-30T09:59:59.999999   2011-12-29T10:00   2011-12-30T10:00
Pacific/Apia         2011-12-30T10:00             2011-12-30T10:00   2011-12-31T10:00
Pacific/Kwajalein    1993-08-21T11:59:59.999999   1993-08-20T12:00   1993-08-21T12:00
Pacific/Kwajalein    1993-08-21T12:00             1993-08-21T12:00   1993-08-22T12:00
"""


@pytest.mark.parametrize("row", [r for r in DAYS.strip().splitlines() if "#" not in r])
def test_a_day_begins_at_local_midnight(row: str) -> None:
    """BUD-01: a budget day is the calendar day of the organisation's zone."""
    zone_name, instant, start, end = row.split()
    assert day_start(utc(instant), zone_name) == utc(start)
    assert next_day_start(utc(instant), zone_name) == utc(end)


WEEKS = """
# zone               instant                      week's beginning   and its end
UTC                  2027-03-10T12:00             2027-03-08T00:00   2027-03-15T00:00
UTC                  2027-03-14T23:59:59.999999   2027-03-08T00:00   2027-03-15T00:00
UTC                  2027-03-15T00:00             2027-03-15T00:00   2027-03-22T00:00
Asia/Kolkata         2027-03-14T18:29:59.999999   2027-03-07T18:30   2027-03-14T18:30
Asia/Kolkata         2027-03-14T18:30             2027-03-14T18:30   2027-03-21T18:30
# An hour less and an hour more.
America/New_York     2027-03-10T12:00             2027-03-08T05:00   2027-03-15T04:00
America/New_York     2027-11-03T12:00             2027-11-01T04:00   2027-11-08T05:00
# A week that left out its Friday.
Pacific/Apia         2011-12-30T10:00             2011-12-26T10:00   2012-01-01T10:00
# A week that ended with the Sunday of the repeated midnight.
America/St_Johns     2009-11-01T03:00             2009-10-26T02:30   2009-11-02T03:30
"""


@pytest.mark.parametrize("row", [r for r in WEEKS.strip().splitlines() if "#" not in r])
def test_a_week_begins_on_monday(row: str) -> None:
    """BUD-01: from Monday's local midnight to the next one's."""
    zone_name, instant, start, end = row.split()
    assert week_start(utc(instant), zone_name) == utc(start)
    assert next_week_start(utc(instant), zone_name) == utc(end)


@pytest.mark.parametrize(
    ("begins", "ends", "longest"),
    [
        (day_start, next_day_start, timedelta(days=2)),
        (week_start, next_week_start, timedelta(days=8)),
    ],
)
@given(INSTANTS, st.sampled_from(sorted(available_timezones())))
@example(datetime(2009, 11, 1, 3, tzinfo=UTC), "America/St_Johns")
@example(datetime(2011, 12, 30, 9, 59, tzinfo=UTC), "Pacific/Apia")
@example(datetime(2011, 12, 30, 10, tzinfo=UTC), "Pacific/Apia")
@example(datetime(1993, 8, 21, 12, tzinfo=UTC), "Kwajalein")
@example(datetime(2017, 10, 15, 3, tzinfo=UTC), "America/Sao_Paulo")
@example(datetime(2018, 2, 18, 2, tzinfo=UTC), "America/Sao_Paulo")
def test_every_instant_lies_in_one_day_and_one_week(
    begins: Callable[[datetime, str], datetime],
    ends: Callable[[datetime, str], datetime],
    longest: timedelta,
    instant: datetime,
    zone_name: str,
) -> None:
    """BUD-01: in every zone days and weeks follow each other without gap or overlap."""
    start, end = begins(instant, zone_name), ends(instant, zone_name)
    assert start <= instant < end
    assert end - start < longest
    for inside in (start, end - MICRO):
        assert begins(inside, zone_name) == start
        assert ends(inside, zone_name) == end
    assert begins(end, zone_name) == end


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "../etc/passwd",
        "/etc/passwd",
        "a\x00b",
        "America",
        "Z" * 5_000,
        "\ud800",
    ],
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    """BUD-01: a zone that is none is a clear error, whatever the text."""
    with pytest.raises(InvalidInputError, match="zone must be an IANA time zone") as caught:
        zone(name)
    assert len(caught.value.message) < 200


def test_an_hour_begins_on_the_hour() -> None:
    """DED-16: rollups are by the UTC hour."""
    assert hour_start(utc("2027-03-10 12:59:59.999999")) == utc("2027-03-10 12:00")
