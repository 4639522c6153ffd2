"""Setting limits in the middle of traffic, exactly.

A new limit counts what its window has used and what open calls hold, under the organisation's lock;
from then on every decision keeps it. Changing its amount touches nothing else; removing it takes
its counters off the open holds again. A default, for each scope of a kind that has no limit of its
own, counts from the moment it is set.
"""

from __future__ import annotations

from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from farebox.ledger.admission import called_of
from farebox.ledger.commands import Done, Refused, Result, SetFloor, SetLimit
from farebox.ledger.counters import UNCOUNTED, Amounts
from farebox.ledger.holds import Hold, Raised
from farebox.ledger.limits import (
    Effect,
    Measure,
    Rule,
    ScopeLimits,
    Window,
    micros,
    window_bounds,
)

if TYPE_CHECKING:
    from farebox.ledger.books import Books
    from farebox.ledger.state import ClosedCall

_TICK: Final = timedelta(microseconds=1)


def set_limit(books: Books, command: SetLimit) -> Result:
    """Set, change or remove a limit (BUD-02, BUD-05, BUD-14)."""
    scope = books.counters.scope(command.scope.kind, command.scope.ref)
    had = scope.rule(command.number)
    others = tuple(rule for rule in scope.rules if rule.number != command.number)
    if command.effect is Effect.ALLOCATION and command.maximum is not None:
        # Each would set money aside, and the project could use no more than the least of them.
        other = next((rule for rule in others if rule.effect is Effect.ALLOCATION), None)
        if other is not None:
            return Refused(
                code="allocation_exists",
                message=f"effect: the project has an allocation already, for the period "
                f"{other.period}; change that one, or remove it first.",
            )
    books.touched = True
    if command.maximum is None:
        if had is not None:
            books.counters.set_rules(scope, others)
            _remove(books, scope, had)
        return Done(available=books.available, exists=had is None)
    counts_from = None if had is None else had.counts_from
    if had is None and scope.is_default:
        # Calls admitted at this very instant came before it: engine time moves on by a tick.
        books.tick(_TICK)
        counts_from = books.now
    rule = Rule(
        measure=command.measure,
        period=command.period,
        effect=command.effect,
        models=command.models,
        maximum=command.maximum,
        raised_to=command.raised_to,
        raised_until=command.raised_until,
        thresholds=command.thresholds,
        owner=command.owner,
        origin=command.origin,
        counts_from=counts_from,
    )
    books.counters.set_rules(scope, (*others, rule))
    if had is None and not scope.is_default:
        _count_from_now(books, scope, rule)
    return Done(available=books.available)


def set_floor(books: Books, command: SetFloor) -> Result:
    """Set the floor; what open calls hold on the old one stays theirs (NEG-07)."""
    books.organization.floor = command.floor
    books.touched = True
    return Done(available=books.available, amount=command.floor)


def _count_from_now(books: Books, scope: ScopeLimits, rule: Rule) -> None:
    """Begin a limit's counter with the window's use and the matching open holds.

    Wall time begins with the next call that is admitted.
    """
    start, end = window_bounds(rule, books.now, books.organization.zone)
    window = Window(start=start, end=end, used=0, held=0)
    scope.windows[rule.number] = [] if rule.measure is Measure.SECONDS else [window]
    if rule.measure not in UNCOUNTED:
        window.used = books.state.used.get((scope.number, rule.number, start), 0)
        for call, model, used in books.counted:
            if _counts(books, scope, rule, window, call, model):
                window.used += used.of(rule.measure)
    for hold in list(books.holds.values()):
        others = _without(hold, scope, rule)
        mine: tuple[Raised, ...] = ()
        if _counts(books, scope, rule, window, hold, hold.dimensions.model):
            amount = Amounts(hold.amount, hold.tokens).of(rule.measure)
            window.held += amount
            mine = (Raised(scope.number, rule.number, window.start, amount),)
        _raise(books, hold, (*others, *mine))


def _counts(
    books: Books,
    scope: ScopeLimits,
    rule: Rule,
    window: Window,
    call: Hold | ClosedCall,
    model: str,
) -> bool:
    """Whether a call is counted in a window of a rule."""
    if rule.measure is Measure.SECONDS or not rule.counts(model):
        return False
    if not window.start <= micros(call.admitted_at) < window.end:
        return False
    called = called_of(books, call.dimensions, call)
    return (scope.kind, scope.ref) in set(called.scopes)


def _remove(books: Books, scope: ScopeLimits, rule: Rule) -> None:
    """Take a limit's counters off its scope and the open holds; a default takes its place."""
    default = books.counters.rules_of(scope).get(rule.number)
    if default is not None:
        # It may have been set after the window began, and it has told none of its thresholds.
        _count_from_now(books, scope, default)
        return
    scope.windows.pop(rule.number, None)
    for hold in list(books.holds.values()):
        _raise(books, hold, _without(hold, scope, rule))


def _without(hold: Hold, scope: ScopeLimits, rule: Rule) -> tuple[Raised, ...]:
    mine = (scope.number, rule.number)
    return tuple(item for item in hold.raised if (item.scope, item.rule) != mine)


def _raise(books: Books, hold: Hold, raised: tuple[Raised, ...]) -> None:
    if raised != hold.raised:
        changed = copy(hold)
        changed.raised = raised
        books.change_hold(changed)
