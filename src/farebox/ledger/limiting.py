"""Setting limits, and the zone of their windows, in the middle of traffic, exactly.

A new limit counts what its window has used and what open calls hold, under the organisation's lock;
from then on every decision keeps it. Changing its amount touches nothing else; removing it takes
its counters off the open holds again. A default, for each scope of a kind that has no limit of its
own, counts from the moment it is set. Another zone begins every day, week and month anew, counted
again by it.

A limit begins with its current window: a call that was admitted before and is answered late is not
counted under it (ADR 16).
"""

from __future__ import annotations

from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from farebox.ledger.admission import called_of
from farebox.ledger.alerting import is_reached
from farebox.ledger.commands import Done, Refused, Result, SetFloor, SetLimit, SetZone
from farebox.ledger.counters import UNCOUNTED, Amounts
from farebox.ledger.holds import CallState, Hold, Raised
from farebox.ledger.limits import (
    ZONED,
    Effect,
    Measure,
    Rule,
    ScopeLimits,
    Window,
    micros,
    window_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farebox.ledger.books import Books
    from farebox.ledger.state import ClosedCall

_TICK: Final = timedelta(microseconds=1)


def set_limit(books: Books, command: SetLimit) -> Result:
    """Set, change or remove a limit (BUD-02, BUD-05, BUD-14)."""
    scope = books.counters.scope(command.scope.kind, command.scope.ref)
    had = scope.rule(command.number)
    # What counts other calls than before is another limit: it counts its window anew.
    begins = had is None or had.count_failed != command.count_failed
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
    if begins and scope.is_default:
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
        raised_from=command.raised_from,
        raised_until=command.raised_until,
        thresholds=command.thresholds,
        owner=command.owner,
        origin=command.origin,
        count_failed=command.count_failed,
        counts_from=counts_from,
    )
    books.counters.set_rules(scope, (*others, rule))
    if begins and not scope.is_default:
        _count_from_now(books, scope, rule)
    return Done(available=books.available)


def set_floor(books: Books, command: SetFloor) -> Result:
    """Set the floor; what open calls hold on the old one stays theirs (NEG-07)."""
    books.organization.floor = command.floor
    books.touched = True
    return Done(available=books.available, amount=command.floor)


def set_zone(books: Books, command: SetZone) -> Result:
    """Set the zone: days, weeks and months of now are counted again by it (BUD-01)."""
    org, counters = books.organization, books.counters
    if command.zone == org.zone:
        return Done(available=books.available, exists=True)
    if len(books.state.limits) > ZONED_SCOPES_MAX:
        return Refused(
            code="too_many_scopes",
            message=f"zone: limits count more than {ZONED_SCOPES_MAX:,} scopes of this "
            "organization; remove defaults for each user or run before, and set them again after.",
        )
    assert not books.counted, "a zone is set before any call of its batch ends"
    org.zone = command.zone
    books.touched = True
    told = {
        (scope.number, rule.number): window.told
        for scope, rule in _zoned(books)
        for window in scope.windows.get(rule.number, ())
        if window.start <= micros(books.now) < window.end
    }
    counters.set_zone(command.zone)
    for scope, rule in _zoned(books):
        window = counters.begin_anew(scope, rule)
        window.used = books.state.used[scope.number, rule.tally, window.start]
        # What has been told and is still reached is not told again (BUD-07).
        window.told = max(
            (
                percent
                for percent in rule.thresholds
                if percent <= told.get((scope.number, rule.number), 0)
                and is_reached(window, percent, rule.maximum_at(books.now))
            ),
            default=0,
        )
    for hold in list(books.holds.values()):
        _raise_anew(books, hold)
    return Done(available=books.available)


ZONED_SCOPES_MAX: Final = 10_000
"""Scopes whose counters one change of the zone may count again under the lock."""


def _zoned(books: Books) -> Iterator[tuple[ScopeLimits, Rule]]:
    """The limits whose windows begin by the zone, each with its scope."""
    for scope in books.counters.everyone():
        for rule in books.counters.rules_of(scope).values():
            if rule.period in ZONED:
                yield scope, rule


def _raise_anew(books: Books, hold: Hold) -> None:
    """Raise the counters of the new days, weeks and months by what a hold holds."""
    amounts = Amounts(hold.amount, hold.tokens)
    found: dict[tuple[int, int], Raised] = {(item.scope, item.rule): item for item in hold.raised}
    called = called_of(books, hold.dimensions, hold)
    for scope, of, rule, number in books.counters.limits_of(called):
        if rule.period not in ZONED:
            continue
        found.pop((of, number), None)
        window = window_of(scope.windows.get(number, ()), rule, micros(hold.admitted_at))
        if window is not None:
            amount = amounts.of(rule.measure)
            window.held += amount
            found[of, number] = Raised(of, number, window.start, amount)
    _raise(books, hold, tuple(found.values()))


def _count_from_now(books: Books, scope: ScopeLimits, rule: Rule) -> None:
    """Begin a limit's counter with the window's use and the matching open holds.

    Wall time begins with the next call that is admitted.
    """
    window = books.counters.begin_anew(scope, rule)
    if rule.measure is Measure.SECONDS:
        scope.windows[rule.number] = []
    if rule.measure not in UNCOUNTED:
        # A default that was set in this very batch has no past.
        window.used = books.state.used.get((scope.number, rule.tally, window.start), 0)
        for call, model, used in books.counted:
            failed = books.closed[call.call_id].state is CallState.RELEASED
            if failed and not rule.count_failed:
                continue
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
