"""Windows of limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.ledger.counters import Counters
from farebox.ledger.limits import (
    WINDOW_KEPT,
    Period,
    Rule,
    ScopeLimits,
    Window,
    instant,
    micros,
    window_bounds,
)
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import MICRO, NOON

ORG = UUID(int=1)
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "America/St_Johns")
INSTANTS = st.datetimes(
    datetime(2005, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2060, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def standing(scope: ScopeLimits, now: datetime, zone: str) -> Window:
    """The window of the scope's one rule at an instant, and what is kept of the others."""
    counters = Counters(ORG, [scope], now=now, zone=zone)
    kept = counters.scope(scope.kind, scope.ref)
    (found,) = counters.standing_in(kept)
    scope.windows = kept.windows
    return found.window


def scope_of(period: Period) -> ScopeLimits:
    """A scope with one limit and nothing counted."""
    rule = Rule(period=period, maximum=5)
    return ScopeLimits(ORG, ScopeKind.USER, "ada", (rule,), {})


@given(
    st.lists(INSTANTS, min_size=1, max_size=8).map(sorted),
    st.sampled_from(ZONES),
    st.sampled_from(Period),
)
def test_every_instant_finds_its_own_window(
    instants: list[datetime], zone: str, period: Period
) -> None:
    """BUD-01: the same window again for the same period, and never two that overlap."""
    scope = scope_of(period)
    (rule,) = scope.rules
    for now in instants:
        window = standing(scope, now, zone)
        assert window.start <= micros(now) < window.end
        assert (window.start, window.end) == window_bounds(rule, now, zone)
        assert standing(scope, now, zone) == window
        kept = scope.windows[rule.number]
        assert len({w.start for w in kept}) == len(kept)
        assert all(a.end <= b.start for a, b in pairwise(kept))


@pytest.mark.parametrize(("early", "months"), [(MICRO, [3, 5]), (0 * MICRO, [5])])
def test_a_window_is_kept_as_long_as_an_answer_may_be_late(
    early: timedelta, months: list[int]
) -> None:
    """BUD-01: 35 days past its end, to the microsecond; and longer while a hold is open in it."""
    for held in (0, 1):
        scope = scope_of(Period.MONTH)
        window = standing(scope, NOON, "UTC")
        scope.windows[scope.rules[0].number][0].held = held
        standing(scope, instant(window.end) + WINDOW_KEPT - early, "UTC")
        kept = [instant(w.start).month for w in scope.windows[scope.rules[0].number]]
        assert kept == ([3, 5] if held else months)


def test_a_rate_forgets_a_window_when_it_is_over() -> None:
    """LIM-01: a minute that has passed decides nothing any more, unless a call is open in it."""
    for held in (0, 1):
        scope = scope_of(Period.MINUTE)
        standing(scope, NOON, "UTC")
        scope.windows[scope.rules[0].number][0].held = held
        standing(scope, NOON + timedelta(minutes=1), "UTC")
        assert len(scope.windows[scope.rules[0].number]) == 1 + held
