"""Hard limits, counted anew: what calls of a window hold and have used, by adding them up.

Limits are known from the commands that set them, windows from the plain model's calendar, figures
from the rows of holds and calls; the engine's counters are only compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

from farebox.kit.money import price_up
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Done,
    Extend,
    Result,
    SetLimit,
    SetZone,
)
from farebox.ledger.holds import CallState, Hold
from farebox.ledger.limits import (
    OBSERVED,
    REFUSING,
    ZONED,
    Effect,
    Measure,
    Rule,
    ScopeLimits,
    instant,
)
from farebox.ledger.organizations import OnOverrun, Organization
from farebox.ledger.state import ClosedCall
from tests.simulation.trace import SimulationError
from tests.support.ledger_model_limits import EPOCH, RATES, Cap, Tail, bounds, tail

if TYPE_CHECKING:
    from tests.support.ledger_memory import MemoryLedger

Place = tuple[str, str]
Said = Sequence[tuple[AnyCommand, Result]]
Counted = Hold | ClosedCall


@dataclass(frozen=True)
class Span:
    """One limit of one scope in one window."""

    place: Place
    cap: Cap
    start: datetime
    end: datetime

    @property
    def measure(self) -> Measure:
        """What it counts."""
        return self.cap.asked.measure

    def counts(self, call: Counted) -> bool:
        """Whether a call is one of the window's."""
        inside = self.start <= call.admitted_at < self.end
        return inside and self.cap.means(call.dimensions.model) and self.place in places(call)


