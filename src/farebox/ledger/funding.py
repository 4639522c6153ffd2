"""Money in and out of grants: credit, purchases, refunds, disputes, corrections and expiry.

Refund and freeze take only what no call holds. Debt arises from a lost dispute or an operator's
correction, and the next repaying grant pays it first (NEG-04).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from farebox.kit.money import ZERO, Nanos, format_amount
from farebox.kit.periods import months_after, one_year_after
from farebox.ledger.commands import (
    Correct,
    Dispute,
    DisputeStep,
    Done,
    ExpireGrants,
    GrantCredit,
    Granted,
    Refund,
    Refused,
    Result,
    fingerprint,
)
from farebox.ledger.grants import PAID, REPAYING, Grant, GrantState, Source
from farebox.ledger.journal import Account, PostingKind

if TYPE_CHECKING:
    from datetime import datetime

    from farebox.ledger.books import Books

FREE_VALIDITY_MONTHS: Final = 6
"""Validity of free, promo and plain grants that name no end; 3 to 12 is usual (CRD-04)."""

OPEN_GRANTS_MAX: Final = 1_000
"""Grants with money left that one organisation may have: every batch reads them all."""


def grant_credit(books: Books, command: GrantCredit) -> Result:
    """Make a grant; a repaying one pays what is owed before anything else (CRD-01, NEG-04)."""
    known = books.grant_by_id.get(command.grant_id)
    if known is not None:
        return _granted_before(books, command, known)
    if len(books.grants) >= OPEN_GRANTS_MAX:
        message = f"An organisation may have {OPEN_GRANTS_MAX} grants with money left at most."
        return Refused(code="too_many_grants", message=message)
    effective_at = command.effective_at or books.now
    expires_at = command.expires_at
    if expires_at is None and command.default_expiry:
        if command.source is Source.CONTRACT:
            return Refused(
                code="expiry_required",
                message="A contract's credit ends as its order form says: give expires_at.",
            )
        expires_at = default_expiry(command.source, effective_at)
    if expires_at is not None and expires_at <= max(effective_at, books.now):
        return Refused(
            code="already_expired", message="expires_at lies in the past, or before effective_at."
        )
    grant = Grant(
        id=command.grant_id,
        organization_id=command.organization_id,
        sequence=books.next_sequence(),
        source=command.source,
        amount=command.amount,
        remaining=command.amount,
        reserved=ZERO,
        frozen=ZERO,
        repaid=ZERO,
        expired=ZERO,
        refunded=ZERO,
        effective_at=effective_at,
        expires_at=expires_at,
        repays=command.source in REPAYING,
        reference=command.reference,
    )
    books.add_grant(grant)
    funded_by = Account.CLEARING if command.source in PAID else Account.PROMOTION_EXPENSE
    books.post(
        PostingKind.GRANT,
        {funded_by: command.amount, Account.CUSTOMER_CREDIT: -command.amount},
        grant_id=grant.id,
    )
    repaid = books.repay_from(grant) if grant.repays and grant.is_live(books.now) else ZERO
    return Granted(
        grant_id=grant.id,
        amount=grant.amount,
        repaid=repaid,
        expires_at=expires_at,
        available=books.available,
    )


def default_expiry(source: Source, effective_at: datetime) -> datetime:
    """When a grant ends that names no end: purchased and business after a year (CRD-02, CRD-05)."""
    if source in {Source.PURCHASED, Source.BUSINESS}:
        return one_year_after(effective_at)
    return months_after(effective_at, FREE_VALIDITY_MONTHS)


def expire_grants(books: Books, command: ExpireGrants) -> Result:
    """Nothing more to do: the books post breakage before any command is decided (CRD-11)."""
    assert command.organization_id == books.organization.id
    expired = sum(
        posting.amounts[0]
        for posting in books.changes.postings
        if posting.kind is PostingKind.BREAKAGE
    )
    return Done(available=books.available, amount=Nanos(expired))


def refund(books: Books, command: Refund) -> Result:
    """Take back a part of a grant that no call holds."""
    known = _known(books, command)
    if known is not None:
        return known
    grant = books.grant_by_id.get(command.grant_id)
    if grant is None:
        return Refused(code="grant_not_found", message="There is no such grant.")
    if command.amount > grant.unreserved:
        message = (
            f"Only {format_amount(grant.unreserved)} of this grant is unspent and not held; "
            "refund at most that."
        )
        return Refused(code="not_refundable", message=message, available=grant.unreserved)
    books.take_back(grant, command.amount)
    books.post(
        PostingKind.REFUND,
        {Account.CUSTOMER_CREDIT: command.amount, Account.REFUNDS: -command.amount},
        grant_id=grant.id,
        note=command.note,
    )
    _remember(books, command)
    return Done(available=books.available, amount=command.amount)


def dispute(books: Books, command: Dispute) -> Result:
    """Follow a payment dispute: opened freezes, won gives back, lost claws back."""
    grant = books.grant_by_id.get(command.grant_id)
    if grant is None:
        return Refused(code="grant_not_found", message="There is no such grant.")
    if grant.state is GrantState.LOST or (grant.state, command.step) in {
        (GrantState.OPEN, DisputeStep.WON),
        (GrantState.FROZEN, DisputeStep.OPENED),
    }:
        # A repeated or reordered notice: what it says has happened already.
        return Done(available=books.available, exists=True)
    if grant.state is GrantState.OPEN:
        books.freeze(grant, grant.unreserved)
        grant.state = GrantState.FROZEN
    if command.step is DisputeStep.WON:
        _give_back(books, grant)
    elif command.step is DisputeStep.LOST:
        _claw_back(books, grant)
    books.touch(grant)
    return Done(available=books.available)


def correct(books: Books, command: Correct) -> Result:
    """Correct downwards: live unreserved credit in burn-down order, the rest is owed."""
    known = _known(books, command)
    if known is not None:
        return known
    rest: int = command.amount
    for grant in books.grants:
        part = Nanos(min(rest, grant.unreserved)) if grant.is_live(books.now) else ZERO
        if part:
            books.take_back(grant, part)
            rest -= part
    org = books.organization
    org.owed = Nanos(org.owed + rest)
    org.refunded = Nanos(org.refunded + rest)
    books.post(
        PostingKind.CORRECTION,
        {
            Account.CUSTOMER_CREDIT: command.amount - rest,
            Account.RECEIVABLE: rest,
            Account.REFUNDS: -command.amount,
        },
        note=command.note,
    )
    _remember(books, command)
    return Done(available=books.available, amount=command.amount)


def _remember(books: Books, command: Refund | Correct) -> None:
    """Note that a command took effect, so that its replay does not."""
    mark = fingerprint(command)
    books.known_commands[command.command_id] = mark
    books.changes.commands.append((books.organization.id, command.command_id, mark))
    books.touched = True


def _known(books: Books, command: Refund | Correct) -> Result | None:
    """The answer to a command that took effect before; None if it did not."""
    mark = books.known_commands.get(command.command_id)
    if mark is None:
        return None
    if mark != fingerprint(command):
        return Refused(
            code="exists_with_different_fields",
            message="A command with this id took effect before, with other fields.",
        )
    return Done(available=books.available, amount=command.amount, exists=True)


def _granted_before(books: Books, command: GrantCredit, known: Grant) -> Result:
    expires_at = command.expires_at
    if expires_at is None and command.default_expiry:
        expires_at = default_expiry(known.source, known.effective_at)
    for field, old, new in (
        ("source", known.source, command.source),
        ("amount", known.amount, command.amount),
        ("effective_at", known.effective_at, command.effective_at or known.effective_at),
        ("expires_at", known.expires_at, expires_at),
        ("reference", known.reference, command.reference),
    ):
        if old != new:
            message = f"This grant exists with a different {field}."
            return Refused(code=f"exists_with_different_{field}", message=message)
    return Granted(
        grant_id=known.id,
        amount=known.amount,
        repaid=known.repaid,
        expires_at=known.expires_at,
        available=books.available,
        exists=True,
    )


def _give_back(books: Books, grant: Grant) -> None:
    """A dispute was won: the frozen part is spendable again, or breakage if its end has passed."""
    books.freeze(grant, -grant.frozen)
    grant.state = GrantState.OPEN
    if grant.repays and grant.has_begun(books.now):
        books.repay_from(grant)
    if grant.has_expired(books.now) and grant.unreserved:
        books.break_off(grant, grant.unreserved, at=books.now, kind=PostingKind.DISPUTE_WON)


def _claw_back(books: Books, grant: Grant) -> None:
    """A dispute was lost: unspent money is taken back, spent money and what it repaid is owed.

    What open calls hold stays theirs; the books take it back, or owe it, when they end.
    """
    org = books.organization
    unspent = grant.frozen
    books.freeze(grant, -unspent)
    books.take_back(grant, unspent)
    spent = grant.drawn + grant.repaid
    org.owed = Nanos(org.owed + spent)
    org.refunded = Nanos(org.refunded + spent)
    grant.state = GrantState.LOST
    books.post(
        PostingKind.DISPUTE_LOST,
        {
            Account.CUSTOMER_CREDIT: unspent,
            Account.RECEIVABLE: spent,
            Account.REFUNDS: -(unspent + spent),
        },
        grant_id=grant.id,
    )
