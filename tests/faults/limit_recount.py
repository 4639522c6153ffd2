"""Limits counted anew, from the rows of holds and calls alone, at every commit.

Nothing here knows how the engine counts: a call's scopes come from its own columns, its windows
from the clock on the wall (``wall_windows``), its amounts from its hold while it is open and from
its charge afterwards. Each counter that the engine keeps has to be the same at every commit, and no
limit that refuses may be passed at any of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from farebox.ledger.limits import Effect, Measure, Rule, micros
from farebox.storage import rows
from tests.faults.limit_log import Commit, Event
from tests.faults.wall_windows import window

REFUSING = {Effect.HARD, Effect.THROTTLE, Effect.ALLOCATION, Effect.STOP}
OBSERVED = {Measure.SECONDS, Measure.DEPTH}
SECOND = 1_000_000

Scope = tuple[str, str]
"""A kind, and an id as 32 hex digits or a name."""


class Place(NamedTuple):
    """One window of one limit of one scope."""

    scope: Scope
    rule: int
    start: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A call as limits see it."""

    at: int
    scopes: frozenset[Scope]
    run: str
    model: str
    is_open: bool
    money: int
    tokens: int

    def amounts(self, measure: Measure) -> tuple[int, int]:
        """What it has used and what it holds."""
        if measure is Measure.PARALLEL:
            return 0, int(self.is_open)
        amount = {Measure.MONEY: self.money, Measure.TOKENS: self.tokens}.get(measure, 1)
        return (0, amount) if self.is_open else (amount, 0)


@dataclass
class Tally:
    """What a window has used and what its open calls hold."""

    used: int = 0
    held: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.used + self.held


