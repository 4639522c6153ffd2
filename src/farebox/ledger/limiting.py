"""Setting limits in the middle of traffic, exactly.

A new limit counts what the window has charged and what open calls hold, under the organisation's
lock; from then on every decision keeps it. Changing its amount touches nothing else; removing it
takes its counters off the open holds again.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from farebox.kit.money import Nanos
from farebox.ledger.commands import Done, Result, SetFloor, SetLimit
from farebox.ledger.holds import Raised
from farebox.ledger.limits import Period, Rule, ScopeKind, ScopeLimits

if TYPE_CHECKING:
    from farebox.ledger.books import Books


def set_limit(books: Books, command: SetLimit) -> Result:
    """Set, change or remove the organisation's hard limit of a period (BUD-02)."""
    scope = _organization_scope(books)
    had = command.period in scope.rules
    if command.maximum is None:
        if had:
            _remove(books, scope, command.period)
            _touch(books)
        return Done(available=books.available, exists=not had)
    scope.rules[command.period] = Rule(command.period, command.maximum)
    _touch(books)
    if not had:
        _count_from_now(books, scope, command.period)
    return Done(available=books.available, amount=command.maximum)


def set_floor(books: Books, command: SetFloor) -> Result:
    """Set the floor; what open calls hold on the old one stays theirs (NEG-07)."""
    books.organization.floor = command.floor
    books.touched = True
    return Done(available=books.available, amount=command.floor)


def _organization_scope(books: Books) -> ScopeLimits:
    kept = books.counters.limits
    if not kept:  # only organisations have limits so far
        kept.append(ScopeLimits(ScopeKind.ORGANIZATION, books.organization.id, {}, {}))
    return kept[0]


def _count_from_now(books: Books, scope: ScopeLimits, period: Period) -> None:
    """Begin a limit's counter with the window's charges and matching open holds."""
    scope.windows.pop(period, None)
    window = scope.window_at(period, books.now, books.organization.zone)
    window.used = books.charged_in(window)
    for hold in list(books.holds.values()):
        if window.start <= hold.admitted_at < window.end:
            window.held = Nanos(window.held + hold.amount)
            changed = copy(hold)
            mine = Raised(scope.kind, scope.id, period, window.start, hold.amount)
            changed.raised = (*hold.raised, mine)
            books.change_hold(changed)


def _remove(books: Books, scope: ScopeLimits, period: Period) -> None:
    del scope.rules[period]
    scope.windows.pop(period, None)
    for hold in list(books.holds.values()):
        rest = tuple(r for r in hold.raised if (r.scope_id, r.period) != (scope.id, period))
        if rest != hold.raised:
            changed = copy(hold)
            changed.raised = rest
            books.change_hold(changed)


def _touch(books: Books) -> None:
    books.counters.touched = True
    books.touched = True
