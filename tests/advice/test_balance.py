"""What there is to spend: expired, used up, negative, frozen, not begun, too little."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from farebox.advice.balance import held, set_aside, shortage, vanished
from farebox.advice.facts import MoneyFacts
from farebox.advice.findings import Finding, Severity
from farebox.kit.money import ZERO
from farebox.ledger.grants import Source
from tests.support.doctor_cases import (
    DAY,
    NOW,
    PROJECT,
    case,
    grant,
    limit,
    money,
    refusal,
    spending,
    units,
)

USED = grant(spent=units(5), available=ZERO, remaining=ZERO, state="used")
ENDED = grant(
    Source.PROMO, 3, spent=units(1), available=ZERO, remaining=ZERO, expired=units(2),
    state="expired", expires_at=NOW - 2 * DAY,
)  # fmt: skip
NOT_POSTED = grant(Source.PROMO, 3, available=ZERO, state="expired", expires_at=NOW - 2 * DAY)
CALL = refusal("credit_balance_exhausted", needed=units(1), available=ZERO)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (money(0, USED, last_charge_at=NOW), "D12"),
        (money(0, ENDED, last_charge_at=NOW - 3 * DAY), "D11"),
        (money(0, NOT_POSTED), "D11"),
        (money(0, USED, ENDED, last_charge_at=NOW - 3 * DAY), "D11"),
        (money(0, USED, ENDED, last_charge_at=NOW - DAY), "D12"),
        (money(-2, USED, owed=units(2), last_charge_at=NOW), "D13"),
        (money(-2, ENDED, owed=units(2)), "D13"),
        (money(0, granted=ZERO), "D65"),
        (money(0, grant(state="frozen", available=ZERO), frozen=units(5)), "D66"),
        (money(0, grant(state="pending", available=ZERO), pending=units(5)), "D67"),
        (money(0.5, grant(spent=units(4.5)), last_charge_at=NOW), "D12"),
        (money(0.9, grant(spent=units(4.1)), last_charge_at=NOW), "D64"),
        (money(0.5, grant(amount=0.5)), "D64"),
        (money(0, USED, spendable=units(0.5), floor=units(0.5), last_charge_at=NOW), "D12"),
    ],
)
def test_each_reason_for_too_little_is_its_own(facts: MoneyFacts, code: str) -> None:
    """DOC-04: expired, used up, negative, never given, frozen, not begun, or one large call."""
    (found,) = shortage(case(money=facts), CALL)
    assert found.code.value == code
    assert found.severity is Severity.WRONG
    assert not found.mended
    assert any(fix.buys for fix in found.fixes)
    assert found.evidence


def remedies(found: Finding) -> tuple[str, ...]:
    """What to do, without the amounts."""
    return tuple(fix.text for fix in found.fixes)


def test_every_reason_has_its_own_remedy() -> None:
    """DOC-04: no two of them advise the same."""
    facts = [
        money(0, USED, last_charge_at=NOW),
        money(0, ENDED),
        money(-2, USED, owed=units(2)),
        money(0.9, grant(spent=units(4.1))),
        money(0, frozen=units(5)),
    ]
    told = [remedies(shortage(case(money=each), CALL)[0]) for each in facts]
    assert len(set(told)) == len(told)
    assert told[0][0] == "See what spent it"
    assert told[1][-1].startswith("Buy as much as is used")


def test_enough_money_is_no_shortage() -> None:
    """D11, D12: with enough to spend there is nothing to say; a call that was refused is mended."""
    assert shortage(case()) == []
    (found,) = shortage(case(), CALL)
    assert found.mended


def test_expired_is_never_called_used() -> None:
    """CRD-12: what expired is counted as expired in the cause and the evidence."""
    (found,) = shortage(case(money=money(0, ENDED)), CALL)
    assert "It expired: no call used it" in found.cause
    shown = {each.label: each.value for each in found.evidence}
    assert (shown["expired"], shown["spent"]) == ("2.00", "1.00")


def test_the_amount_to_add_covers_what_is_missing() -> None:
    """NEG-04: with a debt, what to buy is more than the debt; never less than the smallest sale."""
    (found,) = shortage(case(money=money(-7.3, USED, owed=units(7.3))), CALL)
    (buy,) = [fix for fix in found.fixes if fix.buys]
    assert "--amount 9.00 " in buy.command
    (found,) = shortage(case(money=money(0, USED)), CALL)
    assert "--amount 5.00 " in found.fixes[-1].command


def test_attribution_comes_before_a_top_up() -> None:
    """DOC-12: used up: who spent most is shown, and the calls are the first thing to look at."""
    (found,) = shortage(
        case(money=money(0, USED, last_charge_at=NOW), spending=spending(4, 1)), CALL
    )
    assert any("laptop on gpt-5.4" in each.label for each in found.evidence)
    assert not found.fixes[0].buys


@pytest.mark.parametrize(
    ("changes", "mended"),
    [({"available": 0}, False), ({"available": 5}, True)],
)
def test_money_that_open_calls_hold(changes: dict[str, Any], mended: bool) -> None:
    """LIM-02: held money is no lack of money: wait, and hold less; nothing is to be bought."""
    call = refusal("balance_held", needed=units(1), held=units(4))
    (found,) = held(case(money=money(**changes)), call)
    assert found.code.value == "D63"
    assert found.mended is mended
    assert not any(fix.buys for fix in found.fixes)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("credit_balance_exhausted", "D12"),
        ("credit_balance_expired", "D11"),
        ("credit_balance_negative", "D13"),
    ],
)
def test_what_is_mended_keeps_the_name_that_its_code_gave_it(said: str, told: str) -> None:
    """ERR-02: whose credit had expired is not told that it was used up, now that there is more."""
    (found,) = shortage(case(money=money(5, grant())), refusal(said, needed=units(1)))
    assert (found.code.value, found.mended) == (told, True)


def test_credit_that_other_projects_keep() -> None:
    """CRD-21: money there is, but set aside: whose allocation keeps how much."""
    call = refusal("credit_set_aside", needed=units(2))
    kept = limit("project", "ff" * 16, effect="allocation", maximum=units(6), used=units(2))
    own = limit("project", PROJECT.id.hex, effect="allocation", maximum=units(9), used=ZERO)
    (found,) = set_aside(case(limits=(kept, own), project=PROJECT), call)
    assert (found.code.value, found.mended) == ("D88", False)
    assert any("kept for the project" in e.label and e.value == "4.00" for e in found.evidence)
    (found,) = set_aside(case(limits=(own,), project=PROJECT), call)
    assert found.mended


@pytest.mark.parametrize("expired", [ENDED, NOT_POSTED])
def test_credit_that_has_vanished(expired: Any) -> None:
    """D47, CRD-12: what expired lately is told with its date, posted by a job or not."""
    (found,) = vanished(case(money=money(5, expired, grant())))
    assert (found.code.value, found.severity) == ("D47", Severity.NOTE)
    assert "--org Acme" in found.fixes[0].command


def test_credit_that_will_vanish() -> None:
    """D47, CRD-14: what will not be used by its end is told before; what will be is not."""
    ending = grant(Source.GRANT, 10, expires_at=NOW + 5 * DAY)
    idle = vanished(case(money=money(10, ending)))
    assert [(f.code.value, f.severity) for f in idle] == [("D47", Severity.WARNING)]
    assert "10.00 USD of it will be left" in idle[0].cause
    slow = vanished(case(money=money(10, ending), spending=spending(1, 1, 1)))
    assert "5.00 USD of it will be left" in slow[0].cause
    assert vanished(case(money=money(10, ending), spending=spending(3, 3, 3))) == []


def test_credit_that_stays_is_not_mentioned() -> None:
    """D47: neither an end far away nor one long past is worth a word."""
    old = grant(state="expired", available=ZERO, expires_at=NOW - timedelta(days=200))
    assert vanished(case(money=money(5, old, grant()))) == []
