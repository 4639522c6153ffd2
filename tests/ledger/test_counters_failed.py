"""Limits of calls per minute that leave failed calls out (LIM-03)."""

from __future__ import annotations

from typing import Any, Final

from farebox.ledger.commands import Done
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import Scene

RPM: Final[dict[str, Any]] = {
    "measure": Measure.CALLS,
    "period": Period.MINUTE,
    "scope_kind": ScopeKind.USER,
    "scope_ref": "ada",
}
EACH: Final[dict[str, Any]] = {**RPM, "scope_ref": ""}
LENIENT: Final[dict[str, Any]] = {"count_failed": False}


def scene_of_calls(*names: str) -> Scene:
    """Money enough, and open calls of one user."""
    scene = Scene()
    scene.give("paid", 10_000, "purchased")
    for name in names:
        scene.hold(name, 5, user="ada")
    return scene


def test_a_failed_call_gives_its_count_back() -> None:
    """LIM-03: released is failed; settled, lapsed, late and open calls count as ever."""
    scene = scene_of_calls()
    scene.set_limit(4, **RPM, **LENIENT)
    for name in ("settled", "released", "lapsed", "open"):
        scene.hold(name, 5, user="ada")
    assert scene.refuse("fifth", 5, user="ada").code == "rate_limit_exceeded"
    scene.charge("settled", 5)
    scene.run(scene.release("released"))
    assert scene.counted(**RPM) == (1, 2)
    # Once: a replay of the release gives nothing back.
    scene.run(scene.release("released"))
    scene.hold("fifth", 5, user="ada")
    assert scene.counted(**RPM) == (1, 3)
    scene.vanish("lapsed")
    assert scene.counted(**RPM) == (2, 2)
    scene.run(scene.release("lapsed"))
    assert scene.counted(**RPM) == (2, 2), "what had lapsed has counted"


def test_failed_calls_count_unless_a_limit_says_otherwise() -> None:
    """LIM-03: as at the provider, by default; and under other limits of the same call."""
    scene = scene_of_calls()
    scene.set_limit(9, **RPM)
    shadow = {**RPM, "effect": Effect.SHADOW}
    scene.set_limit(9, **shadow, **LENIENT)
    scene.hold("one", 5, user="ada")
    scene.run(scene.release("one"))
    assert (scene.counted(**RPM), scene.counted(**shadow)) == ((1, 0), (0, 0))


def test_a_limit_that_begins_leaves_out_what_has_failed() -> None:
    """LIM-03, BUD-02: its minute's calls are counted under the lock, this batch's ends too."""
    scene = scene_of_calls("settled", "failed", "fails now", "ends now", "open")
    scene.charge("settled", 5)
    scene.run(scene.release("failed"))
    ends = scene.settle("ends now", 5)
    scene.run(scene.release("fails now"), ends, scene.limit(9, **RPM, **LENIENT))
    assert scene.counted(**RPM) == (2, 1)


def test_to_count_otherwise_counts_the_minute_anew() -> None:
    """LIM-03: the limit stays one limit; thresholds are told anew, open calls stay counted."""
    scene = scene_of_calls("settled", "failed", "open")
    scene.charge("settled", 5)
    scene.run(scene.release("failed"))
    scene.set_limit(9, **RPM)
    assert scene.counted(**RPM) == (2, 1)
    scene.set_limit(9, **RPM, **LENIENT)
    assert scene.counted(**RPM) == (1, 1)
    # There and back in one batch.
    results = scene.run(scene.limit(9, **RPM), scene.limit(9, **RPM, **LENIENT))
    assert all(isinstance(each, Done) for each in results)
    assert scene.counted(**RPM) == (1, 1)
    scene.set_limit(8, **RPM)
    assert scene.counted(**RPM) == (2, 1)


def test_a_default_that_leaves_failed_calls_out() -> None:
    """LIM-03, BUD-14: it counts from when it is set; one's own stands in its place."""
    scene = scene_of_calls("before")
    scene.set_limit(9, **EACH, **LENIENT)
    for name in ("failed", "settled"):
        scene.hold(name, 5, user="ada")
    scene.charge("settled", 5)
    scene.run(scene.release("failed"), scene.release("before"))
    assert scene.counted(**RPM) == (1, 0)
    scene.set_limit(9, **RPM)
    assert scene.counted(**RPM) == (3, 0)
    scene.set_limit(None, **RPM)
    assert scene.counted(**RPM) == (1, 0)
    # Set to count failed calls, the default counts anew, from now.
    scene.set_limit(9, **EACH)
    scene.hold("next", 5, user="ada")
    assert scene.counted(**RPM) == (0, 1)
