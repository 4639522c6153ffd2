"""The double-entry journal of money: what every posting debits and credits.

It holds money only; holds are rows, not entries (ENGINE.md). A debit is positive, a credit is
negative, and the entries of a posting sum to zero. A batch posts its calls as one posting that
names the first and the last sequence it covers; everything else is a posting of its own.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos


class Account(StrEnum):
    """The chart of accounts, per organisation."""

    CUSTOMER_CREDIT = "customer_credit"
    """Liability: unspent credit of the customer."""
    RECEIVABLE = "receivable"
    """Asset: what the customer owes."""
    REVENUE = "revenue"
    """Metered usage at the book's price."""
    PROMOTION_EXPENSE = "promotion_expense"
    """Credit given away."""
    BREAKAGE = "breakage"
    """Credit that lapsed unused."""
    CLEARING = "clearing"
    """Money between the payment processor and the bank."""
    REFUNDS = "refunds"
    """Credit taken back: to be repaid, charged back, or corrected."""
    ABSORBED = "absorbed"
    """Usage beyond a hold that fitted nothing: the operator's cost."""


class PostingKind(StrEnum):
    """Why money moved."""

    CALLS = "calls"
    LATE = "late"
    GRANT = "grant"
    REPAYMENT = "repayment"
    BREAKAGE = "breakage"
    REFUND = "refund"
    DISPUTE_LOST = "dispute_lost"
    DISPUTE_WON = "dispute_won"
    CORRECTION = "correction"


class Posting(msgspec.Struct, frozen=True):
    """One balanced transaction of the journal."""

    organization_id: UUID
    kind: PostingKind
    at: datetime
    """The instant it counts from: for breakage the grant's end, else engine time (CRD-11)."""
    accounts: tuple[Account, ...]
    amounts: tuple[Nanos, ...]
    grant_id: UUID | None = None
    call_id: UUID | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    note: str | None = None


def posting(
    organization_id: UUID,
    kind: PostingKind,
    at: datetime,
    entries: dict[Account, int],
    *,
    grant_id: UUID | None = None,
    call_id: UUID | None = None,
    sequences: tuple[int, int] | None = None,
    note: str | None = None,
) -> Posting:
    """Make a posting, leaving out empty entries; the rest must sum to zero."""
    kept = {account: amount for account, amount in entries.items() if amount}
    assert sum(kept.values()) == 0, kept
    first, last = sequences or (None, None)
    return Posting(
        organization_id=organization_id,
        kind=kind,
        at=at,
        accounts=tuple(kept),
        amounts=tuple(Nanos(amount) for amount in kept.values()),
        grant_id=grant_id,
        call_id=call_id,
        first_sequence=first,
        last_sequence=last,
        note=note,
    )