@dataclass
class LimitTally:
    """One organisation's limits as its commands set them."""

    caps: dict[Place, dict[Tail, Cap]] = field(default_factory=dict)
    resumed: dict[tuple[Place, Tail], datetime] = field(default_factory=dict)
    totals: dict[tuple[Place, Tail, datetime], int] = field(default_factory=dict)

    # Following the commands.

    def follow(self, org: Organization, said: Said) -> None:
        """Note what limits a commit set."""
        for command, answer in said:
            if isinstance(command, SetLimit) and isinstance(answer, Done):
                self._set(org, command)
            elif isinstance(command, SetZone) and isinstance(answer, Done):
                self._begin_anew(org)

    def _set(self, org: Organization, command: SetLimit) -> None:
        place, mine = (command.scope.kind.value, command.scope.ref), tail(command)
        was = self.caps.setdefault(place, {}).pop(mine, None)
        begins = was is None or was.asked.count_failed != command.count_failed
        start = bounds(command.period, org.last_time, org.zone)[0]
        if command.maximum is not None:
            earliest = EPOCH if place[1] else org.last_time
            anew = Cap(command, max(start, earliest), earliest)
            self.caps[place][mine] = anew if was is None or begins else replace(was, asked=command)
        elif was is not None:
            self.resumed[place, mine] = start
        self.totals = {key: n for key, n in self.totals.items() if key[1] != mine}

    def _begin_anew(self, org: Organization) -> None:
        """Another zone: what was admitted before its day, week or month counts no more."""
        for mine in self.caps.values():
            for which, cap in mine.items():
                if cap.asked.period in ZONED:
                    start = bounds(cap.asked.period, org.last_time, org.zone)[0]
                    mine[which] = replace(cap, since=max(start, cap.earliest))
        for of in self.resumed:
            if of[1][1] in ZONED:
                self.resumed[of] = bounds(of[1][1], org.last_time, org.zone)[0]
        self.totals.clear()

    # What binds a call.

    def spans(self, org: Organization, call: Counted) -> Iterator[Span]:
        """The hard limits that a call is counted under, each with its window."""
        if not any(self.caps.values()):
            return
        for place in places(call):
            defaults = self.caps.get((place[0], ""), {})
            own = self.caps.get(place, {})
            for which, cap in {**defaults, **own}.items():
                since = cap.since
                if which not in own:
                    since = max(since, self.resumed.get((place, which), since))
                if cap.asked.effect not in REFUSING or not cap.means(call.dimensions.model):
                    continue
                start, end = bounds(cap.asked.period, call.admitted_at, org.zone)
                if since <= call.admitted_at:
                    yield Span(place, cap, max(start, since), end)

    # The checks of a commit.

    def check(
        self,
        ledger: MemoryLedger,
        org: Organization,
        holds: Sequence[Hold],
        calls: Mapping[UUID, ClosedCall],
        said: Said,
    ) -> None:
        """Nothing that took effect in this commit passes a hard limit.

        Raises:
            SimulationError: A limit was passed, or its counter is wrong.
        """
        set_now = any(isinstance(command, SetLimit | SetZone) for command, _ in said)
        by_id = {hold.call_id: hold for hold in holds}
        seen = set()
        for command, answer in said:
            call_id = getattr(command, "call_id", org.id)
            call = by_id.get(call_id) or calls.get(call_id)
            if call is None:
                continue
            takes = took(command, answer)
            for span in self.spans(org, call):
                if span.measure in OBSERVED:
                    continue
                key = (span.place, tail(span.cap.asked), span.start)
                if key in seen and not takes:
                    continue
                seen.add(key)
                total = _total(span, holds, calls)
                maximum = span.cap.maximum(org.last_time)
                asks = takes and (isinstance(command, Admit) or _extends(command, span.measure))
                if asks and total > maximum:
                    _fail(span, total, maximum, said)
                if self._may_not_grow(span, org) and not set_now:
                    before = self.totals.get(key)
                    if before is not None and max(0, total - maximum) > max(0, before - maximum):
                        _fail(span, total, maximum, said)
                self.totals[key] = total
        self._compare(ledger, org, holds, calls)

    def _may_not_grow(self, span: Span, org: Organization) -> bool:
        """Whether what an upstream bills beyond a hold is absorbed rather than counted here."""
        return (
            span.measure is Measure.MONEY
            and org.on_overrun is OnOverrun.ABSORB
            and (span.cap.asked.period not in RATES or org.last_time < span.end)
        )

    def _compare(
        self,
        ledger: MemoryLedger,
        org: Organization,
        holds: Sequence[Hold],
        calls: Mapping[UUID, ClosedCall],
    ) -> None:
        """Every counter is the sum over its window's holds and calls."""
        rows = [row for key, row in ledger.limits.items() if key[0] == org.id]
        for row, rule, start, end, used, held in windows(rows):
            place = (row.kind.value, row.ref)
            every: tuple[Counted, ...] = (*holds, *calls.values())
            mine = [
                call
                for call in every
                if start <= call.admitted_at < end
                and rule.counts(call.dimensions.model)
                and place in places(call)
            ]
            ended = [c for c in mine if isinstance(c, ClosedCall)]
            now_used = sum(uses(c, rule.measure, failed=rule.count_failed) for c in ended)
            now_held = sum(holds_of(c, rule.measure) for c in mine if isinstance(c, Hold))
            if (used, held) != (now_used, now_held):
                message = f"{place} {rule} from {start}: {used}, {held} not {now_used}, {now_held}"
                raise SimulationError("counter", message)

    # Refusals.

    def fits(
        self,
        org: Organization,
        holds: Sequence[Hold],
        calls: Mapping[UUID, ClosedCall],
        command: Admit | Extend,
        later: Said,
    ) -> bool:
        """Whether every hard limit had room for a command at its decision.

        Args:
            org: After the batch.
            holds: After the batch.
            calls: After the batch.
            command: The one that was refused.
            later: What was decided after it, in the same batch.
        """
        about = _as_hold(command, holds, org)
        if about is None:
            return False
        by_id = {hold.call_id: hold for hold in holds}
        for span in self.spans(org, about):
            if span.measure in OBSERVED:
                return False  # that is seen at the call, not counted up: the engine's word stands
            taken = sum(
                asks(c, span.measure, answer)
                for c, answer in later
                if took(c, answer) and span.counts(by_id[getattr(c, "call_id", org.id)])
            )
            total = _total(span, holds, calls) - taken
            if total + asks(command, span.measure) > span.cap.maximum(org.last_time):
                return False
        return True

    # Allocations.

    def set_aside(
        self,
        org: Organization,
        holds: Sequence[Hold],
        calls: Mapping[UUID, ClosedCall],
        project_id: UUID,
        later: Said = (),
    ) -> int:
        """What allocations keep from a project's calls, before ``later`` took what it did."""
        by_id = {hold.call_id: hold for hold in holds}
        aside = 0
        for place, caps in self.caps.items():
            if place[0] != "project" or place[1] == project_id.hex:
                continue
            for cap in caps.values():
                if cap.asked.effect is Effect.ALLOCATION:
                    start, end = bounds(cap.asked.period, org.last_time, org.zone)
                    span = Span(place, cap, max(start, cap.since), end)
                    taken = sum(
                        asks(c, Measure.MONEY, answer)
                        for c, answer in later
                        if took(c, answer) and span.counts(by_id[getattr(c, "call_id", org.id)])
                    )
                    left = cap.maximum(org.last_time) - _total(span, holds, calls) + taken
                    aside += max(0, left)
        return aside


