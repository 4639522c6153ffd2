"""Thresholds: each told once per window, whoever crosses it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from farebox.ledger.alerting import usual_thresholds
from farebox.ledger.commands import Admitted
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, Scene

ADA = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}
THIRDS = (50, 80, 100)


def told(scene: Scene) -> list[str]:
    """The percentages that were told, in order."""
    return [facts["percent"] for facts in scene.told("limit_threshold")]


def scene_with(maximum: int = 100, **which: Any) -> Scene:
    """Money that is no matter, and a limit of Ada's with three thresholds."""
    scene = Scene()
    scene.give("paid", 1_000_000, "purchased")
    scene.set_limit(maximum, **{"thresholds": THIRDS} | ADA | which)
    return scene


def use(scene: Scene, name: str, amount: int, **about: Any) -> None:
    """A call of Ada's that is charged so much."""
    scene.hold(name, amount, user="ada", **about)
    scene.charge(name, amount)


def test_a_threshold_is_told_when_use_reaches_it() -> None:
    """BUD-06: at 50, 80 and 100 percent to the nano, with everything that the message needs."""
    scene = scene_with(effect=Effect.ALERT, owner="lea@example.com", models="gpt*")
    use(scene, "one", 49)
    assert told(scene) == []
    use(scene, "two", 1)
    assert told(scene) == ["50"]
    use(scene, "three", 29)
    assert told(scene) == ["50"]
    use(scene, "four", 30)
    assert told(scene) == ["50", "80", "100"]
    assert scene.told("limit_threshold")[0] == {
        "scope_kind": "user",
        "scope_ref": "ada",
        "measure": "money",
        "period": "month",
        "effect": "alert",
        "models": "gpt*",
        "window_start": "2027-03-01T00:00:00+00:00",
        "percent": "50",
        "used": "50",
        "maximum": "100",
        "owner": "lea@example.com",
        "origin": "manual",
    }


def test_each_is_told_once_per_window() -> None:
    """BUD-07: not again with more use in the window, and again in the next one."""
    scene = scene_with()
    for number in range(6):
        use(scene, f"call {number}", 10)
    assert told(scene) == ["50"]
    scene.later(31 * DAY)
    use(scene, "april", 90)
    assert told(scene) == ["50", "50", "80"]


def test_a_batch_of_many_calls_tells_it_once() -> None:
    """BUD-07: concurrent settlements of one transaction cross a threshold together."""
    scene = scene_with()
    for number in range(10):
        scene.hold(f"call {number}", 10, user="ada")
    scene.run(*(scene.settle(f"call {number}", 10) for number in range(10)))
    assert told(scene) == ["50", "80", "100"]


def test_replays_tell_nothing_twice() -> None:
    """BUD-07: a settlement that is sent again, after whatever restart, has told already."""
    scene = scene_with()
    use(scene, "one", 90)
    settle = scene.settle("one", 90)
    scene.run(settle, settle)
    scene.run(scene.release("one"))
    assert told(scene) == ["50", "80"]


def test_use_that_goes_back_and_comes_again_is_told_once() -> None:
    """BUD-07: a late answer may give use back; the window has been told of for good."""
    scene = scene_with()
    scene.hold("one", 60, user="ada")
    scene.run(scene.report("one", 60))
    scene.vanish("one")
    assert told(scene) == ["50"]
    scene.charge("one", 10)
    assert scene.counted(**ADA) == (10, 0)
    use(scene, "two", 45)
    assert told(scene) == ["50"]


def test_a_late_answer_may_reach_a_threshold() -> None:
    """BUD-06: in the window of its call's admission, be that over."""
    scene = scene_with()
    scene.hold("one", 60, user="ada")
    scene.vanish("one")
    scene.later(31 * DAY)
    scene.charge("one", 60)
    (facts,) = scene.told("limit_threshold")
    assert (facts["percent"], facts["window_start"][:7]) == ("50", "2027-03")


@pytest.mark.parametrize(
    ("which", "calls"),
    [
        ({"measure": Measure.TOKENS, "period": Period.DAY}, 5),
        ({"measure": Measure.CALLS, "period": Period.TOTAL, "maximum": 10}, 5),
        ({"measure": Measure.MONEY, "period": Period.WEEK, "maximum": 50}, 5),
    ],
)
def test_every_measure_has_thresholds(which: dict[str, Any], calls: int) -> None:
    """BUD-06, BUD-12: tokens and calls as well as money."""
    scene = scene_with(**which)
    for number in range(calls):
        assert told(scene) == []
        name = f"call {number}"
        command = scene.admit(name, 5, tokens=(10, 10), user="ada")
        scene.one(command, Admitted)
        scene.charge(name, 5, tokens=10)
    assert told(scene) == ["50"]


def test_more_than_the_whole_may_be_a_threshold() -> None:
    """BUD-03: a soft limit may be passed, and told of beyond its hundred percent."""
    scene = scene_with(effect=Effect.ALERT, thresholds=(150, 120))
    use(scene, "one", 119)
    assert told(scene) == []
    use(scene, "two", 40)
    assert told(scene) == ["120", "150"]


def test_a_changed_maximum_moves_what_is_told_next() -> None:
    """BUD-06: percent are of the maximum that holds now, a temporary raise included."""
    scene = scene_with()
    use(scene, "one", 50)
    scene.set_limit(100, **ADA, thresholds=THIRDS, raised_to=1_000)
    use(scene, "two", 300)
    assert told(scene) == ["50"]
    scene.later(timedelta(hours=1))
    scene.set_limit(400, **ADA, thresholds=THIRDS)
    use(scene, "three", 1)
    assert told(scene) == ["50", "80"]


def test_a_limit_of_zero_tells_of_the_first_use_and_of_nothing_before() -> None:
    """BUD-06: a call that was given back costs nothing, and leaves the alert to one that costs."""
    scene = scene_with(0, effect=Effect.ALERT)
    scene.hold("given back", 5, user="ada")
    scene.run(scene.release("given back"))
    use(scene, "free", 0)
    assert told(scene) == []
    use(scene, "first", 1)
    assert told(scene) == ["50", "80", "100"]


def test_a_limit_without_thresholds_tells_nothing() -> None:
    """BUD-06: telling is a setting of each limit."""
    scene = scene_with(thresholds=())
    use(scene, "one", 100)
    assert told(scene) == []


def test_defaults_tell_of_each_scope_by_itself() -> None:
    """BUD-07, BUD-14: one default, and every user has thresholds of their own."""
    scene = scene_with(scope_ref="")
    for user in ("ada", "bob"):
        scene.hold(user, 50, user=user)
        scene.charge(user, 50)
    assert [facts["scope_ref"] for facts in scene.told("limit_threshold")] == ["ada", "bob"]


@pytest.mark.parametrize(
    ("which", "thresholds"),
    [
        ({}, THIRDS),
        ({**ADA, "period": Period.DAY, "effect": Effect.ALERT}, THIRDS),
        ({**ADA, "measure": Measure.TOKENS, "period": Period.TOTAL}, THIRDS),
        ({"effect": Effect.SHADOW}, ()),
        ({"period": Period.MINUTE}, ()),
        ({**ADA, "measure": Measure.PARALLEL}, ()),
        ({"scope_kind": ScopeKind.USER}, ()),
    ],
)
def test_a_budget_tells_at_three_thresholds_unless_told_otherwise(
    which: dict[str, Any], thresholds: tuple[int, ...]
) -> None:
    """BUD-06: 50, 80 and 100 percent; rates, shadows and defaults of every user stay silent."""
    assert usual_thresholds(Scene().limit(100, **which)) == thresholds
