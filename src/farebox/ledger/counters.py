"""The counters of an organisation's limits inside one batch: raised by holds, turned into use.

A call belongs wholly to the windows of its admission instant: what it holds, what it is charged and
what it is charged late are counted there, whatever the time is then (ENGINE.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.holds import Raised
from farebox.ledger.limits import (
    OBSERVED,
    REFUSING,
    Effect,
    LimitFigures,
    Measure,
    Micros,
    Period,
    Rule,
    ScopeLimits,
    Window,
    drop_old,
    instant,
    micros,
    window_bounds,
    window_of,
)
from farebox.ledger.scopes import RUN_SEPARATOR, ScopeKind, default_number, scope_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID


UNCOUNTED: Final = OBSERVED | {Measure.PARALLEL}
"""What leaves nothing behind when a call has ended."""

MICROS_PER_SECOND: Final = 1_000_000


class Amounts(msgspec.Struct, frozen=True):
    """What one call holds, uses or gives back, in each measure."""

    money: int
    tokens: int
    calls: int = 1

    def of(self, measure: Measure) -> int:
        """The part that a limit of that measure counts."""
        if measure is Measure.MONEY:
            return self.money
        if measure is Measure.TOKENS:
            return self.tokens
        return 0 if measure in OBSERVED else self.calls


NOTHING = Amounts(0, 0, 0)


class Standing(msgspec.Struct, frozen=True):
    """A limit and the window of it that is meant."""

    scope: ScopeLimits
    scope_number: int
    rule: Rule
    rule_number: int
    window: Window
    maximum: int
    observed: int | None = None
    """What is seen of the call itself, where nothing is counted up."""

    @property
    def used(self) -> int:
        """What the window's calls have used, or what is seen of this one."""
        return self.window.used if self.observed is None else self.observed

    @property
    def left(self) -> int:
        """What may still be held or used; below zero where the limit was lowered."""
        return self.maximum - self.used - self.window.held

    @property
    def refuses(self) -> bool:
        """Whether a call that does not fit must not leave."""
        return self.rule.effect in REFUSING

    def takes(self, amounts: Amounts) -> bool:
        """Whether a call that asks for these amounts fits."""
        if self.rule.measure is Measure.SECONDS:
            return self.left > 0  # a moment at least
        return amounts.of(self.rule.measure) <= self.left


class Called(NamedTuple):
    """What the limits of a call are found by."""

    scopes: Iterable[tuple[ScopeKind, str]]
    model: str
    run: str


