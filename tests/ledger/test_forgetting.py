"""Scopes under a default alone are forgotten once nothing can reach their counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.ledger.commands import Done, Forget
from farebox.ledger.limits import WINDOW_KEPT, Measure, Period
from farebox.ledger.scopes import ScopeKind, scope_number
from tests.support.ledger_scenes import DAY, HOUR, MICRO, Scene

START = datetime(2027, 3, 10, 12, tzinfo=UTC)
NEXT_MONTH = datetime(2027, 4, 1, tzinfo=UTC)
EACH: dict[str, Any] = {"scope_kind": ScopeKind.USER}
ADA: dict[str, Any] = EACH | {"scope_ref": "ada"}


def funded() -> Scene:
    """An organisation with credit for everything below."""
    scene = Scene(now=START)
    scene.give("paid", 10_000, "purchased", ends=START + 300 * DAY)
    return scene


def under(*limits: dict[str, Any]) -> Scene:
    """The same under defaults of each user, with one call of a user's ended and counted."""
    scene = funded()
    for which in limits:
        scene.set_limit(100, **EACH | which)
    scene.hold("one", 10, user="ada")
    scene.charge("one", 10, tokens=4)
    return scene


def forget(scene: Scene, *users: str) -> int:
    """How many of them were forgotten."""
    numbers = tuple(scope_number("user", user) for user in users or ("ada",))
    return scene.one(Forget(organization_id=scene.id, numbers=numbers), Done).amount


def is_known(scene: Scene, user: str = "ada") -> bool:
    """Whether there is a row."""
    return (scene.id, scope_number("user", user)) in scene.ledger.limits


MONTH: dict[str, Any] = {"period": Period.MONTH}
MINUTE: dict[str, Any] = {"period": Period.MINUTE, "measure": Measure.CALLS}
PARALLEL: dict[str, Any] = {"period": Period.TOTAL, "measure": Measure.PARALLEL}

OVER: list[tuple[list[dict[str, Any]], datetime]] = [
    ([MONTH], NEXT_MONTH + WINDOW_KEPT),
    ([MINUTE], START + timedelta(minutes=1)),
    ([MINUTE, MONTH], NEXT_MONTH + WINDOW_KEPT),
    ([{"period": Period.DAY}], datetime(2027, 3, 11, tzinfo=UTC) + WINDOW_KEPT),
]


@pytest.mark.parametrize(("limits", "over"), OVER)
def test_a_row_goes_at_the_instant_nothing_can_reach_it(
    limits: list[dict[str, Any]], over: datetime
) -> None:
    """ENGINE "Limits": not a microsecond before; whoever comes back begins anew."""
    scene = under(*limits)
    scene.now = over - MICRO
    assert forget(scene) == 0
    scene.now = over
    assert forget(scene) == 1
    assert not is_known(scene)
    assert forget(scene) == 0
    scene.hold("back", 60, user="ada")
    assert scene.counted(**ADA | limits[-1])[1] == (1 if limits == [MINUTE] else 60)
    if MONTH in limits:
        assert scene.refuse("too much", 41, user="ada").code == "balance_held"


@pytest.mark.parametrize(
    "which", [{"period": Period.TOTAL}, {"period": Period.TOTAL, "measure": Measure.CALLS}]
)
def test_what_is_counted_for_good_is_never_forgotten(which: dict[str, Any]) -> None:
    """BUD-12: a total limit has one window, which never ends."""
    scene = under(which, MINUTE)
    scene.later(200 * DAY)
    assert forget(scene) == 0
    assert scene.counted(**ADA | which) == (1 if "measure" in which else 10, 0)


def test_wall_time_is_never_forgotten() -> None:
    """BUD-12: a run that comes back after a year has run for a year."""
    scene = funded()
    each: dict[str, Any] = {"scope_kind": ScopeKind.RUN, "period": Period.TOTAL}
    scene.set_limit(3600, **each, measure=Measure.SECONDS)
    scene.hold("one", 10, run="r")
    scene.charge("one", 10)
    scene.later(200 * DAY)
    command = Forget(organization_id=scene.id, numbers=(scope_number("run", "r"),))
    assert scene.one(command, Done).amount == 0
    assert scene.refuse("back", 1, run="r").code == "run_time_limit_exceeded"


def test_what_keeps_nothing_goes_with_its_last_call() -> None:
    """BUD-12: calls in parallel leave nothing behind; an open one keeps its row."""
    scene = under(PARALLEL)
    scene.hold("open", 0, user="ada")
    assert forget(scene) == 0
    scene.charge("open", 0)
    assert forget(scene) == 1
    scene.hold("back", 1, user="ada")
    assert scene.counted(**ADA | PARALLEL) == (0, 1)


def test_what_an_open_call_has_raised_stays_though_it_holds_nothing() -> None:
    """DED-16: a hold of nothing that outlives its minute may still be charged under it."""
    scene = under({"period": Period.MINUTE, "measure": Measure.TOKENS})
    scene.hold("open", 5, user="ada")
    scene.later(HOUR)
    assert forget(scene) == 0
    scene.charge("open", 5, tokens=3)
    assert forget(scene) == 1


def test_a_limit_of_ones_own_and_a_default_stay() -> None:
    """BUD-14: rules are settings; only counters are forgotten."""
    scene = under(MINUTE)
    scene.set_limit(5, **ADA | MONTH)
    scene.later(200 * DAY)
    assert forget(scene, "ada", "", "never seen") == 0
    scene.set_limit(None, **ADA | MONTH)
    assert forget(scene) == 1
    assert is_known(scene, "")


def test_what_a_default_has_taken_over_stays_until_its_window_is_over() -> None:
    """BUD-14: nothing is counted in it yet, but a lapsed call may answer late and be counted."""
    scene = funded()
    scene.set_limit(100, **EACH | MONTH)
    scene.set_limit(5, **ADA | MONTH)
    scene.hold("open", 5, user="ada")
    scene.set_limit(None, **ADA | MONTH)
    assert scene.counted(**ADA | MONTH) == (0, 5)
    scene.run(scene.release("open"))
    assert forget(scene) == 0
    scene.set_limit(5, **EACH | {"scope_ref": "bob"} | MONTH)
    scene.set_limit(None, **EACH | {"scope_ref": "bob"} | MONTH)
    scene.now = NEXT_MONTH + WINDOW_KEPT - MICRO
    assert forget(scene, "ada", "bob") == 0
    scene.later(MICRO)
    assert forget(scene, "ada", "bob") == 2


def test_time_does_not_go_back_into_what_was_forgotten() -> None:
    """ENGINE "Time": a clock that is set back finds the organisation where it was."""
    scene = under(MINUTE)
    scene.later(timedelta(minutes=1))
    assert forget(scene) == 1
    scene.later(-HOUR)
    scene.hold("back", 1, user="ada")
    assert scene.org.last_time == START + timedelta(minutes=1)


def test_a_call_of_the_same_batch_makes_its_row_anew() -> None:
    """ENGINE "A batch": what is forgotten comes first, whatever the order was."""
    scene = under(MINUTE)
    scene.later(HOUR)
    command = Forget(organization_id=scene.id, numbers=(scope_number("user", "ada"),))
    scene.run(scene.admit("back", 7, user="ada"), command)
    assert len(scene.windows(**ADA | MINUTE)) == 1
    assert scene.counted(**ADA | MINUTE) == (0, 1)
