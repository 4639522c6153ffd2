"""Which credit requests may become commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, RefusedError
from farebox.kit.money import Nanos
from farebox.kit.periods import one_year_after
from farebox.ledger.commands import GrantCredit
from farebox.ledger.grants import Grant, Source
from farebox.operations.credits import (
    FORBIDDEN,
    RefundException,
    plan_grant,
    plan_refund,
    refuse,
)

NOW = datetime(2028, 2, 29, 15, tzinfo=UTC)
ORG, GRANT, COMMAND = UUID(int=1), UUID(int=2), UUID(int=3)


def planned(
    source: Source, *, expires_at: datetime | None = None, reference: str | None = None
) -> GrantCredit:
    """What becomes of a request for a grant at NOW."""
    return plan_grant(
        ORG,
        GRANT,
        source=source,
        amount=Nanos(5),
        expires_at=expires_at,
        reference=reference,
        now=NOW,
    )


def a_grant(source: Source, *, reserved: int = 0) -> Grant:
    """A grant of ten of which two are spent."""
    return Grant(
        id=GRANT,
        organization_id=ORG,
        sequence=1,
        source=source,
        amount=Nanos(10),
        remaining=Nanos(8),
        reserved=Nanos(reserved),
        frozen=Nanos(0),
        repaid=Nanos(0),
        expired=Nanos(0),
        refunded=Nanos(0),
        effective_at=NOW,
        expires_at=None,
    )


def test_a_contract_needs_its_end_and_its_order_form() -> None:
    """CRD-05: enterprise credit ends as its order form says, never by a default."""
    with pytest.raises(InvalidInputError, match="expires_at"):
        planned(Source.CONTRACT, reference="OF-7")
    with pytest.raises(InvalidInputError, match="reference"):
        planned(Source.CONTRACT, expires_at=NOW + timedelta(days=900), reference="  ")
    command = planned(Source.CONTRACT, expires_at=NOW + timedelta(days=900), reference=" OF-7 ")
    assert (command.expires_at, command.reference) == (NOW + timedelta(days=900), "OF-7")


def test_purchased_credit_never_lasts_longer_than_its_year() -> None:
    """CRD-02, CRD-06: a year to the instant may be named, a moment more is refused by the rule."""
    year = one_year_after(NOW)
    assert planned(Source.PURCHASED).expires_at is None
    assert planned(Source.PURCHASED, expires_at=year).expires_at == year
    with pytest.raises(RefusedError, match="CRD-06") as caught:
        planned(Source.PURCHASED, expires_at=year + timedelta(microseconds=1))
    assert caught.value.reason == "expiry_is_fixed"


@pytest.mark.parametrize("source", [Source.FREE, Source.PROMO, Source.GRANT, Source.ADJUSTMENT])
def test_given_credit_carries_its_own_end(source: Source) -> None:
    """CRD-04: independent of the one-year rule, but never in the past."""
    later = NOW + timedelta(days=800)
    assert planned(source, expires_at=later).expires_at == later
    with pytest.raises(InvalidInputError, match="expires_at must lie after now"):
        planned(source, expires_at=NOW)


@pytest.mark.parametrize("text", ["x" * 501, "two\nlines"])
def test_a_reference_is_one_line(text: str) -> None:
    """Nothing that a table or a receipt could not show."""
    with pytest.raises(InvalidInputError, match="reference"):
        planned(Source.FREE, reference=text)


@pytest.mark.parametrize("operation", sorted(FORBIDDEN))
def test_what_does_not_exist_is_refused_with_its_rule(operation: str) -> None:
    """CRD-06, CRD-19, CRD-22: no transfer, no withdrawal, no longer life; each names its rule."""
    error = refuse(operation)
    assert error.reason in {"transfer_not_allowed", "withdrawal_not_allowed", "expiry_is_fixed"}
    assert "CRD-" in error.message


def test_bought_credit_is_refunded_only_by_an_exception() -> None:
    """CRD-07, CRD-08: refused without an exception of the closed list; with one it is noted."""
    grant = a_grant(Source.PURCHASED, reserved=3)
    with pytest.raises(RefusedError) as caught:
        plan_refund(grant, COMMAND, amount=None, exception=None, note=None)
    assert caught.value.reason == "credit_is_not_refundable"
    command = plan_refund(
        grant, COMMAND, amount=None, exception=RefundException.ACCOUNT_CLOSURE, note="left us"
    )
    assert (command.amount, command.note) == (5, "account_closure: left us")


@pytest.mark.parametrize("source", [Source.PROMO, Source.FREE, Source.GRANT, Source.ADJUSTMENT])
def test_given_credit_is_never_refunded(source: Source) -> None:
    """CRD-09: promo credit is not refundable even where an exception applies."""
    with pytest.raises(RefusedError) as caught:
        plan_refund(
            a_grant(source),
            COMMAND,
            amount=Nanos(1),
            exception=RefundException.BILLING_ERROR,
            note=None,
        )
    assert caught.value.reason == "given_credit_is_not_refundable"
