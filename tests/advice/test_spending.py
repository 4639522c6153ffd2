"""How credit is spent: a jump, and the order of grants."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from farebox.advice.codes import Code
from farebox.advice.facts import SpendingFacts
from farebox.advice.findings import Severity
from farebox.advice.spending import free_first, jumped, spend_jump
from farebox.kit.ids import format_id
from farebox.kit.money import ZERO
from farebox.ledger.grants import Source
from tests.support.doctor_cases import KEY_ID, NOW, case, grant, money, spending, units


@pytest.mark.parametrize(
    ("days", "jumps"),
    [
        ((9, 1, 1, 1), True),
        ((9, 2, 3, 2.5, 1), True),
        ((9, 1, 1), False),
        ((2.9, 1, 1, 1), False),
        ((9, 1, 1, 7, 1), False),
        ((9, 0, 0, 0, 0), False),
        ((9, 0, 0, 1, 0), True),
        ((0.4, 0.1, 0.1, 0.1), False),
        ((0, 1, 1, 1), False),
        ((), False),
    ],
)
def test_when_spending_has_jumped(days: tuple[float, ...], jumps: bool) -> None:
    """D43, ANO-02: three times the median day, more than any peak, and more than cents."""
    facts = spending(*days)
    assert (spend_jump(facts) is not None) is jumps
    found = jumped(case(spending=facts))
    assert [(each.code, each.severity) for each in found] == (
        [(Code.D43, Severity.WARNING)] if jumps else []
    )


def test_a_jump_names_who_it_is_and_how_to_stop_it() -> None:
    """D43, DOC-12: attribution first: key, model, tokens a call; then how to end or cap it."""
    facts = spending(9, 1, 1, 1)
    (found,) = jumped(case(spending=facts))
    assert "100 % of it comes from the key laptop on gpt-5.4" in found.cause
    assert any(each.label == "tokens a call" for each in found.evidence)
    commands = [fix.command for fix in found.fixes]
    assert f"farebox keys revoke {format_id('key', KEY_ID)}" in commands
    assert not any(fix.buys for fix in found.fixes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"before_calls": 0}, "which was not used before"),
        ({"calls": 100, "tokens": 100_000}, "about 10 times as many calls"),
        ({"tokens": 90_000}, "9,000 tokens a call instead of 1,000"),
        ({}, "gpt-5.4."),
    ],
)
def test_what_has_changed(changes: dict[str, Any], words: str) -> None:
    """D43: somebody new, more calls, or larger ones."""
    facts = spending(9, 1, 1, 1)
    spender = structs.replace(facts.spenders[0], **changes)
    (found,) = jumped(case(spending=structs.replace(facts, spenders=(spender,))))
    assert words in found.cause


def test_calls_that_are_sent_again_are_named() -> None:
    """D43: many retries are evidence of a loop; a few are not worth a line."""
    for retried, shown in ((30, True), (3, False)):
        facts: SpendingFacts = structs.replace(
            spending(9, 1, 1, 1), retried_calls=retried, looked_at_calls=100
        )
        (found,) = jumped(case(spending=facts))
        assert any("sent again" in each.label for each in found.evidence) is shown


FREE = grant(Source.FREE, 3, spent=units(1), available=units(2))


@pytest.mark.parametrize(
    ("grants", "told"),
    [
        ((FREE, grant()), True),
        ((FREE,), False),
        ((grant(Source.FREE, 3), grant()), False),
        ((FREE, grant(spent=units(1))), False),
        ((FREE, grant(state="expired", available=ZERO)), False),
    ],
)
def test_free_credit_goes_first(grants: tuple[Any, ...], told: bool) -> None:
    """D46, DED-02: free credit spent while purchased credit stands still is explained, no more."""
    found = free_first(case(money=money(5, *grants, last_charge_at=NOW)))
    assert [(each.code, each.severity) for each in found] == (
        [(Code.D46, Severity.NOTE)] if told else []
    )