def took(command: AnyCommand, answer: Result) -> bool:
    """Whether a command took money in this batch."""
    if getattr(answer, "exists", False):
        return False
    admitted = isinstance(command, Admit) and isinstance(answer, Admitted)
    return admitted or (isinstance(command, Extend) and isinstance(answer, Done))


def asks(command: AnyCommand, measure: Measure, answer: Result | None = None) -> int:
    """What a command takes of a measure: what it got, or the least that it asks for."""
    if isinstance(command, Extend):
        return {Measure.MONEY: int(command.amount), Measure.TOKENS: command.tokens}.get(measure, 0)
    assert isinstance(command, Admit)
    output, money = command.output_min, 0
    if isinstance(answer, Admitted):
        output, money = answer.output_limit, answer.held
    else:
        money = command.fixed + price_up(output, command.output_price)
    return {Measure.MONEY: money, Measure.TOKENS: command.input_tokens + output}.get(measure, 1)


def uses(call: ClosedCall, measure: Measure, *, failed: bool) -> int:
    """What a closed call counts as used; failed ones only where they count."""
    if call.state is CallState.RELEASED and not failed:
        return 0
    tokens = call.usage.input_tokens + call.usage.output_tokens
    by_measure = {Measure.MONEY: int(call.charge), Measure.TOKENS: tokens, Measure.CALLS: 1}
    return by_measure.get(measure, 0)


def holds_of(hold: Hold, measure: Measure) -> int:
    """What an open hold counts as held."""
    if measure in OBSERVED:
        return 0
    return {Measure.MONEY: int(hold.amount), Measure.TOKENS: hold.tokens}.get(measure, 1)


def places(call: Counted) -> frozenset[Place]:
    """The scopes that a call is counted under."""
    about = call.dimensions
    return _places(
        call.organization_id, about.project_id, about.key_id, about.environment, about.feature,
        call.user, call.run, tuple(call.tags.items()),
    )  # fmt: skip


@lru_cache(maxsize=1 << 12)
def _places(
    organization_id: UUID,
    project_id: UUID,
    key_id: UUID,
    environment: str,
    feature: str,
    user: str,
    run: str,
    tags: tuple[tuple[str, str], ...],
) -> frozenset[Place]:
    found = {
        ("organization", organization_id.hex),
        ("project", project_id.hex),
        ("key", key_id.hex),
        ("environment", environment),
        ("feature", feature),
        ("user", user),
        *(("run", each) for each in runs(run)),
        *(("tag", f"{name}={value}") for name, value in tags),
    }
    return frozenset(place for place in found if place[1])


def runs(path: str) -> Iterator[str]:
    """A run and those that it runs in."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def windows(
    rows: Sequence[ScopeLimits],
) -> Iterator[tuple[ScopeLimits, Rule, datetime, datetime, int, int]]:
    """Every stored window that a rule counts now."""
    defaults = {row.kind: row.rules for row in rows if not row.ref}
    for row in rows:
        rules = (*defaults.get(row.kind, ()), *row.rules) if row.ref else ()
        for number, rule in {rule.number: rule for rule in rules}.items():
            for window in row.windows.get(number, ()):
                start, end = instant(window.start), instant(window.end)
                if rule.counts_from is None or start >= rule.counts_from:
                    yield row, rule, start, end, window.used, window.held


def _extends(command: AnyCommand, measure: Measure) -> bool:
    return isinstance(command, Extend) and asks(command, measure) > 0


def _as_hold(command: Admit | Extend, holds: Sequence[Hold], org: Organization) -> Hold | None:
    """Where a command's call is counted."""
    if isinstance(command, Extend):
        return next((hold for hold in holds if hold.call_id == command.call_id), None)
    about = command.attribution
    return Hold(
        call_id=command.call_id,
        organization_id=command.organization_id,
        node_id=command.node_id,
        epoch=command.epoch,
        amount=command.fixed,
        unsecured=command.fixed,
        earmarks=(),
        raised=(),
        admitted_at=org.last_time,
        latest_end=org.last_time,
        dimensions=command.dimensions,
        fingerprint=b"",
        output_limit=0,
        user=about.user,
        run=about.run,
        tags=about.tags,
    )


def _total(span: Span, holds: Sequence[Hold], calls: Mapping[UUID, ClosedCall]) -> int:
    failed = span.cap.asked.count_failed
    mine = [call for call in calls.values() if span.counts(call)]
    used = sum(uses(call, span.measure, failed=failed) for call in mine)
    return used + sum(holds_of(hold, span.measure) for hold in holds if span.counts(hold))


def _fail(span: Span, total: int, maximum: int, said: Said) -> None:
    raise SimulationError("limit", f"{total} of {maximum} from {span.start} {span.cap}: {said}")
