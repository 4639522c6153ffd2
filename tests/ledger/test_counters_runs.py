"""Runs within runs, their time and depth, and limits that let calls wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from farebox.ledger.commands import Admitted
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import HOUR, MICRO, Scene

SECOND = timedelta(seconds=1)
ADA: dict[str, Any] = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}


def run(ref: str, measure: Measure = Measure.MONEY) -> dict[str, Any]:
    """A run's limit; without a name, every run's."""
    return {
        "scope_kind": ScopeKind.RUN,
        "scope_ref": ref,
        "measure": measure,
        "period": Period.TOTAL,
    }


def rich() -> Scene:
    """A scene in which money is no matter."""
    scene = Scene()
    scene.give("paid", 1_000_000, "purchased")
    return scene


def test_what_a_run_within_a_run_uses_its_parents_use_too() -> None:
    """BUD-12: a limit of the outer run binds every run below it; a name that only begins so not."""
    scene = rich()
    scene.set_limit(10, **run("a"))
    scene.set_limit(8, **run("a/b"))
    scene.hold("deep", 8, run="a/b/c")
    scene.charge("deep", 8)
    assert scene.refuse("deeper", 1, run="a/b").code == "run_spend_limit_exceeded"
    scene.hold("beside", 2, run="a/x")
    assert scene.refuse("outer", 1, run="a").code == "balance_held"
    scene.hold("other", 500, run="ab/c")
    assert [scene.counted(**run("a")), scene.counted(**run("a/b"))] == [(8, 2), (8, 0)]


def test_a_default_of_runs_holds_for_each_of_a_path() -> None:
    """BUD-12: every run has its own cap, and counts what happens inside it."""
    scene = rich()
    scene.set_limit(10, **run(""))
    scene.hold("one", 6, run="a/b")
    scene.hold("two", 4, run="a/c")
    assert scene.refuse("three", 1, run="a/d").limit is not None
    assert [scene.counted(**run(ref)) for ref in ("a", "a/b", "a/c")] == [(0, 10), (0, 6), (0, 4)]


def test_a_run_has_so_many_seconds_from_its_first_call() -> None:
    """BUD-12: wall time, whether calls are running or not; a running call may end."""
    scene = rich()
    limit = run("", Measure.SECONDS)
    scene.set_limit(60, **limit)
    scene.later(HOUR)
    scene.hold("first", 5, run="a")
    scene.later(60 * SECOND - MICRO)
    scene.hold("last", 5, run="a")
    scene.later(MICRO)
    refused = scene.refuse("late", 5, run="a")
    assert (refused.code, refused.blocked_by_holds) == ("run_time_limit_exceeded", False)
    assert refused.message == (
        "The run a's time limit is 60 seconds, and this call is at 60 seconds."
        " Start a new run, or raise the limit."
    )
    scene.hold("other run", 5, run="b")
    scene.run(scene.extend("last", 5))
    assert scene.charge("last", 10).charge == 10
    scene.set_limit(61, **limit)
    scene.hold("late", 5, run="a")


def test_a_runs_own_time_begins_with_its_next_call() -> None:
    """BUD-12: a limit that is set while the run is under way counts from then."""
    scene = rich()
    scene.hold("before", 5, run="a")
    scene.set_limit(10, **run("a", Measure.SECONDS))
    scene.later(HOUR)
    scene.hold("first", 5, run="a")
    scene.later(10 * SECOND)
    assert scene.refuse("second", 5, run="a").code == "run_time_limit_exceeded"
    scene.set_limit(None, **run("a", Measure.SECONDS))
    scene.hold("second", 5, run="a")


def test_a_run_has_so_many_levels_of_runs_below_it() -> None:
    """BUD-12: the call itself is at level zero of its own run."""
    scene = rich()
    scene.set_limit(2, **run("a", Measure.DEPTH))
    scene.hold("two", 5, run="a/b/c")
    refused = scene.refuse("three", 5, run="a/b/c/d")
    assert (refused.code, refused.blocked_by_holds) == ("run_depth_limit_exceeded", False)
    assert refused.limit is not None
    assert (refused.limit.used, refused.limit.maximum) == (3, 2)
    assert "depth limit is 2 levels, and this call is at 3 levels." in refused.message
    scene.charge("two", 5)
    scene.hold("again", 5, run="a/b/c")
    scene.set_limit(0, **run("", Measure.DEPTH))
    scene.hold("flat", 5, run="x")
    assert scene.refuse("nested", 5, run="x/y").code == "run_depth_limit_exceeded"


@pytest.mark.parametrize("measure", [Measure.SECONDS, Measure.DEPTH])
def test_what_is_only_seen_has_no_thresholds(measure: Measure) -> None:
    """BUD-06: nothing is counted up, so nothing reaches a percentage."""
    scene = rich()
    scene.set_limit(0, **run("a", measure), thresholds=(1,), effect=Effect.ALERT)
    scene.hold("one", 5, run="a/b")
    scene.charge("one", 5)
    assert scene.told("limit_threshold") == []


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"measure": Measure.TOKENS, "period": Period.MINUTE},
        {"measure": Measure.CALLS, "period": Period.MINUTE},
    ],
)
def test_a_throttled_call_may_wait_for_room(what: dict[str, Any]) -> None:
    """BUD-02, LIM-09: never passed, as a hard limit; but refused as something that comes back."""
    scene = rich()
    limit = ADA | what | {"effect": Effect.THROTTLE}
    scene.set_limit(1 if what.get("measure") is Measure.CALLS else 10, **limit)
    scene.one(scene.admit("one", 10, tokens=(10, 10), user="ada"), Admitted)
    if what:
        scene.charge("one", 10, tokens=10)
    refused = scene.refuse("two", 10, tokens=(10, 10), user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("rate_limit_exceeded", True)
    assert refused.limit is not None
    assert refused.limit.effect == "throttle"
    if what:
        scene.later(HOUR)
    else:
        assert refused.retry_after_seconds == 2
        scene.run(scene.release("one"))
    scene.one(scene.admit("two", 10, tokens=(10, 10), user="ada"), Admitted)


@pytest.mark.parametrize("measure", [Measure.MONEY, Measure.TOKENS, Measure.CALLS])
def test_what_is_used_up_until_its_window_turns_is_no_rate(measure: Measure) -> None:
    """LIM-04: a throttled budget that posted use has reached is final; nobody comes back for it."""
    scene = rich()
    maximum = 1 if measure is Measure.CALLS else 10
    scene.set_limit(maximum, **ADA, measure=measure, effect=Effect.THROTTLE)
    scene.one(scene.admit("one", 10, tokens=(10, 10), user="ada"), Admitted)
    scene.charge("one", 10, tokens=10)
    refused = scene.refuse("two", 10, tokens=(10, 10), user="ada")
    assert (
        refused.code
        == f"user_{'spend' if measure is Measure.MONEY else measure[:-1]}_limit_exceeded"
    )
    assert (refused.blocked_by_holds, refused.retry_after_seconds) == (False, None)


def test_what_never_fits_under_a_throttle_does_not_wait() -> None:
    """BUD-02: a call larger than the limit finds no room in any window."""
    scene = rich()
    scene.set_limit(10, **ADA, effect=Effect.THROTTLE)
    refused = scene.refuse("one", 11, user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("user_spend_limit_exceeded", False)


@pytest.mark.parametrize(
    ("which", "seconds"),
    [
        ({"measure": Measure.CALLS, "period": Period.MINUTE}, 30),
        ({"measure": Measure.CALLS, "period": Period.UTC_DAY}, 12 * 3600 - 30),
        ({"measure": Measure.PARALLEL}, 2),
        ({"measure": Measure.CALLS, "period": Period.DAY}, None),
        ({"period": Period.MONTH}, None),
    ],
)
def test_only_what_comes_back_says_when(which: dict[str, Any], seconds: int | None) -> None:
    """LIM-04: a rate says after how many seconds, rounded up; a budget says nothing."""
    scene = rich()
    scene.later(30 * SECOND)
    scene.set_limit(0, **which)
    refused = scene.refuse("one", 1)
    assert refused.retry_after_seconds == seconds
    if seconds is not None and seconds > 2:
        scene.later(seconds * SECOND - MICRO)
        assert scene.refuse("two", 1).retry_after_seconds == 1
