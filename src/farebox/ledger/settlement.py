"""Settlement: how a hold ends, and what its call is charged.

charge + absorbed = metered usage at the book's price, always. What an upstream bills beyond a
hold, or after the hold lapsed, is decided like an extension of that amount: what fits under the
balance and every hard limit is charged, the rest is absorbed by the operator and told
(``on_overrun: absorb``) or owed by the customer (``owe``).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from msgspec import structs

from farebox.kit.money import ZERO, Nanos
from farebox.ledger.admission import called_of, enlarge
from farebox.ledger.alerting import tell_thresholds
from farebox.ledger.commands import (
    Closed,
    Done,
    Lapse,
    Refused,
    Release,
    Report,
    Result,
    Settle,
    Usage,
    fingerprint,
)
from farebox.ledger.counters import Amounts, money_room
from farebox.ledger.holds import CallState, Dimensions, Draw, Hold, Progress
from farebox.ledger.journal import Account, PostingKind
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.ledger.state import ClosedCall, Closing, Ending, LateChange

if TYPE_CHECKING:
    from uuid import UUID

    from farebox.ledger.books import Books

_NOTHING = Progress(ZERO, ZERO, 0, 0)


def settle(books: Books, command: Settle) -> Result:
    """Charge an open hold's call, or a lapsed one's that answers after all."""
    hold = books.holds.get(command.call_id)
    ending = Ending(
        state=CallState.SETTLED,
        metered=command.metered,
        cost=command.cost,
        usage=command.usage,
        reason=command.reason,
        lines=command.lines,
        estimated=command.estimated,
        http_status=command.http_status,
        latency_ms=command.latency_ms,
        lane=command.lane,
        price_id=command.price_id,
        fingerprint=fingerprint(command),
    )
    if hold is not None:
        return _close(books, hold, ending)
    closed = books.closed.get(command.call_id)
    if closed is None:
        return Refused(code="hold_not_found", message="No hold of that call was ever committed.")
    if closed.state is CallState.LAPSED:
        return settle_late(books, closed, ending)
    if closed.settle_fingerprint == ending.fingerprint:
        return closed_result(books, closed)
    return Refused(
        code="exists_with_different_fields",
        message=f"This call is {closed.state} already, with other usage.",
    )


def release(books: Books, command: Release) -> Result:
    """Give a hold back whole; the call is recorded at zero, even if it lapsed at an estimate."""
    hold = books.holds.get(command.call_id)
    ending = Ending(
        state=CallState.RELEASED,
        metered=ZERO,
        cost=ZERO,
        usage=Usage(),
        reason=command.reason,
        http_status=command.http_status,
        latency_ms=command.latency_ms,
    )
    if hold is not None:
        return _close(books, hold, ending)
    closed = books.closed.get(command.call_id)
    if closed is None:
        return Refused(code="hold_not_found", message="No open hold of that call.")
    if closed.state is CallState.LAPSED:
        return settle_late(books, closed, ending)
    return closed_result(books, closed)


def lapse(books: Books, command: Lapse) -> Result:
    """End a hold whose node or time is gone, by compare-and-set on its node and epoch."""
    hold = books.holds.get(command.call_id)
    if hold is None or (hold.node_id, hold.epoch) != (command.node_id, command.epoch):
        return Refused(code="hold_not_found", message="The hold has ended meanwhile.")
    fenced = books.epochs.get(hold.node_id) != hold.epoch
    if not fenced and books.now < hold.latest_end:
        return Refused(code="hold_alive", message="The hold's node is alive and its time not up.")
    last = hold.progress or _NOTHING
    on_lapse = books.organization.on_lapse
    if on_lapse is OnLapse.NOTHING:
        last = _NOTHING
    ending = Ending(
        state=CallState.LAPSED,
        metered=hold.amount if on_lapse is OnLapse.CEILING else last.metered,
        cost=last.cost,
        usage=Usage(input_tokens=last.input_tokens, output_tokens=last.output_tokens),
        reason=command.reason,
        estimated=True,
    )
    books.tell("hold_lapsed", call_id=str(hold.call_id), reason=command.reason)
    return _close(books, hold, ending)


def report(books: Books, command: Report) -> Result:
    """Note a running call's use so far; figures never go back."""
    hold = books.holds.get(command.call_id)
    if hold is None or (hold.node_id, hold.epoch) != (command.node_id, command.epoch):
        return Refused(code="hold_not_found", message="The hold has ended meanwhile.")
    last = hold.progress or _NOTHING
    if command.metered >= last.metered:
        changed = copy(hold)
        changed.progress = Progress(
            command.metered, command.cost, command.input_tokens, command.output_tokens
        )
        books.change_hold(changed)
    return Done(available=books.available, amount=hold.amount)


