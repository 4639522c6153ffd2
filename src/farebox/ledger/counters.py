"""The counters of an organisation's limits inside one batch: raised by holds, turned into use.

A call belongs wholly to the windows of its admission instant: what it holds, what it is charged and
what it is charged late are counted there, whatever the time is then (ENGINE.md).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.holds import Raised
from farebox.ledger.limits import LimitFigures, Period, Rule, ScopeLimits, Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

Standing = tuple[ScopeLimits, Rule, Window]
"""A limit and the window of it that is meant."""


class Counters:
    """Copies of an organisation's limits, and what became of them."""

    def __init__(self, limits: Sequence[ScopeLimits], *, now: datetime, zone: str) -> None:
        self.limits = [_copied(scope) for scope in limits]
        self.touched = False
        """Whether any row must be written."""
        self._now = now
        self._zone = zone

    def standing_now(self) -> list[Standing]:
        """Every hard limit with its window at engine time."""
        return [
            (scope, rule, scope.window_at(period, self._now, self._zone))
            for scope in self.limits
            for period, rule in scope.rules.items()
        ]

    def standing_at(self, admitted_at: datetime) -> list[Standing]:
        """Every hard limit that counted at an admission, with that window."""
        return [
            (scope, rule, window)
            for scope in self.limits
            for period, rule in scope.rules.items()
            for window in scope.windows.get(period, ())
            if window.start <= admitted_at < window.end
        ]

    def hold(self, amount: Nanos) -> tuple[Raised, ...]:
        """Count a new hold under every limit; the answer undoes exactly that."""
        raised = []
        for scope, rule, window in self.standing_now():
            window.held = Nanos(window.held + amount)
            self.touched = True
            raised.append(Raised(scope.kind, scope.id, rule.period, window.start, amount))
        return tuple(raised)

    def hold_more(self, raised: tuple[Raised, ...], amount: Nanos) -> tuple[Raised, ...]:
        """Raise the same counters by a further amount."""
        further = []
        for item in raised:
            for window in self._windows(item):
                window.held = Nanos(window.held + amount)
            further.append(structs.replace(item, amount=Nanos(item.amount + amount)))
        return tuple(further)

    def settle(self, raised: tuple[Raised, ...], charge: Nanos) -> None:
        """Turn what a hold raised into what the call used."""
        for item in raised:
            for window in self._windows(item):
                window.held = Nanos(window.held - item.amount)
                window.used = Nanos(window.used + charge)
                assert window.held >= 0, window

    def use(self, amount: int, admitted_at: datetime) -> None:
        """Count a charge that no hold stands for (negative: one that is given back)."""
        for _, _, window in self.standing_at(admitted_at):
            window.used = Nanos(window.used + amount)
            self.touched = True

    def room(self, spendable: Nanos, admitted_at: datetime) -> Nanos:
        """How much more a call may take: spendable, and every limit it was admitted under."""
        room = spendable
        for _, rule, window in self.standing_at(admitted_at):
            room = Nanos(min(room, rule.maximum - window.used - window.held))
        return Nanos(max(0, room))

    def room_now(self, spendable: Nanos) -> Nanos:
        """How much a new call may hold: spendable, and every limit at engine time."""
        room = spendable
        for _, rule, window in self.standing_now():
            room = Nanos(min(room, rule.maximum - window.used - window.held))
        return Nanos(max(0, room))

    def figures(self) -> tuple[LimitFigures, ...]:
        """What each limit shows now."""
        return tuple(
            limit_figures(scope, rule, window) for scope, rule, window in self.standing_now()
        )

    def _windows(self, item: Raised) -> list[Window]:
        """The window that a hold raised: one, or none if its limit has gone."""
        self.touched = True
        return [
            window
            for scope in self.limits
            if (scope.kind, scope.id) == (item.scope_kind, item.scope_id)
            for window in scope.windows.get(Period(item.period), ())
            if window.start == item.start
        ]


def limit_figures(scope: ScopeLimits, rule: Rule, window: Window) -> LimitFigures:
    """What a limit shows, for a refusal or a record."""
    return LimitFigures(
        scope_kind=scope.kind,
        scope_id=scope.id,
        period=rule.period,
        maximum=rule.maximum,
        used=window.used,
        held=window.held,
        resets_at=window.end,
    )


def _copied(scope: ScopeLimits) -> ScopeLimits:
    return ScopeLimits(
        kind=scope.kind,
        id=scope.id,
        rules=dict(scope.rules),
        windows={period: [copy(w) for w in kept] for period, kept in scope.windows.items()},
    )
