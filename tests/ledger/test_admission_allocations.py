"""Allocations: a project's own part of the balance, set aside from everybody else's."""

from __future__ import annotations

from typing import Any

from farebox.ledger.commands import Admitted, Done, Refused
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, NOON, TOKEN, Scene

OTHER: dict[str, Any] = {"project": "other project", "key": "other key"}


def shared(amount: int = 100, **settings: Any) -> Scene:
    """Two projects on one balance."""
    scene = Scene(**settings)
    scene.give("paid", amount, "purchased", ends=NOON + 30 * DAY)
    scene.put_other_key("other key", "other project")
    return scene


def of(scene: Scene, project: str = "project") -> dict[str, Any]:
    """The allocation of a project, which no window ends."""
    return {
        "scope_kind": ScopeKind.PROJECT,
        "scope_ref": scene.named(project).hex,
        "effect": Effect.ALLOCATION,
        "period": Period.TOTAL,
    }


def test_what_is_set_aside_is_no_other_projects_to_spend() -> None:
    """CRD-21: others have the rest, and are told that there is money, but not for them."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    scene.hold("fits", 40, **OTHER)
    scene.charge("fits", 40)
    refused = scene.refuse("over", 1, **OTHER)
    assert (refused.code, refused.blocked_by_holds) == ("credit_set_aside", False)
    assert (refused.needed, refused.available, refused.held) == (1, 60, 0)
    assert "0.00000006 is set aside for other projects" in refused.message
    assert scene.refuse("more than all", 61, **OTHER).code == "credit_balance_exhausted"
    scene.hold("its own", 60)
    assert scene.refuse("its own again", 1).code == "balance_held"


def test_an_exhausted_allocation_refuses_while_the_organization_has_money() -> None:
    """CRD-21: the project's part is a limit as well, named as such."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    scene.hold("one", 60)
    waits = scene.refuse("two", 1)
    assert (waits.code, waits.blocked_by_holds) == ("balance_held", True)
    scene.charge("one", 60)
    refused = scene.refuse("two", 1)
    assert (refused.code, refused.limit is not None) == ("project_spend_limit_exceeded", True)
    assert scene.available == 40


def test_what_a_project_uses_is_set_aside_no_longer() -> None:
    """CRD-21: allocated less spent less held, and never below zero."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    scene.hold("held", 20)
    scene.hold("spent", 30)
    scene.charge("spent", 25)
    # 100 less 25 spent less 20 held less 15 set aside.
    assert scene.refuse("over", 41, **OTHER).code == "credit_set_aside"
    scene.hold("fits", 40, **OTHER)
    scene.set_limit(10, **of(scene))
    scene.hold("rest", 15, **OTHER)
    assert scene.refuse("beyond", 1, **OTHER).code == "balance_held"


def test_calls_hold_what_others_would_have_and_give_it_back() -> None:
    """CRD-21: where the held part of the balance would do, the call may wait in order."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    scene.hold("running", 30, **OTHER)
    refused = scene.refuse("next", 40, **OTHER)
    assert (refused.code, refused.blocked_by_holds) == ("credit_set_aside", True)
    scene.run(scene.release("running"))
    scene.hold("next", 40, **OTHER)


def test_every_other_allocation_counts_and_ones_own_does_not() -> None:
    """CRD-21: the sum of all of them is set aside, of which each project sees the others'."""
    scene = shared()
    scene.put_other_key("third key", "third project")
    scene.set_limit(50, **of(scene))
    scene.set_limit(30, **of(scene, "other project"))
    third = {"project": "third project", "key": "third key"}
    assert scene.refuse("third", 21, **third).code == "credit_set_aside"
    scene.hold("third", 20, **third)
    scene.hold("other", 30, **OTHER)
    scene.hold("first", 50)
    assert scene.available == 0


