"""The doctor: the area first, the code before the balance, checks in order, no vain purchase."""

from __future__ import annotations

import argparse
import shlex
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import CONFIGURATION, ORDER, Area, Code, Step
from farebox.advice.doctor import diagnose, in_order
from farebox.advice.error_codes import KNOWN
from farebox.advice.facts import Case, KeyAsked, ModelFinding, Neighbour, TierFacts
from farebox.advice.findings import Diagnosis, Outcome, Severity, Status, finding
from farebox.cli.main import COMMANDS
from farebox.kit.money import ZERO
from farebox.ledger.grants import Source
from farebox.tenancy.api_keys import KeyState
from tests.support.doctor_cases import (
    DAY,
    INSTALLATION,
    KEY_ID,
    NOW,
    ORG_ID,
    ORG_TEXT,
    ORGANIZATION,
    PROJECT,
    REQ_TEXT,
    case,
    figures,
    grant,
    group,
    key,
    limit,
    money,
    refusal,
    spending,
    units,
)

EMPTY = money(0, grant(spent=units(5), available=ZERO, remaining=ZERO, state="used"))


def codes(diagnosis: Diagnosis) -> list[str]:
    """The findings' codes, in order."""
    return [each.code.value for each in diagnosis.findings]


def test_a_healthy_organisation_has_no_finding() -> None:
    """DOC-01: nothing wrong is said to be nothing wrong, and what was looked at is said too."""
    diagnosis = diagnose(case())
    assert (codes(diagnosis), diagnosis.status) == ([], Status.OK)
    assert diagnosis.summary == "Nothing is wrong."
    passed = [c.step for c in diagnosis.checks if c.outcome is Outcome.PASSED]
    assert {Step.ORGANIZATION, Step.BALANCE, Step.SYNC, Step.LIMITS, Step.USE} <= set(passed)


def test_the_checks_have_one_order() -> None:
    """DOC-03: account, organisation, project, key, model, error code, balance, sync, limits, ..."""
    steps = [check.step for check in diagnose(case()).checks]
    assert steps == list(Step) == sorted(Step, key=ORDER.__getitem__)
    assert [step.value for step in Step][:5] == [
        "account", "organization", "project", "key", "model",
    ]  # fmt: skip
    assert ORDER[Step.BALANCE] < ORDER[Step.SYNC] < ORDER[Step.LIMITS] < ORDER[Step.PAYMENT]


@pytest.mark.parametrize(
    ("text", "area"),
    [
        ("I have ChatGPT Plus and my key is refused", Area.SUBSCRIPTION),
        ("insufficient_quota", Area.API_BILLING),
        ("rate_limit_exceeded", Area.API_BILLING),
        ("model_not_found", Area.NOT_BILLING),
        ("invalid_api_key", Area.NOT_BILLING),
        ("upstream_quota_exhausted", Area.NOT_BILLING),
        ("500 Something went wrong", Area.NOT_BILLING),
        (ORG_TEXT, Area.API_BILLING),
        ("something else", Area.NOT_BILLING),
    ],
)
def test_the_product_area_is_decided_first(text: str, area: Area) -> None:
    """DOC-02, DOC-18: API billing, a subscription, or no billing matter."""
    assert diagnose(case(text)).area is area


def test_a_subscription_is_another_purse() -> None:
    """DOC-02, DOC-18: who pays for a chat product is told so, and what to fund instead."""
    poor = diagnose(case("My ChatGPT Plus subscription is paid", money=money(0)))
    assert codes(poor) == ["D01"]
    assert any(fix.buys for fix in poor.findings[0].fixes)
    rich = diagnose(case("My ChatGPT Plus subscription is paid"))
    assert (codes(rich), rich.status) == (["D01"], Status.OK)
    unknown = diagnose(case("ChatGPT Plus", organization=None, money=None, usable_keys=()))
    assert codes(unknown) == ["D01"]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [("model_not_found", "D06"), ("invalid_api_key", "D04"), ("mismatched_organization", "D05"),
     ("insufficient_permissions", "D07"), ("body_too_large", "D68"), ("internal_error", "D83")],
)  # fmt: skip
@pytest.mark.parametrize("facts", [money(), EMPTY], ids=["balance", "none"])
def test_the_error_code_is_read_before_the_balance(code: str, wanted: str, facts: object) -> None:
    """DOC-06, DOC-14: with a balance or without, another kind of error gets no billing advice."""
    diagnosis = diagnose(case(code, money=facts))
    assert codes(diagnosis) == [wanted]
    skipped = {c.step for c in diagnosis.checks if c.outcome is Outcome.SKIPPED}
    assert {Step.BALANCE, Step.LIMITS} <= skipped
    assert not any(fix.buys for each in diagnosis.findings for fix in each.fixes)


