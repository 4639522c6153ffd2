"""Limits: which one refused a call, and which would refuse the next."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import pytest

from farebox.advice.codes import Code
from farebox.advice.error_codes import finding_of
from farebox.advice.facts import TierFacts
from farebox.advice.findings import Finding, Severity
from farebox.advice.standing_limits import assigned, code_of, refused_by, standing
from farebox.cli.limits import add_arguments
from farebox.kit.ids import format_id
from tests.support.doctor_cases import (
    DAY,
    KEY_ID,
    NOW,
    ORG_ID,
    PROJECT_ID,
    case,
    figures,
    limit,
    refusal,
    units,
)

REFS = {"organization": "", "project": PROJECT_ID.hex, "key": KEY_ID.hex}


def refused(kind: str, code: str, now: Any = None, **changes: Any) -> Finding:
    """The one finding of a refusal by a limit."""
    figs = figures(kind, REFS.get(kind, "bob"), **changes)
    known = finding_of(code)
    assert known is not None
    limits = () if now is None else (now,)
    (found,) = refused_by(case(limits=limits), refusal(code, limit=figs), known)
    return found


@pytest.mark.parametrize(
    ("kind", "code", "wanted"),
    [
        ("organization", "organization_spend_limit_exceeded", Code.D19),
        ("project", "project_spend_limit_exceeded", Code.D18),
        ("key", "key_spend_limit_exceeded", Code.D21),
        ("user", "user_token_limit_exceeded", Code.D21),
        ("feature", "feature_call_limit_exceeded", Code.D21),
        ("run", "run_spend_limit_exceeded", Code.D21),
    ],
)
def test_each_scope_has_its_finding(kind: str, code: str, wanted: Code) -> None:
    """D18, D19, D21, BUD-11: the limit that refused is named with its figures and its reset."""
    now = limit(kind, REFS.get(kind, "bob"), owner="ann")
    found = refused(kind, code, now)
    assert (found.code, found.mended) == (wanted, False)
    shown = {each.label: each.value for each in found.evidence}
    assert (shown["limit"], shown["used"], shown["left"]) == ("10.00", "10.00", "0.00")
    assert shown["owner"] == "ann"
    assert "resets on 2026-12-01" in found.cause
    assert any("ann" in fix.text or "wait" in fix.text for fix in found.fixes)
    assert not any(fix.buys for fix in found.fixes)


def test_a_rate_is_no_budget() -> None:
    """D17, LIM-02: wait and send less; it is never mended by a purchase, nor by waiting once."""
    for changes in ({"period": "minute", "measure": "tokens"}, {"measure": "parallel", "used": 0}):
        now = limit("organization", **changes)
        found = refused("organization", "rate_limit_exceeded", now, **changes)
        assert (found.code, found.mended) == (Code.D17, False)
        assert "retry-after" in found.fixes[0].text
        gone = refused("organization", "rate_limit_exceeded", **changes)
        assert (gone.code, gone.mended) == (Code.D17, True), "it was removed since"
    held: dict[str, Any] = {"effect": "throttle", "used": 0, "held": units(10)}
    assert refused("project", "rate_limit_exceeded", **held).code is Code.D17
    used_up = refused("project", "project_spend_limit_exceeded", effect="throttle")
    assert used_up.code is Code.D18


def test_a_rate_of_nothing_is_not_waited_for() -> None:
    """D17: where the maximum is zero, no pause helps: it must be raised."""
    none: dict[str, Any] = {"measure": "parallel", "maximum": 0, "used": 0}
    found = refused("user", "rate_limit_exceeded", limit("user", "bob", **none), **none)
    assert found.fixes[0].text == "Raise the rate"
    assert "--user bob --parallel N" in found.fixes[0].command


@pytest.mark.parametrize(("maximum", "mended"), [(2, False), (3, False), (4, True)])
def test_what_a_run_has_seen_does_not_come_back(maximum: int, mended: bool) -> None:
    """D21, BUD-12: depth and time of a run: a new run, or a higher limit; waiting does not help."""
    now = limit("run", "bob", measure="depth", period="total", maximum=maximum, used=0)
    found = refused(
        "run", "run_depth_limit_exceeded", now, measure="depth", period="total", maximum=2, used=3,
        resets_at=None,
    )  # fmt: skip
    assert (found.code, found.mended) == (Code.D21, mended)
    assert "the call was at 3" in found.cause
    if not mended:
        assert found.fixes[0].text == "Start a new run"


def test_an_allocation_is_no_limit_of_the_project() -> None:
    """D22, CRD-21: the project's own part of the balance: move more to it."""
    same = {"effect": "allocation", "period": "total"}
    now = limit("project", PROJECT_ID.hex, **same)
    found = refused("project", "project_spend_limit_exceeded", now, **same)
    assert found.code is Code.D22
    assert found.fixes[0].text == "Move more of the balance to the project"


