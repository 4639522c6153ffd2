"""Limits in the plain model: which of them bind a call, and what its windows have counted.

What is kept is what was asked for and when, and what has been told; every figure is summed anew
from the list of calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import scope_number
from tests.support.ledger_model_facts import Call, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

KEPT = timedelta(days=35)
RATES = {Period.MINUTE, Period.UTC_DAY}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
KEEPS_OUT = {Effect.HARD, Effect.THROTTLE, Effect.ALLOCATION, Effect.STOP}
LEAVES_NOTHING = {Measure.PARALLEL, Measure.SECONDS, Measure.DEPTH}
"""Measures that an ended call has no part in."""

BY_ZONE = {Period.DAY, Period.WEEK, Period.MONTH}

Tail = tuple[Measure, Period, Effect, str, Origin]
"""What tells the limits of one scope apart."""


@dataclass(frozen=True)
class Cap:
    """A limit as it was asked for."""

    asked: SetLimit
    since: datetime
    """Calls admitted earlier are not counted."""
    earliest: datetime = EPOCH
    """No zone brings earlier calls back: for a default, when it was set."""

    @property
    def refuses(self) -> bool:
        return self.asked.effect in KEEPS_OUT

    def maximum(self, now: datetime) -> int:
        c = self.asked
        begun = c.raised_from is None or c.raised_from <= now
        ended = c.raised_until is not None and c.raised_until <= now
        if c.raised_to is not None and begun and not ended:
            return c.raised_to
        assert c.maximum is not None
        return c.maximum

    def means(self, model: str) -> bool:
        names = self.asked.models
        return model.startswith(names[:-1]) if names.endswith("*") else names in {"", model}


@dataclass(frozen=True)
class Span:
    """One limit of one scope in one window of time."""

    place: Place
    cap: Cap
    start: datetime
    end: datetime

    @property
    def key(self) -> tuple[Place, Tail, datetime]:
        return (self.place, tail(self.cap.asked), self.start)


class Caps:
    """The limits of one organisation."""

    def __init__(self, org_id: UUID, zone: str, calls: Mapping[UUID, Call]) -> None:
        self.org_id = org_id
        self.zone = zone
        self.calls = calls
        self.caps: dict[Place, dict[Tail, Cap]] = {}
        self.resumed: dict[tuple[Place, Tail], datetime] = {}
        """From when a default counts a scope that has had a limit of its own."""
        self.began: dict[tuple[Place, Tail], datetime] = {}
        """When wall time began to run."""
        self.forgotten: set[tuple[Place, Tail, datetime]] = set()
        self.told: dict[tuple[Place, Tail, datetime], int] = {}

    # --- what there is ------------------------------------------------------------------------

    def place(self, c: SetLimit) -> Place:
        kind = c.scope_kind.value
        return (kind, self.org_id.hex if kind == "organization" else c.scope_ref)

    def in_force(self, place: Place) -> dict[Tail, Cap]:
        """A scope's own limits, and each default that nothing of its own stands in for."""
        own = self.caps.get(place, {})
        defaults = self.caps.get((place[0], ""))
        if not defaults:
            return own
        return {
            which: replace(cap, since=max(cap.since, self.resumed.get((place, which), EPOCH)))
            for which, cap in defaults.items()
        } | own

    def span(self, place: Place, cap: Cap, at: datetime) -> Span:
        if cap.asked.measure is Measure.SECONDS:
            began = self.began.get((place, tail(cap.asked)), at)
            return Span(place, cap, at if began < cap.since else began, NEVER)
        start, end = bounds(cap.asked.period, at, self.zone)
        return Span(place, cap, max(start, cap.since), end)

    def spans(self, places: Iterable[Place], model: str, at: datetime) -> list[Span]:
        """The limits that count a call admitted at an instant, with the windows it is in."""
        found = [
            self.span(place, cap, at)
            for place in places
            for cap in self.in_force(place).values()
            if cap.means(model) and cap.since <= at
        ]
        return [span for span in found if span.start <= at and span.key not in self.forgotten]

    def spans_of(self, call: Call) -> list[Span]:
        return self.spans(call.places, call.asked.dimensions.model, call.at)

    def every_span(self) -> Iterable[Span]:
        """Every window that counts a call."""
        if not any(self.caps.values()):
            return ()
        return {
            span.key: span for call in self.calls.values() for span in self.spans_of(call)
        }.values()

    # --- what it comes to ---------------------------------------------------------------------

    def inside(self, span: Span) -> list[Call]:
        return [
            call
            for call in self.calls.values()
            if span.start <= call.at < span.end
            and span.place in call.places
            and span.cap.means(call.asked.dimensions.model)
        ]

    def used(self, span: Span) -> int:
        if span.cap.asked.measure in LEAVES_NOTHING:
            return 0
        asked = span.cap.asked
        return sum(
            call.uses.of(asked.measure)
            for call in self.inside(span)
            if asked.count_failed or call.state != "released"
        )

    def held(self, span: Span) -> int:
        return sum(call.holds.of(span.cap.asked.measure) for call in self.inside(span))

    def left(self, span: Span, now: datetime) -> int:
        return span.cap.maximum(now) - self.used(span) - self.held(span)

    def seen(self, span: Span, run: str, now: datetime) -> int | None:
        """What is seen of one call: how long its run has lasted, how deep below it it is."""
        if span.cap.asked.measure is Measure.SECONDS:
            return (now - span.start) // timedelta(seconds=1)
        if span.cap.asked.measure is Measure.DEPTH:
            return run.count("/") - span.place[1].count("/")
        return None

    def set_aside(self, project: str, now: datetime) -> int:
        """What the allocations of other projects keep from a project's calls."""
        return sum(
            max(0, self.left(self.span(place, cap, now), now))
            for place, mine in self.caps.items()
            for cap in mine.values()
            if cap.asked.effect is Effect.ALLOCATION and place != ("project", project)
        )

    def least_left(self, spans: Iterable[Span], measure: Measure, now: datetime) -> int | None:
        """What the tightest hard limit of a measure leaves; None where there is none."""
        lefts = [
            self.left(span, now)
            for span in spans
            if span.cap.refuses and span.cap.asked.measure is measure
        ]
        return min(lefts, default=None)

    def shows(self, span: Span, run: str, now: datetime) -> dict[str, object]:
        """The figures of a limit, as refusals and records carry them."""
        asked, seen = span.cap.asked, self.seen(span, run, now)
        return {
            "scope_kind": span.place[0],
            "scope_id": span.place[1],
            "period": asked.period.value,
            "maximum": span.cap.maximum(now),
            "used": self.used(span) if seen is None else seen,
            "held": self.held(span),
            "resets_at": None if asked.period is Period.TOTAL else span.end,
            "measure": asked.measure.value,
            "effect": asked.effect.value,
            "models": asked.models,
            "owner": asked.owner,
            "origin": asked.origin.value,
        }

    # --- what happens -------------------------------------------------------------------------

    def set(self, c: SetLimit, now: datetime) -> bool:
        """Set, change or remove a limit; whether there was one."""
        place, mine = self.place(c), tail(c)
        was = self.caps.setdefault(place, {}).pop(mine, None)
        begins = was is None or was.asked.count_failed != c.count_failed
        start = bounds(c.period, now, self.zone)[0]
        if c.maximum is not None:
            earliest = now if place[1] == "" else EPOCH
            anew = Cap(c, max(start, earliest), earliest)
            self.caps[place][mine] = anew if was is None or begins else replace(was, asked=c)
        elif was is not None:
            self.resumed[place, mine] = start
        if begins if c.maximum is not None else was is not None:
            # Another limit than before counts this window now, and has told nothing.
            self.forgotten = {key for key in self.forgotten if key[:2] != (place, mine)}
            self.began.pop((place, mine), None)
            self.told = {key: done for key, done in self.told.items() if key[:2] != (place, mine)}
        return was is not None

    def set_zone(self, zone: str, now: datetime) -> None:
        """Days, weeks and months begin anew; what was told and is still reached stays told."""
        was = {span.key[:2]: self.told.get(span.key, 0) for span in self.zoned(now)}
        self.zone = zone
        for mine in self.caps.values():
            for which, cap in mine.items():
                if cap.asked.period in BY_ZONE:
                    # Not from what was before: a zone may come back within a month.
                    start = bounds(cap.asked.period, now, zone)[0]
                    mine[which] = replace(cap, since=max(start, cap.earliest))
        for of in self.resumed:
            if of[1][1] in BY_ZONE:
                self.resumed[of] = bounds(of[1][1], now, zone)[0]
        for span in self.zoned(now):
            reached = [
                percent
                for percent in span.cap.asked.thresholds
                if percent <= was.get(span.key[:2], 0)
                and self.used(span) > 0
                and self.used(span) * 100 >= percent * span.cap.maximum(now)
            ]
            self.told[span.key] = max(reached, default=0)
            self.forgotten.discard(span.key)

    def forget(self, number: int, now: datetime) -> None:
        """A scope under defaults alone is as if never seen, once nothing can reach its windows."""
        for place in {place for call in self.calls.values() for place in call.places}:
            if scope_number(*place) != number or self.caps.get(place):
                continue
            mine = [
                (call, span)
                for call in self.calls.values()
                if place in call.places
                for span in self.spans([place], call.asked.dimensions.model, call.at)
                if span.cap.asked.measure is not Measure.SECONDS
                or self.began.get(span.key[:2], EPOCH) >= max(span.cap.since, EPOCH + MICRO)
            ]
            if all(call.state != "open" and self.is_over(span, now) for call, span in mine):
                self.forgotten |= {
                    span.key
                    for _, span in mine
                    if span.cap.asked.measure not in {Measure.PARALLEL, Measure.DEPTH}
                }

    def is_over(self, span: Span, now: datetime) -> bool:
        """Nothing can reach it: its time and that of late answers are over, or it keeps nothing."""
        if span.cap.asked.measure in {Measure.PARALLEL, Measure.DEPTH}:
            return True
        keep = timedelta(0) if span.cap.asked.period in RATES else KEPT
        return span.end != NEVER and span.end + keep <= now

    def zoned(self, now: datetime) -> list[Span]:
        """The day, week or month of now of every limit that has one, of every scope known."""
        places = {*self.caps, *(place for call in self.calls.values() for place in call.places)}
        return [
            self.span(place, cap, now)
            for place in places
            if place[1]
            for cap in self.in_force(place).values()
            if cap.asked.period in BY_ZONE and cap.since <= now
        ]

    def has(self, c: SetLimit) -> bool:
        """Whether it stands, and counts the same calls."""
        cap = self.caps.get(self.place(c), {}).get(tail(c))
        return cap is not None and cap.asked.count_failed == c.count_failed

    def begin(self, span: Span, now: datetime) -> None:
        """As a window begins with its first call, those that nothing can reach are forgotten."""
        if span.cap.asked.measure is Measure.SECONDS:
            self.began[span.key[:2]] = span.start
        if self.inside(span):
            return
        cap, keep = span.cap, KEPT
        if cap.asked.period in RATES:
            keep = timedelta(0)
        for old in self.inside(replace(span, start=cap.since, end=now)):
            past = self.span(span.place, cap, old.at)
            if past.end + keep <= now and self.held(past) == 0:
                self.forgotten.add(past.key)

    def tell(self, call: Call, now: datetime) -> list[dict[str, str]]:
        """The thresholds that a call's use has reached and nobody was told of."""
        told = []
        for span in self.spans_of(call):
            asked, used, maximum = span.cap.asked, self.used(span), span.cap.maximum(now)
            for percent in sorted(() if asked.measure in LEAVES_NOTHING else asked.thresholds):
                reached = used > 0 and used * 100 >= percent * maximum
                if reached and percent > self.told.get(span.key, 0):
                    self.told[span.key] = percent
                    told.append(
                        {
                            "scope_kind": span.place[0],
                            "scope_ref": span.place[1],
                            "measure": asked.measure.value,
                            "period": asked.period.value,
                            "effect": asked.effect.value,
                            "models": asked.models,
                            "window_start": span.start.isoformat(),
                            "percent": str(percent),
                            "used": str(used),
                            "maximum": str(maximum),
                            "owner": asked.owner,
                            "origin": asked.origin.value,
                        }
                    )
        return told


def tail(c: SetLimit) -> Tail:
    """Which limit of its scope is meant."""
    return (c.measure, c.period, c.effect, c.models, c.origin)


@lru_cache(maxsize=1 << 14)
def bounds(period: Period, at: datetime, zone: str) -> tuple[datetime, datetime]:
    """The window of an instant: the last beginning that is not after it, and the next one."""
    if period is Period.TOTAL:
        return EPOCH, NEVER
    if period in RATES:
        length = timedelta(minutes=1) if period is Period.MINUTE else timedelta(days=1)
        start = EPOCH + (at - EPOCH) // length * length
        return start, start + length
    around = {Period.DAY: 2, Period.WEEK: 9, Period.MONTH: 33}[period]
    begins = []
    for days in range(-around, around + 1):
        day = at.astimezone(UTC).date() + timedelta(days=days)
        first = {Period.DAY: True, Period.WEEK: day.weekday() == 0, Period.MONTH: day.day == 1}
        if first[period]:
            # Of two midnights the first, of none the instant at which the clocks skip it.
            midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
            begins.append(midnight.astimezone(UTC))
    return max(b for b in begins if b <= at), min(b for b in begins if b > at)