def test_a_refusal_by_its_id_has_its_own_figures() -> None:
    """ERR-07: the call that was refused, not some balance in general, is what is explained."""
    call = refusal("credit_balance_exhausted", needed=units(7), available=units(5))
    diagnosis = diagnose(case(REQ_TEXT, call=call))
    assert (codes(diagnosis), diagnosis.status) == (["D64"], Status.WRONG)
    values = {each.label: each.value for each in diagnosis.findings[0].evidence}
    assert values["the call needs up to"] == "7.00"
    assert diagnosis.about == REQ_TEXT


def test_what_has_been_mended_is_told_as_mended() -> None:
    """A refusal that would not be given any more says so, and is nothing wrong now."""
    call = refusal("credit_balance_exhausted", needed=units(4), available=ZERO)
    diagnosis = diagnose(case(REQ_TEXT, call=call))
    assert (codes(diagnosis), diagnosis.status) == (["D12"], Status.MENDED)
    assert diagnosis.findings[0].fixes[0].text == "Send the call again"


def test_a_broad_error_is_told_apart_by_the_newest_refusal() -> None:
    """DOC-06: ``insufficient_quota`` alone is looked up in what was refused."""
    limits = (limit("organization"),)
    full = figures("organization")
    recorded = (group("organization_spend_limit_exceeded", limit=full),)
    text = "{'error': {'code': 'insufficient_quota', 'message': 'You exceeded your current quota'}}"
    found = diagnose(case(text, refusals=recorded, limits=limits))
    assert codes(found) == ["D19"]
    assert found.findings[0].evidence


QUOTA = "{'error': {'code': 'insufficient_quota', 'message': 'You exceeded your current quota'}}"
POOR = group("credit_balance_exhausted", needed=units(1), at=NOW - timedelta(minutes=20))


REVOKED = key(state=KeyState.REVOKED, revoked_at=NOW)
ARK = Neighbour(id=KEY_ID, name="Ark", currency="USD", available=units(9), members=("ann",))


def stopped_by(code: str, **changes: Any) -> dict[str, Any]:
    """A later refusal for another reason than money."""
    scope_kind = code.partition("_")[0]
    full = figures(scope_kind, **changes) if "limit" in code and "rate" not in code else None
    known = (limit(scope_kind, **changes),) if full else ()
    return {"refusals": (POOR, group(code, limit=full)), "limits": known}


@pytest.mark.parametrize(
    ("facts", "wanted", "status"),
    [
        ({"refusals": (POOR,)}, "D12", Status.MENDED),
        (
            {
                "refusals": (POOR,),
                "money": EMPTY,
                "neighbours": (ARK,),
            },
            "D02",
            Status.WRONG,
        ),
        ({"refusals": (POOR,), "key": REVOKED}, "D04", Status.WRONG),
        (stopped_by("project_spend_limit_exceeded"), "D18", Status.WRONG),
        (stopped_by("organization_spend_limit_exceeded"), "D19", Status.WRONG),
        (stopped_by("organization_usage_limit_exceeded"), "D20", Status.WRONG),
    ],
    ids=["in time", "wrong org", "wrong key", "project", "budget", "tier"],
)
def test_a_quota_error_after_a_top_up(facts: dict[str, Any], wanted: str, status: Status) -> None:
    """DOC-05: credit was bought and the error is still there: delay, organisation, key, project,
    tier and rate are each looked at before anything is bought again.
    """
    tier = TierFacts(
        name="Build", monthly_maximum=units(10), used=units(10), resets_at=NOW + 11 * DAY
    )
    diagnosis = diagnose(case(QUOTA, **({"tier": tier} if wanted == "D20" else {}), **facts))
    assert (codes(diagnosis)[0], diagnosis.status) == (wanted, status)
    looked = {check.step for check in diagnosis.checks if check.outcome is not Outcome.SKIPPED}
    assert {Step.ORGANIZATION, Step.KEY, Step.SYNC, Step.LIMITS} <= looked
    (sync,) = [check for check in diagnosis.checks if check.step is Step.SYNC]
    assert "exact, no delay" in sync.note
    assert not any(fix.buys for each in diagnosis.findings for fix in each.fixes)