class Counters:
    """Copies of an organisation's limits, and what became of them."""

    def __init__(
        self, organization_id: UUID, limits: Sequence[ScopeLimits], *, now: datetime, zone: str
    ) -> None:
        self._organization_id = organization_id
        self._loaded = {scope.number: scope for scope in limits} if limits else {}
        self._scopes: dict[int, ScopeLimits] = {}
        self._rules: dict[int, dict[int, Rule]] = {}
        self._changed: set[int] = set()
        self.forgotten: list[int] = []
        """Numbers of the rows that are to be deleted."""
        self._allocating: list[int] | None = None
        """Numbers of the projects that have money set aside; None where nobody has looked."""
        self._now = now
        self._micros = micros(now)
        self._zone = zone

    def set_zone(self, zone: str) -> None:
        """Days, weeks and months begin by another zone from now on."""
        self._zone = zone

    def move_to(self, now: datetime) -> None:
        """Engine time has moved on."""
        self._now = now
        self._micros = micros(now)

    # What there is.

    @property
    def changed(self) -> list[ScopeLimits]:
        """The rows that are new, or whose rules changed."""
        numbers = sorted(number for number in self._changed if not self._is_counted_only(number))
        return [self._scopes[number] for number in numbers]

    @property
    def counted(self) -> list[ScopeLimits]:
        """The rows of which only the windows changed."""
        return [self._scopes[n] for n in sorted(self._changed) if self._is_counted_only(n)]

    def _is_counted_only(self, number: int) -> bool:
        loaded = self._loaded.get(number)
        return loaded is not None and loaded.rules is self._scopes[number].rules

    def scope(self, kind: ScopeKind, ref: str) -> ScopeLimits:
        """A scope's row: the loaded one's copy, or a new one."""
        number = scope_number(kind, ref)
        found = self._scope(number)
        if found is None:
            found = ScopeLimits(self._organization_id, kind, ref, (), {})
            self._scopes[number] = found
        return found

    def rules_of(self, scope: ScopeLimits) -> dict[int, Rule]:
        """The rules that hold for a scope, by number: its own, and defaults that it has not."""
        return self._rules_of(scope.number, scope)

    def _rules_of(self, number: int, scope: ScopeLimits) -> dict[int, Rule]:
        found = self._rules.get(number)
        if found is None:
            default = None if scope.is_default else self._scope(default_number(scope.kind))
            rules = scope.rules if default is None else (*default.rules, *scope.rules)
            found = self._rules[number] = {rule.number: rule for rule in rules}
        return found

    def set_rules(self, scope: ScopeLimits, rules: tuple[Rule, ...]) -> None:
        """Give a scope other rules of its own."""
        scope.rules = rules
        self._changed.add(scope.number)
        self._rules.clear()
        self._allocating = None

    def begin_anew(self, scope: ScopeLimits, rule: Rule) -> Window:
        """Forget what a rule has counted, and begin its window of now."""
        start, end = window_bounds(rule, self._now, self._zone)
        window = Window(start=start, end=end, used=0, held=0)
        scope.windows[rule.number] = [window]
        self._changed.add(scope.number)
        return window

    def find(self, number: int) -> ScopeLimits | None:
        """The scope of that number, if it is loaded or new."""
        return self._scope(number)

    def forget(self, number: int) -> None:
        """Delete a scope's row; whoever comes back makes a new one."""
        self.forgotten.append(number)
        for known in (self._loaded, self._scopes, self._rules):
            known.pop(number, None)

    def everyone(self) -> list[ScopeLimits]:
        """Every scope that is loaded or new, the defaults left out."""
        found = map(self._scope, [*self._loaded, *self._scopes.keys() - self._loaded.keys()])
        return [scope for scope in found if scope is not None and not scope.is_default]

    # The limits of a call.

    def standing_now(self, called: Called) -> list[Standing]:
        """Every limit of a call with its window at engine time; a new one begins with a hold."""
        return [self._standing(*limit, called.run) for limit in self.limits_of(called)]

    def standing_in(self, scope: ScopeLimits) -> list[Standing]:
        """Every limit of one scope, for whatever model, with its window at engine time."""
        number = scope.number
        rules = self._rules_of(number, scope)
        return [self._standing(scope, number, rule, of, scope.ref) for of, rule in rules.items()]

    def standing_at(self, called: Called, admitted_at: datetime) -> list[Standing]:
        """Every limit that counted a call at its admission, with that window."""
        at = micros(admitted_at)
        return [
            Standing(scope, scope_number, rule, number, window, rule.maximum_at(self._now))
            for scope, scope_number, rule, number in self.limits_of(called)
            if (window := window_of(scope.windows.get(number, ()), rule, at)) is not None
        ]

    def standing_of(self, raised: tuple[Raised, ...]) -> list[Standing]:
        """The limits whose counters an open hold has raised, with those windows."""
        found = []
        for item in raised:
            scope = self._scope(item.scope)
            rule = None if scope is None else self._rules_of(item.scope, scope).get(item.rule)
            if scope is None or rule is None:
                continue  # the limit has gone since
            found += [
                Standing(scope, item.scope, rule, item.rule, window, rule.maximum_at(self._now))
                for window in scope.windows.get(item.rule, ())
                if window.start == item.start >= rule.since
            ]
        return found

    def limits_of(self, called: Called) -> Iterable[tuple[ScopeLimits, int, Rule, int]]:
        """Every limit that counts a call: scope, scope's number, rule, rule's number."""
        if not self._loaded and not self._scopes:
            return
        model = called.model
        for kind, ref in called.scopes:
            of = scope_number(kind, ref)
            scope = self._scope(of)
            if scope is None:
                if self._scope(default_number(kind)) is None:
                    continue
                scope = self.scope(kind, ref)
            for number, rule in self._rules_of(of, scope).items():
                if not rule.models or rule.counts(model):
                    yield scope, of, rule, number

    def _standing(self, scope: ScopeLimits, of: int, rule: Rule, number: int, run: str) -> Standing:
        window = window_of(scope.windows.get(number, ()), rule, self._micros)
        if window is None:
            start, end = window_bounds(rule, self._now, self._zone)
            window = Window(start=start, end=end, used=0, held=0)
        observed = None
        if rule.measure is Measure.SECONDS:
            observed = (self._micros - window.start) // MICROS_PER_SECOND
        elif rule.measure is Measure.DEPTH:
            observed = run.count(RUN_SEPARATOR) - scope.ref.count(RUN_SEPARATOR)
        return Standing(scope, of, rule, number, window, rule.maximum_at(self._now), observed)

    def _begin(self, each: Standing) -> None:
        """Keep a window that a call is counted in, and no longer those that nothing can reach."""
        kept = each.scope.windows.setdefault(each.rule_number, [])
        if all(window is not each.window for window in kept):
            drop_old(kept, each.rule, self._micros)
            kept.append(each.window)

    def set_aside(self, project_id: UUID) -> int:
        """What other projects' allocations keep from a call of this project (ENGINE.md)."""
        aside = 0
        for number in self._allocating_scopes():
            scope = self._scope(number)
            assert scope is not None
            if scope.ref != project_id.hex:
                aside += sum(
                    max(0, each.left)
                    for each in self.standing_in(scope)
                    if each.rule.effect is Effect.ALLOCATION
                )
        return aside

    def _allocating_scopes(self) -> list[int]:
        """The scopes with allocations, looked for once: a batch may load thousands of scopes."""
        if self._allocating is None:
            self._allocating = [
                number
                for number, scope in {**self._loaded, **self._scopes}.items()
                if any(rule.effect is Effect.ALLOCATION for rule in scope.rules)
            ]
        return self._allocating

    # Counting.

    def hold(self, limits: list[Standing], amounts: Amounts) -> tuple[Raised, ...]:
        """Count a new hold under every limit; the answer undoes exactly that."""
        raised = []
        for each in limits:
            self._begin(each)
            amount = amounts.of(each.rule.measure)
            each.window.held += amount
            self._changed.add(each.scope_number)
            raised.append(Raised(each.scope_number, each.rule_number, each.window.start, amount))
        return tuple(raised)

    def hold_more(self, raised: tuple[Raised, ...], amounts: Amounts) -> tuple[Raised, ...]:
        """Raise the same counters by a further amount."""
        further = {}
        for each in self.standing_of(raised):
            amount = amounts.of(each.rule.measure)
            each.window.held += amount
            self._changed.add(each.scope_number)
            further[each.scope_number, each.rule_number] = amount
        return tuple(
            structs.replace(item, amount=item.amount + further.get((item.scope, item.rule), 0))
            for item in raised
        )

    def settle(
        self, raised: tuple[Raised, ...], used: Amounts, *, failed: bool = False
    ) -> list[Standing]:
        """Turn what a hold raised into what the call used.

        A failed call leaves nothing under limits that leave failed calls out (LIM-03).
        """
        limits = self.standing_of(raised)
        amounts = {(item.scope, item.rule, item.start): item.amount for item in raised}
        for each in limits:
            key = (each.scope_number, each.rule_number, each.window.start)
            each.window.held -= amounts[key]
            assert each.window.held >= 0, each
            self._changed.add(each.scope_number)
        self.use([each for each in limits if each.rule.count_failed or not failed], used)
        return limits

    def use(self, limits: Iterable[Standing], used: Amounts) -> None:
        """Count use that no hold stands for (negative: what is given back)."""
        for each in limits:
            if each.rule.measure not in UNCOUNTED:
                each.window.used += used.of(each.rule.measure)
            self._changed.add(each.scope_number)

    def _scope(self, number: int) -> ScopeLimits | None:
        found = self._scopes.get(number)
        if found is None:
            loaded = self._loaded.get(number)
            if loaded is None:
                return None
            found = self._scopes[number] = _copied(loaded)
        return found


