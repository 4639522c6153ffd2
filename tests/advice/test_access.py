"""Who calls: organisation, project, key, permission, model."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from farebox.advice import access
from farebox.advice.codes import Code
from farebox.advice.facts import KeyAsked, KeyRecord, ModelFinding, Neighbour
from farebox.advice.findings import Severity
from farebox.tenancy.api_keys import KeyState
from tests.support.doctor_cases import (
    DAY,
    INSTALLATION,
    KEY_ID,
    NOW,
    ORGANIZATION,
    PROJECT,
    case,
    group,
    key,
    units,
)

REVOKED = key(state=KeyState.REVOKED, revoked_at=NOW - DAY, used_at=NOW)
EXPIRED = key(state=KeyState.EXPIRED, expires_at=NOW - DAY)


@pytest.mark.parametrize(("found", "word"), [(REVOKED, "revoked"), (EXPIRED, "expired")])
def test_a_key_that_has_ended(found: KeyRecord, word: str) -> None:
    """D04: when it ended, who still sends it, and which key to use instead."""
    sent = group(f"key_{word}", times=7)
    (told,) = access.key(case(key=found, refusals=(sent,)))
    assert told.code is Code.D04
    assert word in told.cause
    shown = {each.label: each.value for each in told.evidence}
    assert shown["refused in the last day"] == "7 calls"
    assert "fbx_live_1111" in told.fixes[0].text
    assert told.fixes[-1].command == "farebox keys create NAME --project search --org Acme"


def test_an_active_key_is_no_finding() -> None:
    """D04: what opens is not mentioned."""
    assert access.key(case(key=key())) == []
    assert access.key(case()) == []


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (KeyAsked(prefix="fbx_live_9999", kind="live"), Code.D04, "mistyped"),
        (KeyAsked(prefix="fbx_test_9999", kind="test"), Code.D04, "a key of a sandbox"),
        (KeyAsked(prefix="fbx_live_1", kind="live", several=2), Code.D04, "2 keys begin"),
        (KeyAsked(prefix="sk-proj", kind="provider"), Code.D04, "the model provider"),
        (KeyAsked(prefix="fbx_admin_1", kind="admin", management_name="ci"), Code.D07, "manages"),
        (
            KeyAsked(
                prefix="fbx_admin_1", kind="admin", management_name="ci",
                management_revoked_at=NOW,
            ),
            Code.D07,
            "It was revoked",
        ),
    ],
)  # fmt: skip
def test_a_key_that_is_none_of_ours(asked: KeyAsked, code: Code, words: str) -> None:
    """D04, D07: unknown, of another installation, the provider's own, or one that only manages."""
    (told,) = access.key(case(key_asked=asked))
    assert told.code is code
    assert words in told.cause


def test_a_sandbox_key_in_a_sandbox_is_only_unknown() -> None:
    """D04: the kind is named only where it is the other one."""
    here = structs.replace(INSTALLATION, sandbox=True)
    (told,) = access.key(
        case(key_asked=KeyAsked(prefix="fbx_test_9", kind="test"), installation=here)
    )
    assert "mistyped" in told.cause


@pytest.mark.parametrize(
    ("code", "words"),
    [("key_revoked", "has been revoked"), ("key_expired", "has expired"), ("x", "mistyped")],
)
def test_a_refusal_for_a_key_that_is_not_known(code: str, words: str) -> None:
    """D04: what the error itself says, where nothing else is known."""
    (told,) = access.refused_key(case(), code=code)
    assert (told.code, told.mended) == (Code.D04, False)
    assert words in told.cause
    (told,) = access.refused_key(case(key=key()), code=code)
    assert told.mended


def test_a_suspended_organisation_and_an_archived_project() -> None:
    """Each is its own finding, with the way back."""
    off = structs.replace(ORGANIZATION, active=False)
    (told,) = access.organization(case(organization=off))
    assert told.code is Code.D61
    assert told.fixes[0].command == "farebox orgs update Acme --activate"
    assert access.organization(case()) == []
    archived = structs.replace(PROJECT, archived_at=NOW - DAY)
    (told,) = access.project(case(project=archived))
    assert told.code is Code.D62
    assert access.project(case(project=PROJECT)) == []
    assert access.project(case(project=structs.replace(PROJECT, archived_at=NOW + DAY))) == []