def test_a_rate_after_a_top_up_is_no_quota() -> None:
    """DOC-05, DOC-06: a funded key that is refused by a rate is told so; no credit helps."""
    body = (
        '{"error": {"message": "No.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}'
    )
    diagnosis = diagnose(case(body, refusals=(POOR,)))
    assert codes(diagnosis) == ["D17"]
    assert not any(fix.buys for each in diagnosis.findings for fix in each.fixes)


def test_an_error_that_nobody_here_gave() -> None:
    """DOC-06: with balance and no refusal, a quota error came from elsewhere: no purchase helps."""
    diagnosis = diagnose(case("insufficient_quota"))
    assert codes(diagnosis) == ["D87"]
    assert not any(fix.buys for fix in diagnosis.findings[0].fixes)
    theirs = "429 insufficient_quota https://platform.openai.com/account/billing"
    assert codes(diagnose(case(theirs, money=EMPTY))) == ["D87"]
    assert codes(diagnose(case("insufficient_quota", money=EMPTY))) == ["D12"]


def test_an_unknown_id_code_and_name() -> None:
    """What is not known here is said to be so, with what to give instead."""
    assert codes(diagnose(case(REQ_TEXT, organization=None))) == ["D81"]
    assert codes(diagnose(case(ORG_TEXT, organization=None))) == ["D81"]
    assert codes(diagnose(case("Nobody Inc", organization=None))) == ["D82"]
    assert codes(diagnose(case("429"))) == ["D82"]
    assert codes(diagnose(case('{"error":{"code":"brand_new_code"}}'))) == ["D82"]
    assert codes(diagnose(case(REQ_TEXT, call=refusal("brand_new_code")))) == ["D82"]


def test_wrong_comes_before_warning_before_note() -> None:
    """DOC-01: findings are ordered: what stands in the way first, then by the order of checks."""
    free = grant(Source.FREE, 1, spent=units(1), available=ZERO, remaining=ZERO, state="used")
    diagnosis = diagnose(
        case(
            money=money(5, free, grant(), last_charge_at=NOW),
            limits=(limit("organization"),),
            spending=spending(9, 1, 1, 1),
            installation=structs.replace(INSTALLATION, gateways_alive=0),
        )
    )
    assert codes(diagnosis) == ["D19", "D72", "D43", "D46"]
    assert [each.severity for each in diagnosis.findings] == [
        Severity.WRONG, Severity.WARNING, Severity.WARNING, Severity.NOTE,
    ]  # fmt: skip


def test_doubles_are_told_once() -> None:
    """One code about one subject is one finding."""
    one = finding(Code.D19, "a", subject="x")
    assert len(in_order([one, one, finding(Code.D19, "b", subject="y")])) == 2


def test_a_key_asked_about_leaves_other_keys_limits_alone() -> None:
    """A key's diagnosis shows the limits that bind its calls, not those of its neighbours."""
    mine, other = limit("key", KEY_ID.hex), limit("key", ORG_ID.hex)
    diagnosis = diagnose(case("fbx_live_1111", key=key(), limits=(mine, other)))
    assert [each.subject.split(":")[1] for each in diagnosis.findings] == [KEY_ID.hex]


# DOC-14 holds whatever the facts are.

