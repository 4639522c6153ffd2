"""What people type after a flag."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from farebox.cli.reading import read_count, read_duration, read_instant
from farebox.kit.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        (" 2027-01-31T12:00:00.5Z ", datetime(2027, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_an_instant_has_a_zone_or_is_a_date(text: str, instant: datetime) -> None:
    """A date is its beginning in UTC; a time counts in its own zone."""
    assert read_instant(text, field="expires_at") == instant


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2027-02-30", "2027-01-31T12:00:00", "31.01.2027", "0001-01-01T00:00+23:00"],
)
def test_another_instant_is_refused(text: str) -> None:
    """A time without its zone would mean another instant on another machine."""
    with pytest.raises(InvalidInputError, match="expires_at must be a date"):
        read_instant(text, field="expires_at")


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12H", timedelta(hours=12)),
        ("31d", timedelta(days=31)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_duration_has_a_unit(text: str, length: timedelta) -> None:
    """Days are what a sandbox is mostly moved by."""
    assert read_duration(text, field="duration") == length


@pytest.mark.parametrize("text", ["", "31", "-1d", "0d", "1y", "99999d", "999999999w", "1.5d"])
def test_another_duration_is_refused(text: str) -> None:
    """Backwards, nothing, and ten years and more are slips."""
    with pytest.raises(InvalidInputError, match="duration"):
        read_duration(text, field="duration")


@pytest.mark.parametrize("text", ["", "x", "1.0", "-1", "11", "9" * 50, "\u0661"])
def test_a_count_is_a_plain_whole_number_within_bounds(text: str) -> None:
    """No sign, no fraction, no digits of other scripts."""
    assert read_count(" 1_0 ", field="limit", low=1, high=10) == 10
    with pytest.raises(InvalidInputError, match="limit"):
        read_count(text, field="limit", low=1, high=10)
