"""Admission: may this call leave, and with how much held?

Every check and every limit is decided here at once, under the organisation's lock: all or nothing,
with the refusal naming what stood in the way and its figures (DESIGN.md decision 4).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from msgspec import structs

from farebox.kit.money import UNITS_PER_PRICE, Nanos, format_amount
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Attribution,
    Done,
    Extend,
    Refused,
    Result,
    fingerprint,
    hold_amount,
)
from farebox.ledger.counters import (
    NOTHING,
    Amounts,
    Called,
    Standing,
    limit_figures,
    money_room,
    token_room,
)
from farebox.ledger.holds import Dimensions, Hold
from farebox.ledger.limits import RATES, LimitFigures
from farebox.ledger.scopes import scopes_of
from farebox.ledger.state import ClosedCall, NewHold
from farebox.ledger.turning_away import refuse_limit

if TYPE_CHECKING:
    from farebox.ledger.books import Books

CREDIT_SET_ASIDE: Final = "credit_set_aside"
"""There is money, and other projects' allocations keep it (CRD-21)."""

QUARTER: Final = 4
"""A call that names no output limit may hold a quarter of what is available for its output."""


def admit(books: Books, command: Admit) -> Result:
    """Decide one admission."""
    replay = _admitted_before(books, command)
    if replay is not None:
        return replay
    refusal = _forbidden(books, command)
    if refusal is not None:
        return refusal
    about = command.attribution
    limits = books.counters.standing_now(called_of(books, command.dimensions, about))
    spendable = books.spendable_for(command.dimensions.project_id)
    output_tokens = affordable_output(command, spendable, limits)
    amount = hold_amount(command, output_tokens)
    amounts = Amounts(amount, command.input_tokens + output_tokens)
    refusal = unaffordable(books, amounts, limits, spendable)
    if refusal is not None:
        return refusal if refusal.limit is None else structs.replace(refusal, rates=_rates(limits))
    before, figures = books.available, tuple(map(limit_figures, limits))
    earmarks, unsecured = books.earmark(amount)
    hold = Hold(
        call_id=command.call_id,
        organization_id=command.organization_id,
        node_id=command.node_id,
        epoch=command.epoch,
        amount=amount,
        unsecured=unsecured,
        earmarks=tuple(earmarks),
        raised=books.counters.hold(limits, amounts),
        admitted_at=books.now,
        latest_end=books.now + command.latest_end_after,
        dimensions=command.dimensions,
        fingerprint=fingerprint(command),
        output_limit=output_tokens,
        tokens=amounts.tokens,
        user=about.user,
        run=about.run,
        tags=about.tags,
    )
    books.holds[hold.call_id] = hold
    books.changes.new_holds.append(NewHold(hold, command, before, figures))
    return _admitted(books, hold, rates=_rates(limits))


def extend(books: Books, command: Extend) -> Result:
    """Decide an extension: the same checks of money and limits, no check of the key.

    A running call finishes even if its key was revoked meanwhile (ENGINE.md, "A batch").
    """
    hold = books.holds.get(command.call_id)
    if hold is None:
        return Refused(code="hold_not_found", message="No open hold of that call.")
    owner = (command.node_id, command.epoch)
    if books.epochs.get(command.node_id) != command.epoch or owner != (hold.node_id, hold.epoch):
        return _stale_epoch()
    if command.step <= hold.steps:
        return Done(available=books.available, amount=hold.amount, exists=True)
    limits = books.counters.standing_of(hold.raised)
    more = Amounts(command.amount, command.tokens, 0)
    own = Amounts(hold.amount, hold.tokens)
    spendable = books.spendable_for(hold.dimensions.project_id)
    refusal = unaffordable(books, more, limits, spendable, own=own)
    if refusal is not None:
        return refusal
    larger = enlarge(books, hold, more, step=command.step)
    return Done(available=books.available, amount=larger.amount)


