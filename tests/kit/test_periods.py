"""Calendar arithmetic: years, months, zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.kit.periods import (
    hour_start,
    month_start,
    months_after,
    next_month_start,
    one_year_after,
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