def charge_hold(
    books: Books, hold: Hold, metered: Nanos, tokens: int, *, failed: bool
) -> tuple[Nanos, Nanos, Nanos, list[Draw]]:
    """Charge what fits of the metered usage, undo the hold and count its use under its limits.

    Args:
        books: The organisation's.
        hold: The open hold.
        metered: What its call used, at the book's price.
        tokens: What it used, input and output.
        failed: Whether it ended without an answer; limits may leave such calls out.

    Returns:
        Charge, absorbed, the part of the charge that is owed, and the draws.
    """
    beyond = max(0, metered - hold.amount)
    if beyond:
        limits = books.counters.standing_of(hold.raised)
        spendable = books.spendable_for(hold.dimensions.project_id)
        fits = Nanos(min(beyond, money_room(limits, spendable)))
        if fits:
            hold = enlarge(books, hold, Amounts(fits, 0, 0))
        beyond -= fits
    within = Nanos(metered - beyond)
    draws, owed = books.undo_hold(hold, within)
    if beyond and books.organization.on_overrun is OnOverrun.OWE:
        books.charge_debt(Nanos(beyond))
        within, owed, beyond = metered, Nanos(owed + beyond), 0
    books.organization.absorbed = Nanos(books.organization.absorbed + beyond)
    counted = books.counters.settle(hold.raised, Amounts(within, tokens), failed=failed)
    tell_thresholds(books, counted)
    return within, Nanos(beyond), owed, draws


def closed_result(books: Books, closed: ClosedCall) -> Closed:
    """The answer to a replay."""
    return Closed(
        state=closed.state,
        charge=closed.charge,
        absorbed=closed.absorbed,
        owed=closed.owed,
        available=books.available,
        exists=True,
    )


def _close(books: Books, hold: Hold, ending: Ending) -> Closed:
    """Close an open hold in whatever way: money, counters, journal, rollup and row."""
    tokens = ending.usage.input_tokens + ending.usage.output_tokens
    failed = ending.state is CallState.RELEASED
    charge, absorbed, owed, draws = charge_hold(books, hold, ending.metered, tokens, failed=failed)
    assert charge + absorbed == ending.metered, (charge, absorbed, ending.metered)
    tell_overrun(books, hold.call_id, hold.amount, ending.metered, absorbed)
    sequence = books.next_sequence()
    books.calls_sequences.append(sequence)
    for account, amount in charge_entries(charge, owed, absorbed).items():
        books.calls_journal[account] = books.calls_journal.get(account, 0) + amount
    del books.holds[hold.call_id]
    books.changed_holds.pop(hold.call_id, None)
    dimensions = hold.dimensions
    if ending.lane:
        dimensions = structs.replace(dimensions, lane=ending.lane)
    books.roll_up(
        hold,
        dimensions,
        ending.usage,
        calls=1,
        charge=charge,
        absorbed=absorbed,
        cost=ending.cost,
    )
    closed = ClosedCall(
        call_id=hold.call_id,
        organization_id=hold.organization_id,
        sequence=sequence,
        state=ending.state,
        held=hold.amount,
        charge=charge,
        absorbed=absorbed,
        owed=owed,
        cost=ending.cost,
        late_charge=ZERO,
        late_absorbed=ZERO,
        draws=tuple(draws),
        admitted_at=hold.admitted_at,
        dimensions=dimensions,
        usage=ending.usage,
        admit_fingerprint=hold.fingerprint,
        settle_fingerprint=ending.fingerprint,
        user=hold.user,
        run=hold.run,
        tags=hold.tags,
    )
    books.closed[hold.call_id] = closed
    books.changes.closings.append(Closing(closed, ending, books.now))
    return Closed(
        state=ending.state, charge=charge, absorbed=absorbed, owed=owed, available=books.available
    )