@pytest.mark.parametrize(
    ("now", "mended"),
    [
        (None, True),
        (limit("organization", maximum=units(11)), True),
        (limit("organization", maximum=units(10.2)), False),
        (limit("organization", used=0), True),
        (limit("organization"), False),
    ],
)
def test_a_limit_that_was_raised_or_removed(now: Any, mended: bool) -> None:
    """D19: a limit with room for that call, or none any more, is mended; another is not."""
    found = refused("organization", "organization_spend_limit_exceeded", now)
    assert found.mended is mended
    assert (found.fixes[0].text == "Send the call again") is mended


def test_a_scope_without_a_counter_stands_under_the_default() -> None:
    """D21, BUD-14: the default of each user still refuses a user who has no counter yet."""
    default = limit("user", "", scope_ref="", is_template=True, used=0, maximum=units(0.1))
    found = refused("user", "user_spend_limit_exceeded", default, used=0, maximum=units(0.1))
    assert (found.code, found.mended) == (Code.D21, False)
    assert "the user bob" in found.cause


@pytest.mark.parametrize(
    ("kind", "changes", "command"),
    [
        ("organization", {}, "--monthly AMOUNT"),
        ("project", {"period": "day", "scope_name": "search x"},
         "--project 'search x' --daily AMOUNT"),
        ("user", {"measure": "tokens", "period": "week"}, "--user bob --weekly N --tokens"),
        ("key", {"measure": "calls", "period": "total", "models": "gpt-5*", "scope_name": "ci"},
         f"--key {format_id('key', KEY_ID)} --total N --calls --models 'gpt-5*'"),
        ("run", {"measure": "seconds", "period": "total", "owner": "ann"},
         "--run bob --seconds N --owner ann"),
        ("project", {"effect": "allocation", "scope_name": "search"},
         "--project search --monthly AMOUNT --allocation"),
    ],
)  # fmt: skip
def test_the_command_to_raise_is_exact(kind: str, changes: dict[str, Any], command: str) -> None:
    """ERR-03: what to type changes this very limit and no other; the command line takes it."""
    now = limit(kind, REFS.get(kind, "bob"), **changes)
    named = {k: v for k, v in changes.items() if k != "scope_name"}
    found = refused(kind, f"{kind}_spend_limit_exceeded", now, **named)
    (typed,) = [f.command for f in found.fixes if f.command.startswith("farebox limits set")]
    assert typed == f"farebox limits set --org Acme {command}"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.parse_args(shlex.split(typed)[2:])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [("D19", Severity.WRONG)]),
        ({"used": units(8.5)}, [("D19", Severity.WARNING)]),
        ({"used": units(7)}, []),
        ({"used": units(7), "held": units(3)}, []),
        ({"effect": "alert"}, [("D19", Severity.WARNING)]),
        ({"effect": "shadow"}, []),
        ({"period": "minute", "measure": "calls"}, [("D17", Severity.WARNING)]),
        ({"period": "minute", "used": units(9)}, []),
        ({"measure": "parallel"}, []),
        ({"measure": "seconds"}, []),
        ({"is_template": True}, []),
        ({"effect": "allocation", "scope_kind": "project"}, [("D22", Severity.WRONG)]),
    ],
)
def test_limits_that_would_refuse_the_next_call(
    changes: dict[str, Any], wanted: list[tuple[str, Severity]]
) -> None:
    """D19, D22: a full hard limit is wrong, a nearly full one a warning; others say nothing."""
    found = standing(case(limits=(limit("organization", **changes),)))
    assert [(each.code.value, each.severity) for each in found] == wanted


def test_what_was_stopped_is_released() -> None:
    """D89, ANO-01: the run and why it was stopped, what to type to release it, and that it was."""
    stop: dict[str, Any] = {"measure": "parallel", "effect": "stop", "maximum": 0, "used": 0}
    now = limit("run", "r-1", period="total", resets_at=None, owner="it loops", **stop)
    (stands,) = standing(case(limits=(now,)))
    call = refusal("run_stopped", limit=figures("run", "r-1", period="total", **stop))
    (found,) = refused_by(case(limits=(now,)), call, Code.D89)
    for each in (stands, found):
        assert (each.code, each.severity, each.mended) == (Code.D89, Severity.WRONG, False)
        assert each.title == "The run r-1 was stopped"
    assert stands.cause.startswith("The run r-1 was stopped: it loops.")
    see, release = stands.fixes
    assert see.command.startswith("farebox alerts list --org ")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(shlex.split(release.command)[2:])
    assert (args.run, args.parallel, args.effect) == ("r-1", "none", "stop")
    (mended,) = refused_by(case(), call, Code.D89)
    assert (mended.mended, mended.fixes[0].text) == (True, "Send the call again")
    (unknown,) = refused_by(case(), refusal("run_stopped"), Code.D89)
    assert unknown.fixes


