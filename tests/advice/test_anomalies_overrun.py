"""Projected overrun: with evidence, by the slower pace, and never without cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.advice.anomalies import Anomaly
from farebox.advice.anomalies_overrun import (
    Budget,
    RecentUse,
    is_worth_projecting,
    looked_back,
    projected_overrun,
    recent_since,
)
from farebox.ledger.limits import Effect, Measure, Period, Rule
from farebox.ledger.scopes import ScopeKind

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def budget(used: int, maximum: int = 300, **changes: Any) -> Budget:
    """A month's budget of the organisation."""
    rule = {"measure": Measure.MONEY, "period": Period.MONTH, "effect": Effect.HARD}
    of_rule = {name: changes.pop(name) for name in tuple(changes) if name in rule}
    values: dict[str, Any] = {
        "scope_kind": ScopeKind.ORGANIZATION,
        "scope_ref": "ab" * 16,
        "rule": Rule(**(rule | of_rule), maximum=maximum, owner="lea"),
        "maximum": maximum,
        "used": used,
        "starts_at": START,
        "ends_at": END,
    }
    return Budget(**(values | changes))


def found(of: Budget, at: datetime, recent: RecentUse | None) -> Anomaly | None:
    """The finding, if the budget is worth one."""
    return projected_overrun(of, recent, at) if is_worth_projecting(of, at) else None


def test_a_pace_that_passes_the_budget_is_told_with_its_figures() -> None:
    """BUD: 120 of 300 in ten of thirty days: 12 a day, 360 in all, reached on the 26th."""
    at = START + 10 * DAY
    anomaly = found(budget(120), at, RecentUse(START, 84))
    assert anomaly is not None
    assert anomaly.period_start == START
    assert anomaly.facts["pace_per_day"] == "12"
    assert anomaly.facts["projected"] == "360"
    assert anomaly.facts["reached_at"] == (START + 25 * DAY).isoformat()
    assert anomaly.facts["owner"] == "lea"


@pytest.mark.parametrize(
    ("used", "recent", "at", "why"),
    [
        (100, RecentUse(START, 70), START + 10 * DAY, "exactly the budget is no overrun"),
        (120, RecentUse(START, 7), START + 10 * DAY, "it was dear long ago and is slow now"),
        (40, RecentUse(START, 40), START + 10 * DAY, "one dear week, and the window's pace is low"),
        (299, RecentUse(START, 0), START + 10 * DAY, "nobody spends any more"),
        (40, RecentUse(START, 40), START + 2 * DAY, "two days of thirty are no evidence"),
        (29, RecentUse(START, 29), START + 4 * DAY, "a tenth of the budget at least"),
        (300, RecentUse(START, 70), START + 10 * DAY, "what is used up is told by thresholds"),
        (120, RecentUse(None, 0), START + 10 * DAY, "nobody knows when it began"),
    ],
)
def test_nothing_is_told_without_cause(
    used: int, recent: RecentUse, at: datetime, why: str
) -> None:
    """No false alarm."""
    assert found(budget(used), at, recent) is None, why


def test_a_pace_begins_with_the_first_use() -> None:
    """Somebody who began on the 25th spends what they spend, not a twenty-fifth of it."""
    began = START + 24 * DAY
    assert found(budget(200), began + HOUR * 12, RecentUse(began, 200)) is None
    anomaly = found(budget(200), began + 3 * DAY, RecentUse(began, 200))
    assert anomaly is not None
    assert anomaly.facts["projected"] == "400"


@pytest.mark.parametrize(
    "changes",
    [
        {"measure": Measure.PARALLEL, "period": Period.TOTAL},
        {"measure": Measure.SECONDS, "period": Period.TOTAL},
        {"period": Period.MINUTE},
        {"period": Period.UTC_DAY},
        {"effect": Effect.SHADOW},
        {"effect": Effect.STOP},
        {"scope_kind": ScopeKind.USER, "starts_at": None, "ends_at": None, "period": Period.TOTAL},
        {"maximum": 0},
    ],
)
def test_only_budgets_are_projected(changes: dict[str, Any]) -> None:
    """Rates, parallel calls, shadows, stops, and totals that nobody knows the beginning of."""
    assert not is_worth_projecting(budget(120, **changes), START + 10 * DAY)


def test_a_total_is_projected_for_a_week() -> None:
    """It has no end; a day of use is the least evidence."""
    endless = budget(
        200, period=Period.TOTAL, starts_at=None, ends_at=None, scope_kind=ScopeKind.PROJECT
    )
    at = START + 10 * DAY
    assert found(endless, at, RecentUse(at - DAY * 10, 140)) is not None
    assert found(endless, at, RecentUse(at - DAY * 10, 90)) is None
    assert found(endless, at, RecentUse(at - HOUR * 20, 140)) is None
    assert found(endless, at, None) is None


def test_users_are_projected_by_the_window_alone() -> None:
    """Rollups do not know them."""
    mine = budget(120, scope_kind=ScopeKind.USER, scope_ref="ada")
    assert found(mine, START + 10 * DAY, None) is not None
    assert found(mine, START + 15 * DAY, None) is None


@pytest.mark.parametrize(
    ("period", "end", "at", "since"),
    [
        (Period.MONTH, END, START + 10 * DAY, START + 3 * DAY),
        (Period.MONTH, END, START + 2 * DAY, START),
        (Period.WEEK, START + 7 * DAY, START + 6 * DAY, START + 4 * DAY + HOUR * 6),
        (Period.DAY, START + DAY, START + HOUR * 20, START + HOUR * 14),
    ],
)
def test_lately_is_a_quarter_of_the_window(
    period: Period, end: datetime, at: datetime, since: datetime
) -> None:
    """At most a week, at least six hours, never before the window."""
    of = budget(1, period=period, ends_at=end)
    assert recent_since(of, at) == since
    assert looked_back(of, at) == START
    endless = budget(1, period=Period.TOTAL, starts_at=None, ends_at=None)
    assert recent_since(endless, at) == at - 7 * DAY


@given(
    pace=st.integers(1, 10**9),
    minutes=st.integers(1, 30 * 24 * 60 - 1),
    percent=st.integers(100, 1_000),
)
def test_a_steady_pace_within_the_budget_is_never_told(
    pace: int, minutes: int, percent: int
) -> None:
    """No false alarm, whatever the pace and the time: used grows evenly from the beginning."""
    at = START + timedelta(minutes=minutes)
    whole = 30 * 24 * 60
    used = pace * minutes
    of = budget(used, maximum=pace * whole * percent // 100)
    lately = pace * ((at - recent_since(of, at)) // timedelta(minutes=1))
    assert found(of, at, RecentUse(START, lately)) is None