def enlarge(books: Books, hold: Hold, more: Amounts, *, step: int | None = None) -> Hold:
    """Add an amount that fits to a hold: earmarks, floor and the counters of its own windows."""
    earmarks, unsecured = books.earmark(Nanos(more.money))
    larger = copy(hold)
    larger.amount = Nanos(hold.amount + more.money)
    larger.tokens = hold.tokens + more.tokens
    larger.unsecured = Nanos(hold.unsecured + unsecured)
    larger.earmarks = (*hold.earmarks, *earmarks)
    larger.raised = books.counters.hold_more(hold.raised, more)
    larger.steps = hold.steps if step is None else step
    books.change_hold(larger)
    return larger


def called_of(
    books: Books, dimensions: Dimensions, about: Attribution | Hold | ClosedCall
) -> Called:
    """What the limits of a call are found by."""
    scopes = scopes_of(
        books.organization.id, dimensions, user=about.user, run=about.run, tags=about.tags
    )
    return Called(scopes, dimensions.model, about.run)


def affordable_output(command: Admit, spendable: int, limits: list[Standing]) -> int:
    """The output tokens to hold for: what the client named, else a quarter of what is spendable.

    Args:
        command: The admission.
        spendable: What the balance and the floor allow.
        limits: Those that bind the call; what they leave may be less.
    """
    if command.output_min == command.output_max:
        return command.output_max
    most = command.output_max
    if command.output_price:
        quarter = max(0, spendable) // QUARTER * UNITS_PER_PRICE // command.output_price
        # Nor more than fits beside the part that does not depend on output, if anything does.
        rest = max(0, money_room(limits, spendable) - command.fixed)
        most = min(most, quarter, rest * UNITS_PER_PRICE // command.output_price)
    tokens = token_room(limits)
    if tokens is not None:
        most = min(most, tokens - command.input_tokens)
    return max(command.output_min, most)


def unaffordable(
    books: Books,
    amounts: Amounts,
    limits: list[Standing],
    spendable: Nanos,
    *,
    own: Amounts = NOTHING,
) -> Refused | None:
    """Why a call does not fit the balance or a limit; None where it fits everything.

    What posted money could pay, and only open holds block, is marked so: such a call may wait in
    order. A limit that posted money has reached comes before one that holds block.

    Args:
        books: The organisation's.
        amounts: What is asked for.
        limits: The limits that bind the call, with the windows of its admission.
        spendable: What the balance and the floor allow this call's project.
        own: What the call holds already: it cannot wait for that to come back.
    """
    blocked: Refused | None = None
    if amounts.money > spendable:
        refused = _short(books, Nanos(amounts.money), Nanos(own.money), spendable)
        if not refused.blocked_by_holds:
            return refused
        blocked = refused
    for each in limits:
        asked = amounts.of(each.rule.measure)
        # A running call that asks for none of what a lowered limit counts is not in its way.
        if each.refuses and not each.takes(amounts) and (asked or own is NOTHING):
            refused = refuse_limit(books, each, amounts, own)
            if not refused.blocked_by_holds:
                return refused
            blocked = blocked or refused
    return blocked


def _short(books: Books, amount: Nanos, own: Nanos, spendable: Nanos) -> Refused:
    """The refusal for lack of money, told apart from money that open calls hold."""
    returns = sum(grant.reserved for grant in books.grants if grant.is_live(books.now))
    posted = spendable + returns + books.organization.unsecured_held
    by_holds = own + amount <= posted
    available, held = format_amount(books.available), format_amount(books.held)
    aside = Nanos(books.spendable - spendable)
    if amount <= books.spendable:
        return Refused(
            code=CREDIT_SET_ASIDE,
            message=f"You have {available} available, of which {format_amount(aside)} is set aside "
            f"for other projects, and this call needs up to {format_amount(amount)}. Add credits, "
            "or lower an allocation.",
            needed=amount,
            available=books.available,
            held=books.held,
            blocked_by_holds=by_holds,
        )
    message = (
        f"This call needs up to {format_amount(amount)}, and {available} is available "
        f"while open calls hold {held}; try again shortly."
        if by_holds
        else f"You have {available} available and this call needs up to {format_amount(amount)}. "
        "Add credits, or ask for less output."
    )
    code = "balance_held" if by_holds else "credit_balance_exhausted"
    if not by_holds and books.organization.owed > 0 > books.available:
        code = "credit_balance_negative"
        message = (
            f"The balance is {available}: more was used than there is credit. This call needs up "
            f"to {format_amount(amount)}. Add credits: they repay what is owed first."
        )
    elif not by_holds and _has_expired(books, amount):
        code = "credit_balance_expired"
        message = (
            f"Your credit has expired: {format_amount(books.organization.expired)} in all was not "
            f"used by its end. You have {available} available and this call needs up to "
            f"{format_amount(amount)}. Add credits."
        )
    return Refused(
        code=code,
        message=message,
        needed=amount,
        available=books.available,
        held=books.held,
        blocked_by_holds=by_holds,
    )


def _has_expired(books: Books, amount: Nanos) -> bool:
    """Whether expiry is why there is no money: none is live, and what expired could have paid.

    Ended grants are not loaded; the organisation's total of what expired, and the absence of any
    live money, say it without another read. Whoever spends leaves a rest too small for the next
    call on a live grant, and is told that it is exhausted.
    """
    live = any(grant.remaining and grant.is_live(books.now) for grant in books.grants)
    return not live and amount <= books.spendable + books.organization.expired


def _admitted_before(books: Books, command: Admit) -> Result | None:
    hold = books.holds.get(command.call_id)
    closed = books.closed.get(command.call_id)
    known = hold.fingerprint if hold else closed.admit_fingerprint if closed else None
    if known is None:
        return None
    if known != fingerprint(command):
        return Refused(
            code="exists_with_different_fields",
            message="A call with this id was admitted before, with other fields.",
        )
    if hold is None:
        return Refused(code="hold_closed", message="This call was admitted before and has ended.")
    return _admitted(books, hold, exists=True)


def _admitted(
    books: Books, hold: Hold, *, exists: bool = False, rates: tuple[LimitFigures, ...] = ()
) -> Admitted:
    return Admitted(
        held=hold.amount,
        output_limit=hold.output_limit,
        available=books.available,
        admitted_at=hold.admitted_at,
        exists=exists,
        rates=rates,
    )


def _rates(limits: list[Standing]) -> tuple[LimitFigures, ...]:
    """The rate limits of a call, for the headers of its answer."""
    return tuple(limit_figures(each) for each in limits if each.rule.period in RATES)


def _stale_epoch() -> Refused:
    return Refused(
        code="stale_epoch",
        message="This node was away too long and its holds have lapsed; it must register again.",
    )


def _forbidden(books: Books, command: Admit) -> Refused | None:
    """Refusals that have nothing to do with money."""
    key = books.state.keys.get(command.dimensions.key_id)
    org = books.organization
    if books.epochs.get(command.node_id) != command.epoch:
        return _stale_epoch()
    rated = (command.catalogue_revision, command.plan_id)
    if rated != (books.catalogue_revision, org.plan_id):
        return Refused(code="stale_catalogue", message="The prices have changed; rate again.")
    if (
        key is None
        or key.organization_id != org.id
        or key.project_id != command.dimensions.project_id
    ):
        return Refused(code="key_not_found", message="There is no such API key.")
    if key.revoked_at is not None:
        return Refused(code="key_revoked", message="This API key has been revoked.")
    if key.expires_at is not None and key.expires_at <= books.now:
        return Refused(code="key_expired", message="This API key has expired.")
    if key.project_archived_at is not None:
        return Refused(code="project_archived", message="The key's project has been archived.")
    if not org.active:
        return Refused(
            code="organization_suspended", message="This organisation has been suspended."
        )
    return None