@pytest.mark.parametrize("used", [10, 4])
def test_the_limit_of_a_tier(used: int) -> None:
    """D20, LIM-05: the tier's figures and what the next one needs; with room it is mended."""
    tier = TierFacts(
        name="Build",
        monthly_maximum=units(10),
        used=units(used),
        resets_at=NOW + 11 * DAY,
        next_name="Launch",
        next_needs=units(100),
    )
    (found,) = assigned(case(tier=tier))
    assert (found.code, found.mended) == (Code.D20, used < 10)
    assert "Launch, which needs 100.00 USD" in found.fixes[0].text
    assert [each.code for each in standing(case(tier=tier))] == ([Code.D20] if used == 10 else [])
    (unknown,) = assigned(case())
    assert unknown.code is Code.D20


def test_a_tiers_limits_are_the_tiers() -> None:
    """D17, D20, BUD-11: nobody is told to set a limit of their own in place of the tier's."""
    month = limit("organization", origin="tier", owner="tier Build")
    tier = TierFacts(
        name="Build", monthly_maximum=units(10), used=units(10), resets_at=NOW + 11 * DAY
    )
    (found,) = standing(case(limits=(month,), tier=tier))
    assert (found.code, found.title) == (Code.D20, assigned(case(tier=tier))[0].title)
    assert code_of(figures("organization", origin="tier")) is Code.D20
    tiers: dict[str, Any] = {"period": "minute", "origin": "tier"}
    rate = refused("organization", "rate_limit_exceeded", limit("organization", **tiers), **tiers)
    assert rate.code is Code.D17
    commands = [fix.command for fix in rate.fixes]
    assert any(command.startswith("farebox tiers show") for command in commands)
    assert not any("limits set" in command for command in commands)
    own = refused(
        "organization", "organization_spend_limit_exceeded", limit("organization", origin="tier")
    )
    assert (own.code, own.mended) == (Code.D19, True)  # the tier's is another limit


def test_a_tier_that_leaves_too_little_is_not_mended() -> None:
    """D20, LIM-05: what is left of the tier's month is less than the call needs: so it is said."""
    tier = TierFacts(
        name="Build", monthly_maximum=units(10), used=units(9.8), resets_at=NOW + 11 * DAY
    )
    (found,) = assigned(case(tier=tier), units(0.5))
    assert (found.code, found.mended) == (Code.D20, False)
    assert "needs up to 0.50" in found.cause
    assert assigned(case(tier=tier), units(0.2))[0].mended
    assert assigned(case(tier=tier))[0].mended


def test_waiting_is_not_advised_where_no_window_has_room() -> None:
    """D19, D21, ERR-03: a call larger than the whole limit must be smaller, or the limit larger."""
    small = limit("organization", maximum=units(0.3), used=0)
    found = refused(
        "organization", "organization_spend_limit_exceeded", small, maximum=units(0.3), used=0
    )
    texts = [fix.text for fix in found.fixes]
    assert any("smaller max_completion_tokens" in text for text in texts)
    assert not any("wait until" in text for text in texts)
    roomy = limit("organization", used=units(9.8))
    found = refused("organization", "organization_spend_limit_exceeded", roomy, used=units(9.8))
    texts = [fix.text for fix in found.fixes]
    assert any("smaller max_completion_tokens" in text for text in texts)
    assert any("wait until" in text for text in texts)


def test_a_pasted_refusal_finds_the_limit_that_is_full() -> None:
    """D18: an error without figures is matched with the limit of that kind that is full now."""
    call = refusal("project_spend_limit_exceeded")
    full = limit("project", ORG_ID.hex, owner="ann")
    (found,) = refused_by(case(limits=(full,)), call, Code.D18)
    assert found.evidence
    (found,) = refused_by(case(), call, Code.D18)
    assert "No." in found.cause
    large = refusal("rate_limit_exceeded", message="Request too large for gpt-5.4")
    (found,) = refused_by(case(), large, Code.D17)
    assert "trying again never helps" in found.cause


def test_a_limit_without_end_never_resets() -> None:
    """BUD-20: a total limit says so instead of a date."""
    found = refused(
        "user",
        "user_spend_limit_exceeded",
        limit("user", "bob", resets_at=None, period="total"),
        resets_at=None,
        period="total",
    )
    assert "never resets" in found.cause
    assert not any("wait until" in fix.text for fix in found.fixes)