@pytest.mark.parametrize(
    ("members", "severity"), [((), Severity.WARNING), (("ann@b.example",), Severity.WRONG)]
)
def test_credit_in_another_organisation(members: tuple[str, ...], severity: Severity) -> None:
    """ORG-04: the key's organisation cannot pay, and another one of the same people could."""
    other = Neighbour(
        id=KEY_ID, name="Beta Ltd", currency="USD", available=units(7), members=members
    )
    (told,) = access.elsewhere(case(neighbours=(other,)))
    assert (told.code, told.severity) == (Code.D02, severity)
    assert "Beta Ltd has 7.00 USD" in told.cause
    assert told.fixes[0].command == "farebox keys list --org 'Beta Ltd'"
    assert access.elsewhere(case()) == []


def test_a_header_and_a_permission() -> None:
    """D05, D07: remove the header; ask an owner, by name where one is known."""
    (told,) = access.header(case())
    assert told.code is Code.D05
    assert "belongs to Acme" in told.cause
    (told,) = access.permission(case("insufficient_permissions", owners=("ann@acme.example",)))
    assert told.code is Code.D07
    assert "ann@acme.example" in told.fixes[0].text
    admin = KeyAsked(prefix="fbx_admin_1", kind="admin", management_name="ci")
    (told,) = access.permission(case(key_asked=admin))
    assert "never calls a model" in told.cause


def asked(**changes: Any) -> ModelFinding:
    """A model that is sold here, unless told otherwise."""
    values: dict[str, Any] = {
        "asked": "gpt-5.4",
        "known": True,
        "sold_by": ("openai",),
        "lanes": ("standard",),
    }
    return ModelFinding(**(values | changes))


@pytest.mark.parametrize(
    ("model", "words", "fix"),
    [
        (asked(known=False, sold_by=(), lanes=(), nearest=("gpt-5.4",)), "No provider here has",
         "Call gpt-5.4 instead"),
        (asked(sold_by=(), lanes=(), priced_in=("EUR",)), "has no price in USD", "Set its price"),
        (asked(sold_by=(), lanes=("flex",)), "has no standard price", "See what can be called"),
        (asked(sold_by=(), lanes=()), "no provider that was added", "Add the provider"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_called(model: ModelFinding, words: str, fix: str) -> None:
    """D06: unknown, unpriced in the currency, in that tier, or of no provider that was added."""
    (told,) = access.model(case(model=model))
    assert told.code is Code.D06
    assert words in told.cause
    assert told.fixes[0].text.startswith(fix)


def test_a_model_that_the_project_may_not_call() -> None:
    """D06, ORG-17: who can allow it, and the nearest that is allowed."""
    strict = structs.replace(PROJECT, allowed_models=("gpt-5*",), owner="ann")
    wanted = asked(asked="gpt-4o", nearest=("gpt-4o-mini", "gpt-5.4"))
    (told,) = access.model(case(model=wanted, project=strict))
    assert "may not call gpt-4o" in told.cause
    assert [fix.text for fix in told.fixes] == [
        "Call gpt-5.4 instead", "Have the project's owner (ann) allow it",
    ]  # fmt: skip
    assert access.model(case(model=asked(), project=strict)) == []


def test_a_model_that_can_be_called() -> None:
    """D06: a model on sale is no finding; an error about it is mended; without a name, general."""
    assert access.model(case(model=asked())) == []
    assert access.refused_model(case(model=asked()))[0].mended
    assert not access.refused_model(case())[0].mended


def test_an_organisation_without_a_key() -> None:
    """Nobody can call for it: a warning, since it may be new."""
    (told,) = access.no_key(case(usable_keys=()))
    assert (told.code, told.severity) == (Code.D85, Severity.WARNING)
    assert access.no_key(case()) == []
