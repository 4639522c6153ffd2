"""What was refused lately and still would be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from farebox.advice.codes import Code
from farebox.advice.doctor import diagnose
from farebox.advice.facts import HoldsFacts
from farebox.advice.findings import Severity, Status
from farebox.advice.refusals import GROUPS_MAX, explain, lately
from farebox.kit.money import ZERO
from tests.support.doctor_cases import (
    INSTALLATION,
    NOW,
    ORGANIZATION,
    REQ_TEXT,
    case,
    figures,
    group,
    limit,
    money,
    refusal,
    units,
)


def test_a_dead_key_that_is_still_sent() -> None:
    """D04: an organisation learns that an ended key is still in use, how often and when."""
    (found,) = lately(case(refusals=(group("key_revoked", times=12),)))
    assert (found.code, found.severity) == (Code.D04, Severity.WARNING)
    assert "12 calls" in found.cause
    (found,) = lately(case(refusals=(group("project_archived"),)))
    assert found.code is Code.D62


def test_what_passes_by_itself_is_a_warning_for_an_hour() -> None:
    """D17: a rate limit of this hour is told, one of this morning or one that has gone is not."""
    a_minute: dict[str, Any] = {"period": "minute", "measure": "calls", "maximum": 5, "used": 5}
    rate = figures("organization", **a_minute)
    fresh = group("rate_limit_exceeded", times=4, limit=rate)
    standing = (limit("organization", **a_minute),)
    assert [(f.code, f.severity) for f in lately(case(refusals=(fresh,), limits=standing))] == [
        (Code.D17, Severity.WARNING)
    ]
    assert lately(case(refusals=(fresh,))) == []
    held = group("balance_held", times=4)
    assert [f.code for f in lately(case(refusals=(held,)))] == [Code.D63]
    old = group("rate_limit_exceeded", limit=rate, at=NOW - timedelta(hours=3))
    assert lately(case(refusals=(old,), limits=standing)) == []


def test_only_what_still_stands_in_the_way_is_told() -> None:
    """D19, D12: refusals that would not be given any more are left out."""
    full = group("organization_spend_limit_exceeded", limit=figures("organization"))
    assert lately(case(refusals=(full,))) == []
    still = lately(case(refusals=(full,), limits=(limit("organization"),)))
    assert [f.code for f in still] == [Code.D19]
    poor = group("credit_balance_exhausted", needed=units(1))
    assert lately(case(refusals=(poor,))) == []
    found = lately(case(refusals=(poor,), money=money(0, granted=ZERO)))
    assert [f.code for f in found] == [Code.D65]


def test_an_unknown_code_is_shown_as_it_is() -> None:
    """A refusal of a newer version is not hidden, and the list has an end."""
    (found,) = lately(case(refusals=(group("from_the_future"),)))
    assert found.code is Code.D82
    assert "from_the_future" in found.cause
    many = tuple(group(f"code_{n}") for n in range(50))
    assert len(lately(case(refusals=many))) == GROUPS_MAX


def test_what_was_switched_off_and_is_on_again() -> None:
    """A suspension that has ended is mended; one that has not is wrong."""
    call = refusal("organization_suspended")
    (found,) = explain(case(), call, Code.D61)
    assert found.mended
    off = structs.replace(ORGANIZATION, active=False)
    (found,) = explain(case(organization=off), call, Code.D61)
    assert not found.mended


def test_billing_that_was_away() -> None:
    """ERR-05: with a gateway alive it has passed; with none, that is the finding."""
    call = refusal("billing_unavailable")
    (found,) = explain(case(), call, Code.D71)
    assert (found.code, found.mended) == (Code.D71, True)
    dead = structs.replace(INSTALLATION, gateways_alive=0)
    (found,) = explain(case(installation=dead), call, Code.D71)
    assert (found.code, found.severity) == (Code.D72, Severity.WRONG)
    (found,) = explain(case(), refusal("connection_refused"), Code.D72)
    assert "base_url" in found.cause


def test_money_that_never_comes_back_by_itself() -> None:
    """D74: held money whose calls nobody ends is not waited for: a worker is missing."""
    stuck = HoldsFacts(count=2, overdue=2, oldest_at=NOW - timedelta(hours=2))
    call = refusal("balance_held", needed=units(9))
    diagnosis = diagnose(case(REQ_TEXT, call=call, holds=stuck))
    assert [each.code for each in diagnosis.findings] == [Code.D74, Code.D63]


def test_an_error_of_a_call_that_was_admitted() -> None:
    """ERR-08: the error that the client got says more than the call's record."""
    text = f'{{"error": {{"code": "upstream_quota_exhausted", "message": "{REQ_TEXT}"}}}}'
    call = refusal("upstream_status_429")
    ended = structs.replace(call, status="released", ended_at=NOW)
    diagnosis = diagnose(case(text, call=ended))
    assert [each.code for each in diagnosis.findings] == [Code.D42]
    fine = structs.replace(ended, status="settled", code="", charge=units(0.1))
    assert diagnose(case(REQ_TEXT, call=fine)).findings == ()
    odd = diagnose(case('{"error": {"code": "internal_error"}}', call=fine))
    assert [each.code for each in odd.findings] == [Code.D83]


def test_an_error_of_nobody_in_particular() -> None:
    """Without an organisation the advice is general, and says how to get more."""
    alone = case("credit_balance_exhausted", organization=None, money=None, usable_keys=())
    (found,) = diagnose(alone).findings
    assert (found.code, found.evidence) == (Code.D12, ())
    assert found.title == "Not enough credit"


@pytest.mark.parametrize(
    ("code", "found"), [("credit_balance_expired", "D11"), ("credit_balance_negative", "D13")]
)
def test_a_code_that_names_the_cause_is_believed(code: str, found: str) -> None:
    """ERR-02, DOC-06: without the organisation's books the code alone says why."""
    alone = case(code, organization=None, money=None, usable_keys=())
    assert [each.code for each in diagnose(alone).findings] == [found]


def test_a_key_that_ended_since_comes_along() -> None:
    """DOC-14: money would not help any more: the key has been revoked meanwhile."""
    off = structs.replace(ORGANIZATION, active=False)
    call = refusal("credit_balance_exhausted", needed=units(1))
    diagnosis = diagnose(case(REQ_TEXT, call=call, organization=off, money=money(0, granted=ZERO)))
    assert [each.code for each in diagnosis.findings] == [Code.D61, Code.D65]
    assert diagnosis.status is Status.WRONG
    assert not any(fix.buys for each in diagnosis.findings for fix in each.fixes)