@dataclass
class Recount:
    """One organisation, commit by commit."""

    organization_id: UUID
    zone: str
    credit: int
    """All it was ever given."""
    commits: int = 0
    at: int = 0
    """Engine time at the end of the last one, in microseconds since 1970."""
    counters_compared: int = 0
    wrong: list[str] = field(default_factory=list)
    """What the engine's counters or decisions had otherwise."""
    worst_over: int = 0
    """By how much a limit was passed at a commit, or further passed, in whatever it counts."""
    worst_over_credit: int = 0
    beyond_orders: int = 0
    """Tokens that upstreams made beyond what was ordered: used, whatever a limit says."""
    tallies: dict[Place, Tally] = field(default_factory=lambda: defaultdict(Tally))
    calls: dict[str, Counted] = field(default_factory=dict)
    rules: dict[Scope, tuple[Rule, ...]] = field(default_factory=dict)
    _texts: dict[Scope, str] = field(default_factory=dict)
    _windows: dict[Scope, dict[int, list[Any]]] = field(default_factory=dict)
    _firsts: dict[tuple[Scope, int], int] = field(default_factory=dict)
    _defaults: set[tuple[str, int]] = field(default_factory=set)
    """Every default that there ever was."""
    _held_tokens: dict[str, int] = field(default_factory=dict)

    def take(self, commit: Commit) -> None:
        """Follow one commit, and look at everything that it changed."""
        self.commits += 1
        self.at = commit.at
        totals: dict[Place, int] = {}
        admitted = []
        for event in commit.events:
            if event.what == "limits":
                self._take_limits(event.facts, totals)
            elif event.what == "zone":
                self.zone = event.facts["zone"]
                self._count_anew(None, totals)
        for event in commit.events:
            if event.what not in {"limits", "zone"}:
                admitted += self._take_call(event, totals)
        beyond = self._beyond(commit)
        for call in admitted:
            self._look_at_observed(call)
        # A raise may end between the decision and the end of its transaction.
        self._look_at_tallies(totals, min([commit.at, *(call.at for call in admitted)]), beyond)
        self._look_at_credit()
        self._compare(commit)

    def _take_call(self, event: Event, totals: dict[Place, int]) -> list[Counted]:
        """Follow one row of a hold or a call; gives the call if it was admitted here."""
        call_id = event.facts["id"]
        before = self.calls.get(call_id)
        if event.what == "hold gone" and (before is None or not before.is_open):
            return []  # the call's own row came first
        if before is not None:
            self._count(self.calls.pop(call_id), -1, totals)
        if event.what == "hold gone":
            return []
        after = self.calls[call_id] = _counted(self.organization_id, event)
        self._count(after, 1, totals)
        return [after] if before is None and after.is_open else []

    @property
    def open_calls(self) -> int:
        """How many hold something."""
        return sum(call.is_open for call in self.calls.values())

    def rules_of(self, scope: Scope) -> dict[int, Rule]:
        """The rules that hold for a scope: its own, and defaults that it has not."""
        default = () if not scope[1] else self.rules.get((scope[0], ""), ())
        return {rule.number: rule for rule in (*default, *self.rules.get(scope, ()))}

    def place_of(self, scope: Scope, rule: Rule, at: int) -> Place | None:
        """Where a call admitted then is counted; None where the rule began later."""
        since = 0 if rule.counts_from is None else micros(rule.counts_from)
        start = max(window(rule.period, at, self.zone)[0], since)
        return Place(scope, rule.number, start) if at >= since else None

    # Counting.

    def _take_limits(self, facts: dict[str, Any], totals: dict[Place, int]) -> None:
        scope = (facts["kind"], facts["ref"])
        decoded = rows.limits(
            (self.organization_id, facts["kind"], facts["ref"], facts["rules"], facts["windows"])
        )
        self._windows[scope] = dict(decoded.windows)
        if self._texts.get(scope, "[]") == facts["rules"]:
            return
        self._texts[scope] = facts["rules"]
        self.rules[scope] = decoded.rules
        if not scope[1]:
            self._defaults |= {(scope[0], rule.number) for rule in decoded.rules}
        self._count_anew(scope, totals)

    def _count_anew(self, changed: Scope | None, totals: dict[Place, int]) -> None:
        """A limit that is set counts what its window has used; one that stood may be passed now.

        Args:
            changed: The scope whose rules are others now, empty for the defaults of a kind; None
                where everything is.
            totals: Takes what every window has before anything else happens.
        """

        def is_meant(scope: Scope) -> bool:
            return changed is None or changed in {scope, (scope[0], "")}

        for place in [place for place in self.tallies if is_meant(place.scope)]:
            del self.tallies[place]
        for call in self.calls.values():
            for scope in call.scopes:
                if is_meant(scope):
                    self._count_under(scope, call, 1, {})
        for place, tally in self.tallies.items():
            if is_meant(place.scope):
                totals[place] = tally.total

    def _count(self, call: Counted, sign: int, totals: dict[Place, int]) -> None:
        for scope in call.scopes:
            self._count_under(scope, call, sign, totals)

    def _count_under(
        self, scope: Scope, call: Counted, sign: int, totals: dict[Place, int]
    ) -> None:
        for rule in self.rules_of(scope).values():
            if rule.measure in OBSERVED or not is_for(rule.models, call.model):
                continue
            place = self.place_of(scope, rule, call.at)
            if place is None:
                continue
            tally = self.tallies[place]
            totals.setdefault(place, tally.total)
            used, held = call.amounts(rule.measure)
            tally.used += sign * used
            tally.held += sign * held

    def _beyond(self, commit: Commit) -> int:
        """Tokens that the calls which ended here used beyond what they held."""
        held = {}
        for event in commit.events:
            if event.what == "call":
                now = int(event.facts["tokens"])
                held[event.facts["id"]] = max(0, now - self._held_tokens.get(event.facts["id"], 0))
            elif event.what == "hold":
                self._held_tokens[event.facts["id"]] = int(event.facts["tokens"])
        self.beyond_orders += sum(held.values())
        return sum(held.values())

    # Looking.

    def _look_at_observed(self, call: Counted) -> None:
        for scope in call.scopes:
            for number, rule in self.rules_of(scope).items():
                if rule.measure not in OBSERVED or not is_for(rule.models, call.model):
                    continue
                if rule.measure is Measure.SECONDS:
                    first = self._firsts.setdefault((scope, number), call.at)
                    fits = (call.at - first) // SECOND < rule.maximum
                else:
                    fits = call.run.count("/") - scope[1].count("/") <= rule.maximum
                if rule.effect in REFUSING and not fits:
                    self._wrong(f"{rule.measure} of {scope} passed by a call at {call.at}")

    def _look_at_tallies(self, totals: dict[Place, int], at: int, beyond: int) -> None:
        """A limit that was lowered may be passed, but nobody goes further."""
        for place, before in totals.items():
            rule = self.rules_of(place.scope).get(place.rule)
            if rule is None or rule.effect not in REFUSING:
                continue
            spare = beyond if rule.measure is Measure.TOKENS else 0
            over = self.tallies[place].total - max(maximum_at(rule, at), before) - spare
            if over > 0:
                self.worst_over = max(self.worst_over, over)
                self._wrong(f"{place} passed by {over} at {at}")

    def _look_at_credit(self) -> None:
        """Nobody spends another's allocation, nor all together more than there is."""
        mine: dict[Scope, int] = {}
        for place in self.tallies:
            rule = self.rules_of(place.scope).get(place.rule)
            if rule is not None and rule.effect is Effect.ALLOCATION:
                mine[place.scope] = max(mine.get(place.scope, 0), rule.maximum)
        total = 0
        spent: dict[Scope, int] = dict.fromkeys(mine, 0)
        for call in self.calls.values():
            owner = next((scope for scope in call.scopes if scope in mine), None)
            if owner is None:
                total += call.money
            else:
                spent[owner] += call.money
        total += sum(max(mine[scope], spent[scope]) for scope in mine)
        self.worst_over_credit = max(self.worst_over_credit, total - self.credit)

    def _compare(self, commit: Commit) -> None:
        """The engine's counters of every scope that was written, beside ours."""
        for event in commit.events:
            if event.what != "limits":
                continue
            scope = (event.facts["kind"], event.facts["ref"])
            rules_now = self.rules_of(scope)
            for number, windows in self._windows[scope].items():
                rule = rules_now.get(number)
                if rule is None and (scope[0], number) in self._defaults:
                    continue  # what a default that is gone has left behind counts nowhere
                if rule is None:
                    self._wrong(f"{scope} counts for a rule that is gone")
                elif rule.measure not in OBSERVED:
                    for kept in windows:
                        self._compare_window(scope, rule, kept, commit.at)

    def _compare_window(self, scope: Scope, rule: Rule, kept: Any, at: int) -> None:
        if rule.counts_from is not None and kept.start < micros(rule.counts_from):
            return  # of a default that stood before this one: it decides nothing any more
        place = Place(scope, rule.number, kept.start)
        ours = self.tallies.get(place, Tally())
        self.counters_compared += 1
        if (ours.used, ours.held) != (kept.used, kept.held):
            self._wrong(
                f"{scope} {rule.measure} {rule.period} {rule.effect} from {kept.start} at {at}: "
                f"kept {kept.used} + {kept.held}, counted {ours.used} + {ours.held}"
            )
        end = window(rule.period, kept.start, self.zone)[1]
        if kept.end != end:
            self._wrong(f"{scope} {rule.period} from {kept.start} ends {kept.end}, not {end}")

    def missing(self) -> list[Place]:
        """Windows that are on at the end and have counts, of which the engine knows nothing."""
        found = []
        for place, tally in self.tallies.items():
            rule = self.rules_of(place.scope)[place.rule]
            is_on = self.at < window(rule.period, place.start, self.zone)[1]
            kept = self._windows.get(place.scope, {}).get(place.rule, ())
            if is_on and tally.total and all(each.start != place.start for each in kept):
                found.append(place)
        return found

    def _wrong(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(what)


def _counted(organization_id: UUID, event: Event) -> Counted:
    facts = event.facts
    scopes = {
        ("organization", organization_id.hex),
        ("project", UUID(facts["project"]).hex),
        ("key", UUID(facts["key"]).hex),
    }
    scopes |= {(kind, facts[kind]) for kind in ("feature", "environment", "user") if facts[kind]}
    parts = facts["run"].split("/") if facts["run"] else []
    scopes |= {("run", "/".join(parts[: n + 1])) for n in range(len(parts))}
    scopes |= {("tag", f"{name}={value}") for name, value in (facts["tags"] or {}).items()}
    return Counted(
        at=int(facts["at"]),
        scopes=frozenset(scopes),
        run=facts["run"],
        model=facts["model"],
        is_open=event.what == "hold",
        money=int(facts["money"]),
        tokens=int(facts["tokens"]),
    )


def is_for(models: str, model: str) -> bool:
    """Whether a limit's models are all, the one, or its family."""
    if models.endswith("*"):
        return model[: len(models) - 1] == models[:-1]
    return models in {"", model}


def maximum_at(rule: Rule, at: int) -> int:
    """A raise that begins at an instant has begun at it, and one that ends has ended."""
    if rule.raised_to is None or (rule.raised_from is not None and at < micros(rule.raised_from)):
        return rule.maximum
    until = rule.raised_until
    return rule.raised_to if until is None or at < micros(until) else rule.maximum