KEYS = st.sampled_from(
    [
        None,
        key(),
        key(state=KeyState.REVOKED, revoked_at=NOW - DAY),
        key(state=KeyState.EXPIRED, expires_at=NOW - DAY),
        key(state=KeyState.PROJECT_ARCHIVED),
    ]
)
MONEY = st.sampled_from(
    [
        money(),
        EMPTY,
        money(-1, owed=units(1)),
        money(0, granted=ZERO),
        money(0, grant(state="expired", available=ZERO, expires_at=NOW - DAY)),
        money(0, frozen=units(5)),
    ]
)
MODELS = st.sampled_from([None, ModelFinding(asked="gpt-9", known=False)])
NEIGHBOURS = st.sampled_from(
    [
        (),
        (Neighbour(id=KEY_ID, name="B", currency="USD", available=units(9)),),
        (Neighbour(id=KEY_ID, name="B", currency="USD", available=units(9), members=("a@b",)),),
    ]
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any mixture of troubles, asked about in any way."""
    code = draw(st.sampled_from(sorted(KNOWN)))
    text = draw(st.sampled_from([ORG_TEXT, REQ_TEXT, code, "ChatGPT Plus", "fbx_live_1111"]))
    call = None
    if text == REQ_TEXT:
        kind = draw(st.sampled_from(["organization", "project", "key", "user"]))
        call = refusal(
            code,
            limit=draw(st.sampled_from([None, figures(kind)])),
            needed=units(draw(st.sampled_from([0, 1, 50]))),
            at=NOW - timedelta(hours=draw(st.integers(0, 30))),
        )
    return case(
        text,
        call=call,
        key=draw(KEYS),
        key_asked=draw(st.sampled_from([None, KeyAsked(prefix="fbx_live_1111", kind="live")])),
        money=draw(MONEY),
        model=draw(MODELS),
        neighbours=draw(NEIGHBOURS),
        organization=structs.replace(ORGANIZATION, active=draw(st.booleans())),
        project=draw(st.sampled_from([None, PROJECT, structs.replace(PROJECT, archived_at=NOW)])),
        usable_keys=draw(st.sampled_from([(), (key(),)])),
        limits=draw(st.sampled_from([(), (limit("organization"), limit("user", "bob"))])),
        refusals=draw(st.sampled_from([(), (group("key_revoked", id=KEY_ID), group(code))])),
        spending=draw(st.sampled_from([spending(), spending(9, 1, 1, 1)])),
        installation=structs.replace(INSTALLATION, providers=draw(st.sampled_from([(), ("p",)]))),
    )


@given(cases())
def test_no_purchase_is_advised_while_the_configuration_is_wrong(any_case: Case) -> None:
    """DOC-14, DOC-16: whatever is wrong, credit is no remedy for a configuration; all is whole."""
    diagnosis = diagnose(any_case)
    standing = [
        each
        for each in diagnosis.findings
        if each.severity is Severity.WRONG
        and not each.mended
        and entry_of(each.code).step in CONFIGURATION
        and each.code is not Code.D01
    ]
    buying = [fix for each in diagnosis.findings for fix in each.fixes if fix.buys]
    assert not (standing and buying)
    severities = [list(Severity).index(each.severity) for each in diagnosis.findings]
    assert severities == sorted(severities)
    for each in diagnosis.findings:
        assert each.title
        assert each.cause
        assert len({(e.label, e.value, e.source) for e in each.evidence}) == len(each.evidence)
        assert all("  " not in fix.text and not fix.text.endswith(".") for fix in each.fixes)
        for fix in each.fixes:
            assert_can_be_typed(fix.command)


def assert_can_be_typed(command: str) -> None:
    """A command that is shown is one that the program understands."""
    if not command:
        return
    program, name, *words = shlex.split(command.split(" < ", maxsplit=1)[0])
    assert program == "farebox"
    module = import_module(f"farebox.cli.{COMMANDS[name][1]}")
    parser = argparse.ArgumentParser(prog=f"farebox {name}", exit_on_error=False)
    parser.add_argument("--home")
    module.add_arguments(parser)
    if "--help" not in words:
        parser.parse_args(words)