def money_room(limits: Iterable[Standing], spendable: int) -> Nanos:
    """How much a call may hold or be charged: what is spendable, and every hard limit of money."""
    room = spendable
    for each in limits:
        if each.refuses and each.rule.measure is Measure.MONEY:
            room = min(room, each.left)
    return Nanos(max(0, room))


def token_room(limits: Iterable[Standing]) -> int | None:
    """How many tokens a call may reserve; None where no hard limit counts tokens."""
    rooms = [each.left for each in limits if each.refuses and each.rule.measure is Measure.TOKENS]
    return max(0, min(rooms)) if rooms else None


def limit_figures(each: Standing) -> LimitFigures:
    """What a limit shows, for a refusal or a record."""
    rule, window = each.rule, each.window
    return LimitFigures(
        scope_kind=each.scope.kind,
        scope_id=each.scope.ref,
        period=rule.period,
        maximum=each.maximum,
        used=each.used,
        held=window.held,
        resets_at=None if rule.period is Period.TOTAL else instant(Micros(window.end)),
        measure=rule.measure,
        effect=rule.effect,
        models=rule.models,
        owner=rule.owner,
        origin=rule.origin,
    )


def _copied(scope: ScopeLimits) -> ScopeLimits:
    return ScopeLimits(
        scope.organization_id,
        scope.kind,
        scope.ref,
        scope.rules,
        {number: [copy(w) for w in kept] for number, kept in scope.windows.items()},
    )