def test_an_allocation_funds_nothing() -> None:
    """CRD-21: beyond the balance it is a promise that nobody can keep."""
    scene = shared()
    scene.set_limit(500, **of(scene))
    assert scene.refuse("more", 101).code == "credit_balance_exhausted"
    assert scene.refuse("other", 1, **OTHER).code == "credit_set_aside"
    scene.hold("all", 100)


def test_an_allocation_counts_from_its_window_and_ends_when_removed() -> None:
    """CRD-21: set in the middle it counts what its window has used; removed, all is free."""
    scene = shared()
    monthly = of(scene) | {"period": Period.MONTH}
    scene.hold("before", 25)
    scene.charge("before", 20)
    scene.run(scene.limit(60, **monthly), scene.admit("same batch", 41, **OTHER))
    assert scene.counted(**monthly) == (20, 0)
    assert scene.named("same batch") not in scene.ledger.holds
    scene.hold("other", 40, **OTHER)
    scene.set_limit(None, **monthly)
    scene.hold("rest", 40, **OTHER)


def test_other_limits_of_projects_set_nothing_aside() -> None:
    """CRD-21: a hard limit, an alert and a default bind their project and keep nothing for it."""
    scene = shared(110)
    scope = {"scope_kind": ScopeKind.PROJECT, "scope_ref": scene.named("project").hex}
    scene.set_limit(60, **scope)
    scene.set_limit(60, **scope, effect=Effect.ALERT)
    scene.set_limit(100, scope_kind=ScopeKind.PROJECT)
    scene.set_limit(1, scope_kind=ScopeKind.USER, measure=Measure.CALLS)
    scene.set_limit(10, **of(scene))
    assert scene.refuse("other", 101, **OTHER).code == "credit_set_aside"
    scene.hold("other", 100, **OTHER)


def test_extensions_and_overruns_leave_alone_what_is_set_aside() -> None:
    """CRD-21: a running call may take no more of it than a new one."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    scene.hold("other", 30, **OTHER)
    assert scene.one(scene.extend("other", 11), Refused).code == "credit_set_aside"
    assert scene.one(scene.extend("other", 5), Done).amount == 35
    closed = scene.charge("other", 50)
    assert (closed.charge, closed.absorbed) == (40, 10)
    scene.hold("late", 0, **OTHER)
    scene.vanish("late")
    closed = scene.charge("late", 7)
    assert (closed.charge, closed.absorbed) == (0, 7)


def test_a_project_has_one_allocation() -> None:
    """CRD-21: a second one would set the same money aside twice; the first is changed instead."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    monthly = of(scene) | {"period": Period.MONTH}
    refused = scene.one(scene.limit(30, **monthly), Refused)
    assert refused.code == "allocation_exists"
    assert refused.message == (
        "effect: the project has an allocation already, for the period total; change that one, or "
        "remove it first."
    )
    scene.set_limit(50, **of(scene))
    assert scene.set_limit(None, **monthly).exists
    scene.set_limit(None, **of(scene))
    scene.set_limit(30, **monthly)
    scene.hold("rest", 70, **OTHER)


def test_output_without_a_limit_is_cut_to_what_is_not_set_aside() -> None:
    """CRD-21, NEG-07: a quarter of what the project may spend."""
    scene = shared()
    scene.set_limit(60, **of(scene))
    call = scene.admit("open", 0, price=TOKEN, tokens=(0, 9_999), **OTHER)
    assert scene.one(call, Admitted).output_limit == 10


def test_an_allocation_binds_whatever_its_batch_has_decided_before() -> None:
    """CRD-21: one that is set after a settle has looked for allocations binds admissions too."""
    scene = shared()
    scene.hold("running", 10, **OTHER)
    results = scene.run(
        scene.settle("running", 12), scene.limit(60, **of(scene)), scene.admit("new", 29, **OTHER)
    )
    assert isinstance(results[2], Refused)
    assert results[2].code == "credit_set_aside"
    scene.run(scene.limit(None, **of(scene)), scene.admit("after", 29, **OTHER))
    assert scene.open("after").amount == 29
