"""Giving credit and taking it back by hand: which requests may become commands of the engine.

Credit is a consumption wallet, not stored value (CRD-22): what the rules forbid outright is named
here with its rule, so that every door refuses it in the same words.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from farebox.kit.errors import InvalidInputError, RefusedError
from farebox.kit.money import Nanos
from farebox.kit.periods import one_year_after
from farebox.ledger.commands import GrantCredit, Refund
from farebox.ledger.grants import Grant, Source

REFERENCE_LENGTH_MAX: Final = 500
"""An order number, a payment id or a sentence; documents are kept elsewhere."""


class RefundException(StrEnum):
    """The closed list of reasons for which credit is refunded at all (CRD-08)."""

    ACCOUNT_CLOSURE = "account_closure"
    DISPUTE = "dispute"
    BILLING_ERROR = "billing_error"
    UNAUTHORISED_ACTIVITY = "unauthorised_activity"
    SERVICE_FAILURE = "service_failure"


FORBIDDEN: Final = {
    "transfer": (
        "transfer_not_allowed",
        "Credit cannot move between organisations (CRD-19): grant new credit to the other one.",
    ),
    "withdraw": (
        "withdrawal_not_allowed",
        "Credit cannot be paid out (CRD-22): calls consume it; see `credits refund --help`.",
    ),
    "extend": (
        "expiry_is_fixed",
        "The end of a grant cannot be moved (CRD-06): grant new credit with its own expiry.",
    ),
}
"""What no door offers -> the name of the rule, and the sentence that says so."""


def refuse(operation: str) -> RefusedError:
    """The refusal of something that does not exist (CRD-06, CRD-19, CRD-22)."""
    reason, message = FORBIDDEN[operation]
    return RefusedError(reason, message)


def plan_grant(
    organization_id: UUID,
    grant_id: UUID,
    *,
    source: Source,
    amount: Nanos,
    expires_at: datetime | None,
    reference: str | None,
    now: datetime,
) -> GrantCredit:
    """The command for a grant by hand.

    Args:
        organization_id: Whose credit it is to be.
        grant_id: Makes it once-only: the same id again gives the same grant.
        source: Where the credit comes from (CRD-03).
        amount: More than zero.
        expires_at: Its end; without one, the source's own validity: a year for purchased and
            business credit (CRD-02, CRD-05), six months for the rest (CRD-04).
        reference: The order form or reason it stands on.
        now: The database's time.

    Raises:
        InvalidInputError: Naming the field; a contract needs both its end and its order form
            (CRD-05).
        RefusedError: ``expiry_is_fixed``: purchased credit lasts a year, never longer (CRD-02,
            CRD-06); it may end earlier, such as one that was bought before it came here.
    """
    checked = _parse_reference(reference)
    if source is Source.CONTRACT and expires_at is None:
        raise InvalidInputError(
            "expires_at", "is required for a contract: its order form says when it ends"
        )
    if source is Source.CONTRACT and checked is None:
        raise InvalidInputError("reference", "is required for a contract: name its order form")
    if expires_at is not None and expires_at <= now:
        raise InvalidInputError("expires_at", f"must lie after now ({now:%Y-%m-%dT%H:%M:%SZ})")
    if source is Source.PURCHASED and expires_at is not None and expires_at > one_year_after(now):
        raise RefusedError(
            "expiry_is_fixed",
            "expires_at: purchased credit ends one calendar year after its purchase, never later "
            "(CRD-02, CRD-06); leave it out.",
        )
    return GrantCredit(
        organization_id=organization_id,
        grant_id=grant_id,
        source=source,
        amount=amount,
        expires_at=expires_at,
        reference=checked,
    )


def plan_refund(
    grant: Grant,
    command_id: UUID,
    *,
    amount: Nanos | None,
    exception: RefundException | None,
    note: str | None,
) -> Refund:
    """The command for a refund of unspent credit.

    Args:
        grant: What it is taken from.
        command_id: Makes it once-only.
        amount: More than zero; None for all that no call holds.
        exception: Which exception applies; it is kept with the posting (CRD-08).
        note: A sentence more.

    Raises:
        InvalidInputError: Naming the field.
        RefusedError: ``credit_is_not_refundable`` without an exception (CRD-07),
            ``given_credit_is_not_refundable`` for credit that nobody paid for (CRD-09).
    """
    if grant.source not in {Source.PURCHASED, Source.BUSINESS, Source.CONTRACT}:
        raise RefusedError(
            "given_credit_is_not_refundable",
            f"{grant.source.value.capitalize()} credit is never refunded (CRD-09): nobody paid it.",
        )
    if exception is None:
        named = ", ".join(RefundException)
        raise RefusedError(
            "credit_is_not_refundable",
            "Credit is not refundable unless an exception applies (CRD-07, CRD-08); "
            f"name it: {named}.",
        )
    asked = grant.unreserved if amount is None else amount
    if asked <= 0:
        raise InvalidInputError("amount", "must be more than zero: nothing of it is left to refund")
    more = _parse_reference(note, field="note")
    return Refund(
        organization_id=grant.organization_id,
        command_id=command_id,
        grant_id=grant.id,
        amount=asked,
        note=exception.value if more is None else f"{exception.value}: {more}",
    )


def _parse_reference(text: str | None, *, field: str = "reference") -> str | None:
    stripped = (text or "").strip()
    if len(stripped) > REFERENCE_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInputError(
            field, f"must have at most {REFERENCE_LENGTH_MAX} characters, on one line"
        )
    return stripped or None
