"""Windows of limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from farebox.ledger.counters import NOTHING, Counters
from farebox.ledger.limits import (
    ALWAYS_END,
    ALWAYS_START,
    WINDOW_KEPT,
    Effect,
    Measure,
    Origin,
    Period,
    Rule,
    ScopeLimits,
    Window,
    instant,
    micros,
    rule_number,
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
    counters.hold([found], NOTHING)
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


@pytest.mark.parametrize("period", Period)
def test_a_rule_that_counts_from_an_instant_begins_its_first_window_there(period: Period) -> None:
    """BUD-14: a default counts nothing that came before it; its next windows are whole."""
    began = NOON + timedelta(seconds=7)
    rule = Rule(period=period, maximum=5, counts_from=began)
    whole = Rule(period=period, maximum=5)
    start, end = window_bounds(rule, began, "UTC")
    assert (start, end) == (micros(began), window_bounds(whole, began, "UTC")[1])
    if period is not Period.TOTAL:
        assert window_bounds(rule, instant(end), "UTC") == window_bounds(whole, instant(end), "UTC")


def test_windows_from_before_a_rule_counts_are_forgotten() -> None:
    """BUD-14: a default that was set again never meets its old windows, be calls open in them."""
    scope = scope_of(Period.MONTH)
    standing(scope, NOON, "UTC")
    scope.windows[scope.rules[0].number][0].held = 1
    later = NOON + timedelta(hours=1)
    scope.rules = (Rule(period=Period.MONTH, maximum=5, counts_from=later),)
    assert standing(scope, later, "UTC").start == micros(later)
    (kept,) = scope.windows[scope.rules[0].number]
    assert (kept.start, kept.held) == (micros(later), 0)


@pytest.mark.parametrize(
    ("models", "counted", "others"),
    [
        ("", ["", "gpt-5", "o3"], []),
        ("gpt-5", ["gpt-5"], ["", "gpt-5.4", "gpt", "GPT-5"]),
        ("gpt-5*", ["gpt-5", "gpt-5.4", "gpt-50"], ["", "gpt-", "o3", "a gpt-5"]),
        ("*", ["", "gpt-5", "o3"], []),
        ("g*t*", ["g*t-5"], ["gpt", "g"]),
    ],
)
def test_a_rule_names_a_model_or_the_beginning_of_one(
    models: str, counted: list[str], others: list[str]
) -> None:
    """BUD-13: exact, or everything that begins so; no other pattern."""
    rule = Rule(models=models, maximum=5)
    assert [rule.counts(name) for name in counted] == [True] * len(counted)
    assert [rule.counts(name) for name in others] == [False] * len(others)


def test_a_temporary_maximum_holds_until_its_instant() -> None:
    """BUD-16: to the microsecond; without an end it holds on."""
    rule = Rule(maximum=5, raised_to=9, raised_until=NOON)
    assert [rule.maximum_at(NOON - MICRO), rule.maximum_at(NOON)] == [9, 5]
    assert Rule(maximum=5, raised_to=9).maximum_at(NOON) == 9
    dated = Rule(maximum=5, raised_to=9, raised_from=NOON, raised_until=NOON + MICRO)
    assert [dated.maximum_at(NOON + n * MICRO) for n in (-1, 0, 1)] == [5, 9, 5]
    assert Rule(maximum=5, raised_until=NOON).maximum_at(NOON - MICRO) == 5


def test_every_rule_of_a_scope_has_a_number_of_its_own() -> None:
    """BUD-04: measure, period, effect, models and origin tell them apart."""
    numbers = [
        rule_number(*which)
        for which in product(Measure, Period, Effect, ("", "gpt-5", "gpt-5*"), Origin)
    ]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)
    rule = Rule(
        measure=Measure.CALLS, period=Period.DAY, effect=Effect.ALERT, models="o3", maximum=1
    )
    assert rule.number == rule_number("calls", "day", "alert", "o3")
    of_tier = structs.replace(rule, origin=Origin.TIER)
    assert of_tier.number == rule_number("calls", "day", "alert", "o3", "tier")
    scope = ScopeLimits(ORG, ScopeKind.USER, "ada", (rule,), {})
    assert scope.rule(rule.number) is rule
    assert scope.rule(rule_number("calls", "day", "hard", "o3")) is None


def test_defaults_and_allocations_are_everybodys() -> None:
    """CRD-21, BUD-14: every call must know them, whoever it is for; other limits only their own."""
    plain = Rule(maximum=1)
    share = Rule(maximum=1, effect=Effect.ALLOCATION)
    assert ScopeLimits(ORG, ScopeKind.USER, "", (plain,), {}).is_everywhere
    assert ScopeLimits(ORG, ScopeKind.PROJECT, "a", (plain, share), {}).is_everywhere
    assert not ScopeLimits(ORG, ScopeKind.PROJECT, "a", (plain,), {}).is_everywhere


@given(INSTANTS)
def test_an_instant_in_microseconds_is_the_same_instant(at: datetime) -> None:
    """ENGINE "Limits": windows are compared as whole numbers, exactly."""
    assert instant(micros(at)) == at


def test_the_window_of_everything_has_no_outside() -> None:
    """BUD-12: a total limit's one window holds every instant that can be."""
    assert window_bounds(Rule(period=Period.TOTAL, maximum=1), NOON, "UTC") == (
        ALWAYS_START,
        ALWAYS_END,
    )
    assert instant(ALWAYS_END).year == 9999
