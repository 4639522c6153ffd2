"""What is usual, and what is far above it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from farebox.advice.anomalies import AlertSettings
from farebox.advice.anomalies_spending import (
    ByHour,
    Spender,
    Spent,
    first_hour_of_day,
    may_be_unusual,
    unusual_day,
    unusual_hour,
    usual_day,
    usual_hour,
)
from farebox.kit.money import NANOS_PER_UNIT, Nanos

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WHO = Spender("key", "ab" * 16)


def steady(amount: int, hours: int) -> dict[datetime, int]:
    """The same in each hour before."""
    return {NOON - HOUR * back: amount for back in range(1, hours + 1)}


@pytest.mark.parametrize(
    ("history", "usual"),
    [
        ({}, None),
        (steady(7, 71), None),
        (steady(7, 72), 7),
        (steady(7, 24 * 28), 7),
        ({NOON - DAY * back: 9 for back in range(1, 15)}, 9),  # one hour a day
        ({NOON - DAY * back + HOUR: 9 for back in range(1, 15)}, 9),  # another hour, as much
        (steady(1, 24 * 27) | {NOON - DAY * 7 * back: 60 for back in (1, 2, 3)}, 60),
        (steady(1, 24 * 13) | {NOON - DAY * 7: 60}, 1),  # one week is no habit
        ({NOON: 5, NOON + HOUR: 6}, None),  # what comes later says nothing
    ],
)
def test_what_an_hour_usually_costs(history: ByHour, usual: int | None) -> None:
    """ANO-02: the largest of three medians: this hour on other days, on this weekday, any hour."""
    assert usual_hour(history, NOON) == usual


@pytest.mark.parametrize(
    ("history", "usual"),
    [
        ({}, None),
        (steady(1, 60), None),
        (steady(1, 24 * 14), 24),
        ({NOON - DAY * back: 9 for back in (3, 4)}, 9),  # days without calls count as nothing
        (steady(1, 24 * 27) | {NOON - DAY * 7 * back: 600 for back in (1, 2, 3)}, 623),
        ({NOON + HOUR: 6}, None),
    ],
)
def test_what_a_day_usually_costs(history: ByHour, usual: int | None) -> None:
    """BUD-15: by the days of the zone."""
    assert usual_day(history, NOON, "UTC") == usual


def test_days_are_those_of_the_zone() -> None:
    """BUD-15: an hour belongs to the local day that it begins in."""
    late = {NOON.replace(hour=20) - DAY * back: 5 for back in range(1, 8)}
    assert usual_day(late, NOON, "Asia/Tokyo") == 5
    midnight = datetime(2026, 11, 18, 18, 40, tzinfo=UTC)
    assert first_hour_of_day(midnight, "Asia/Kolkata") == midnight.replace(hour=19, minute=0)
    assert first_hour_of_day(midnight, "UTC") == midnight.replace(hour=0, minute=0)


@pytest.mark.parametrize(
    ("hour", "usual", "is_flagged"),
    [
        (300, 100, True),
        (299, 100, False),
        (50, 0, True),
        (49, 0, False),  # under the minimum
        (149, 100, False),
        (300, None, False),
    ],
)
def test_far_above_is_so_many_times_and_so_much_more(
    hour: int, usual: int | None, is_flagged: bool
) -> None:
    """ANO-02, BUD-15: k times the usual, and an amount that matters."""
    settings = AlertSettings(hour_minimum=Nanos(50), day_minimum=Nanos(50))
    spent = Spent(WHO, hour, hour, 3)
    flagged = [
        unusual_hour(spent, usual, settings, NOON) is not None,
        unusual_day(spent, usual, settings, NOON, "UTC") is not None,
    ]
    assert flagged == [is_flagged, is_flagged]


def test_nobody_asks_what_is_usual_for_cents() -> None:
    """ANO-02: history is read only of those who spend enough to be told of."""
    settings = AlertSettings()
    assert may_be_unusual(Spent(WHO, 0, 0, 0), settings) == (False, False)
    cents = NANOS_PER_UNIT * 19 // 10
    assert may_be_unusual(Spent(WHO, cents, cents, 1), settings) == (False, False)
    assert may_be_unusual(Spent(WHO, 3 * NANOS_PER_UNIT, 6 * NANOS_PER_UNIT, 1), settings) == (
        True,
        True,
    )
    free = AlertSettings(hour_minimum=Nanos(0), day_minimum=Nanos(0))
    assert may_be_unusual(Spent(WHO, 0, 1, 0), free) == (False, True)
