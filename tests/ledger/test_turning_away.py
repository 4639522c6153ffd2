"""Refusals under limits: one code, one sentence and the figures of each kind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from farebox.ledger.commands import Admitted, Done, Refused
from farebox.ledger.limits import Effect, LimitFigures, Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import HOUR, Scene

PROJECT: dict[str, Any] = {"scope_kind": ScopeKind.PROJECT, "scope_ref": "project"}
USER: dict[str, Any] = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}
TAG: dict[str, Any] = {"scope_kind": ScopeKind.TAG, "scope_ref": "team=blue"}
RUN: dict[str, Any] = {"scope_kind": ScopeKind.RUN, "scope_ref": "r-1"}
ABOUT: dict[str, Any] = {"user": "ada", "run": "r-1", "tags": {"team": "blue"}}


def used_up(maximum: int, *, amount: int = 10, tokens: int = 10, **which: Any) -> Scene:
    """A limit, and one call that has used ten of money and tokens under it."""
    scene = Scene()
    scene.give("paid", 1_000_000_000_000, "purchased")
    if which.get("scope_ref") == "project":
        which |= {"scope_ref": scene.named("project").hex}
    scene.set_limit(maximum, **which)
    scene.one(scene.admit("first", amount, tokens=(tokens, tokens), **ABOUT), Admitted)
    scene.charge("first", amount, tokens=tokens)
    return scene


def asked(scene: Scene, amount: int = 10, tokens: int = 10) -> Refused:
    """The refusal of one more call."""
    return scene.one(scene.admit("next", amount, tokens=(tokens, tokens), **ABOUT), Refused)


SAID: list[tuple[int, dict[str, Any], str, str]] = [
    (
        12,
        {},
        "organization_spend_limit_exceeded",
        (
            "The organization's monthly limit is 0.000000012: 0.00000001 used, 0.00 held by open"
            " calls, and this call needs up to 0.00000001. It resets at 2027-04-01T00:00:00+00:00."
        ),
    ),
    (
        12,
        PROJECT | {"period": Period.WEEK},
        "project_spend_limit_exceeded",
        (
            "The project's weekly limit is 0.000000012: 0.00000001 used, 0.00 held by open calls,"
            " and this call needs up to 0.00000001. It resets at 2027-03-15T00:00:00+00:00."
        ),
    ),
    (
        12,
        USER | {"measure": Measure.TOKENS, "period": Period.DAY},
        "user_token_limit_exceeded",
        (
            "The user ada's daily token limit is 12 tokens: 10 tokens used, 0 tokens held by open"
            " calls, and this call needs up to 10 tokens. It resets at 2027-03-11T00:00:00+00:00."
        ),
    ),
    (
        1,
        TAG | {"measure": Measure.CALLS, "models": "gpt*"},
        "tag_call_limit_exceeded",
        (
            "The tag team=blue's monthly call limit for gpt* is 1 call: 1 call used, 0 calls held"
            " by open calls. It resets at 2027-04-01T00:00:00+00:00."
        ),
    ),
    (
        12,
        RUN | {"period": Period.TOTAL},
        "run_spend_limit_exceeded",
        (
            "The run r-1's total limit is 0.000000012: 0.00000001 used, 0.00 held by open calls,"
            " and this call needs up to 0.00000001."
        ),
    ),
    (
        12,
        {"origin": Origin.TIER},
        "organization_usage_limit_exceeded",
        (
            "The organization's monthly limit of its usage tier is 0.000000012: 0.00000001 used,"
            " 0.00 held by open calls, and this call needs up to 0.00000001. It resets at"
            " 2027-04-01T00:00:00+00:00."
        ),
    ),
    (
        12,
        {"origin": Origin.TIER, "measure": Measure.TOKENS, "period": Period.MINUTE},
        "rate_limit_exceeded",
        (
            "The organization's per-minute token limit of its usage tier is 12 tokens: 10 tokens"
            " used, 0 tokens held by open calls, and this call needs up to 10 tokens. It resets at"
            " 2027-03-10T12:01:00+00:00."
        ),
    ),
    (
        1,
        PROJECT | {"measure": Measure.CALLS, "period": Period.MINUTE},
        "rate_limit_exceeded",
        (
            "The project's per-minute call limit is 1 call: 1 call used, 0 calls held by open"
            " calls. It resets at 2027-03-10T12:01:00+00:00."
        ),
    ),
    (
        12,
        {"measure": Measure.TOKENS, "period": Period.UTC_DAY},
        "rate_limit_exceeded",
        (
            "The organization's per-day token limit is 12 tokens: 10 tokens used, 0 tokens held by"
            " open calls, and this call needs up to 10 tokens. It resets at"
            " 2027-03-11T00:00:00+00:00."
        ),
    ),
]


@pytest.mark.parametrize(("maximum", "which", "code", "message"), SAID)
def test_a_refusal_says_which_limit_and_how_it_stands(
    maximum: int, which: dict[str, Any], code: str, message: str
) -> None:
    """BUD-10, BUD-11, BUD-20, LIM-01, LIM-02: budgets and rates by codes and words of their own."""
    refused = asked(used_up(maximum, **which))
    assert (refused.code, refused.message, refused.blocked_by_holds) == (code, message, False)


def test_a_limit_of_money_is_not_an_empty_balance() -> None:
    """BUD-20: the two are told apart by code and words, whichever stands in the way."""
    scene = used_up(12)
    assert asked(scene).code == "organization_spend_limit_exceeded"
    scene.set_limit(None)
    poor = asked(scene, 10**12)
    assert poor.code == "credit_balance_exhausted"
    assert "limit" not in poor.message


def test_the_figures_are_those_of_the_decision() -> None:
    """BUD-05, LIM-02: scope, owner, maximum, used, held and when it resets."""
    which = USER | {"measure": Measure.TOKENS, "period": Period.DAY, "models": "gpt"}
    scene = used_up(30, **which, owner="lea@example.com")
    scene.one(scene.admit("open", 7, tokens=(15, 15), **ABOUT), Admitted)
    refused = asked(scene, 9, 30)
    assert refused.limit == LimitFigures(
        scope_kind="user",
        scope_id="ada",
        period="day",
        maximum=30,
        used=10,
        held=15,
        resets_at=datetime(2027, 3, 11, tzinfo=UTC),
        measure="tokens",
        effect="hard",
        models="gpt",
        owner="lea@example.com",
    )
    # Beside it, what the call needs and what open calls hold, in money.
    assert (refused.needed, refused.held, refused.available) == (9, 7, 10**12 - 17)


def test_of_money_the_held_is_the_limits_own() -> None:
    """BUD-10: what other scopes' calls hold is not in this limit's way."""
    scene = used_up(30, **USER)
    scene.hold("hers", 15, user="ada")
    scene.hold("others", 500)
    refused = asked(scene, 25)
    assert (refused.held, refused.blocked_by_holds) == (15, False)


@pytest.mark.parametrize(
    ("which", "code", "waits"),
    [
        (USER, "balance_held", True),
        (USER | {"measure": Measure.TOKENS, "period": Period.TOTAL}, "balance_held", True),
        (USER | {"measure": Measure.TOKENS, "period": Period.MINUTE}, "rate_limit_exceeded", False),
        (USER | {"period": Period.UTC_DAY}, "rate_limit_exceeded", False),
    ],
)
def test_what_only_open_calls_hold_may_wait_but_for_rates(
    which: dict[str, Any], code: str, *, waits: bool
) -> None:
    """LIM-02, LIM-04: a rate says when to come again; a budget's room may come back any moment."""
    scene = used_up(30, **which)
    scene.one(scene.admit("open", 15, tokens=(15, 15), **ABOUT), Admitted)
    refused = asked(scene)
    assert (refused.code, refused.blocked_by_holds) == (code, waits)