def settle_late(books: Books, closed: ClosedCall, ending: Ending) -> Closed:
    """A lapsed call answers after all: charge the difference, or give it back."""
    difference = ending.metered - closed.charge
    limits = books.counters.standing_at(
        called_of(books, closed.dimensions, closed), closed.admitted_at
    )
    if difference >= 0:
        spendable = books.spendable_for(closed.dimensions.project_id)
        fits = Nanos(min(difference, money_room(limits, spendable)))
        draws, owed = books.charge_more(fits, closed)
        absorbed = Nanos(difference - fits)
        if absorbed and books.organization.on_overrun is OnOverrun.OWE:
            books.charge_debt(absorbed)
            fits, owed, absorbed = Nanos(fits + absorbed), Nanos(owed + absorbed), ZERO
        change, owed_change = int(fits), int(owed)
        all_draws = (*closed.draws, *draws)
    else:
        all_draws, forgiven = books.give_back(Nanos(-difference), closed)
        change, owed_change, absorbed = difference, -forgiven, ZERO
    tokens = ending.usage.input_tokens + ending.usage.output_tokens
    tokens -= closed.usage.input_tokens + closed.usage.output_tokens
    books.counters.use(limits, Amounts(change, tokens, 0))
    tell_thresholds(books, limits)
    absorbed_change = absorbed - closed.absorbed
    books.organization.absorbed = Nanos(books.organization.absorbed + absorbed_change)
    assert closed.charge + change + absorbed == ending.metered, (closed, ending)
    books.post(
        PostingKind.LATE,
        charge_entries(change, owed_change, absorbed_change),
        call_id=closed.call_id,
    )
    tell_overrun(books, closed.call_id, closed.held, ending.metered, absorbed)
    dimensions = closed.dimensions
    if ending.lane:
        dimensions = structs.replace(dimensions, lane=ending.lane)
    _move_rollup(
        books, closed, ending, dimensions, charge=closed.charge + change, absorbed=absorbed
    )
    late = structs.replace(
        closed,
        state=CallState.LATE,
        charge=Nanos(closed.charge + change),
        absorbed=absorbed,
        owed=Nanos(closed.owed + owed_change),
        cost=ending.cost,
        late_charge=Nanos(change),
        late_absorbed=Nanos(absorbed_change),
        dimensions=dimensions,
        draws=all_draws,
        usage=ending.usage,
        settle_fingerprint=ending.fingerprint,
    )
    books.closed[closed.call_id] = late
    books.changes.late.append(LateChange(late, ending))
    books.touched = True
    return structs.replace(closed_result(books, late), exists=False)


def tell_overrun(books: Books, call_id: UUID, held: int, metered: int, absorbed: int) -> None:
    """Alert on usage beyond its hold, charged or absorbed."""
    if metered > held:
        books.tell(
            "overrun",
            call_id=str(call_id),
            held_nanos=str(held),
            metered_nanos=str(metered),
            absorbed_nanos=str(absorbed),
        )


def _move_rollup(
    books: Books,
    closed: ClosedCall,
    ending: Ending,
    dimensions: Dimensions,
    *,
    charge: int,
    absorbed: int,
) -> None:
    """Take what the lapse had counted out of its rollup row, and count the answer in its own."""
    books.roll_up(
        closed,
        closed.dimensions,
        Usage(**{name: -getattr(closed.usage, name) for name in closed.usage.__struct_fields__}),
        calls=-1,
        charge=-closed.charge,
        absorbed=-closed.absorbed,
        cost=-closed.cost,
    )
    books.roll_up(
        closed,
        dimensions,
        ending.usage,
        calls=1,
        charge=charge,
        absorbed=absorbed,
        cost=ending.cost,
    )


def charge_entries(charge: int, owed: int, absorbed: int) -> dict[Account, int]:
    """The journal's entries of a charge: credit drawn, debt made, usage absorbed."""
    return {
        Account.CUSTOMER_CREDIT: charge - owed,
        Account.RECEIVABLE: owed,
        Account.ABSORBED: absorbed,
        Account.REVENUE: -(charge + absorbed),
    }