def test_parallel_calls_are_told_apart() -> None:
    """LIM-01, LIM-08: no window and no reset, but the end of a call."""
    scene = used_up(1, **PROJECT, measure=Measure.PARALLEL)
    scene.hold("open", 5)
    refused = asked(scene)
    assert (refused.code, refused.blocked_by_holds) == ("rate_limit_exceeded", True)
    assert refused.message == (
        "The project's limit is 1 call at a time, and 1 is running; try again when one has ended."
    )
    assert refused.limit is not None
    assert refused.limit.resets_at is None


STOP: dict[str, Any] = {"measure": Measure.PARALLEL, "effect": Effect.STOP}


@pytest.mark.parametrize(
    ("which", "owner", "code", "message"),
    [
        (RUN, "it loops", "run_stopped", "The run r-1 was stopped: it loops."),
        (PROJECT, "", "project_stopped", "The project was stopped."),
    ],
)
def test_what_was_stopped_says_so_until_it_is_released(
    which: dict[str, Any], owner: str, code: str, message: str
) -> None:
    """ANO-01: the run is named with the reason; no time is given, no hold is waited for; what runs
    already ends as it would; a limit on parallel calls beside it stays what it was.
    """
    scene = used_up(1_000, **which)
    if "scope_ref" in which and which is PROJECT:
        which = which | {"scope_ref": scene.named("project").hex}
    scene.set_limit(5, **which, measure=Measure.PARALLEL)
    scene.hold("open", 5, **ABOUT)
    scene.set_limit(0, **which, **STOP, owner=owner)
    refused = asked(scene)
    assert (refused.code, refused.blocked_by_holds, refused.retry_after_seconds) == (
        code,
        False,
        None,
    )
    assert refused.message == f"{message} Its calls are refused until it is released."
    assert refused.limit is not None
    assert refused.limit.effect == "stop"
    scene.one(scene.extend("open", 1, tokens=1), Done)
    scene.charge("open", 6)
    scene.set_limit(None, **which, **STOP)
    scene.hold("next", 5, **ABOUT)


def test_a_run_that_is_stopped_stops_the_runs_within_it() -> None:
    """ANO-01: a loop does not go on by opening a run within the run; other runs go on."""
    scene = used_up(1_000, **RUN)
    scene.set_limit(0, **RUN, **STOP)
    assert scene.refuse("inner", 5, run="r-1/page-3").code == "run_stopped"
    scene.hold("other", 5, run="r-10")
    scene.hold("none", 5)


def test_what_waiting_cannot_mend_comes_first_whatever_the_order() -> None:
    """BUD-10: a budget that is used up is named before one that open calls block."""
    scene = used_up(20, **USER)
    scene.set_limit(12, **RUN)
    scene.set_limit(0, **RUN, measure=Measure.PARALLEL)
    scene.set_limit(None, **RUN, measure=Measure.PARALLEL)
    scene.hold("open", 9, user="ada")
    assert asked(scene, 2).code == "balance_held"
    assert asked(scene, 3).code == "run_spend_limit_exceeded"
    scene.later(HOUR)
    scene.set_limit(None, **RUN)
    assert asked(scene, 3).code == "balance_held"
