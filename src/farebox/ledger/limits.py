"""Limits and the counters that decide them.

A scope that has a limit has one counter row with all its windows; a scope without one has none. A
limit counts money, tokens or calls in windows of time, or calls that run in parallel. A window
belongs to the instant a call was admitted, and keeps its figures until long after its last hold can
close.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, NewType
from uuid import UUID

import msgspec

from farebox.kit.patterns import matches
from farebox.kit.periods import (
    day_start,
    month_start,
    next_day_start,
    next_month_start,
    next_week_start,
    week_start,
)
from farebox.ledger.scopes import EVERY, ScopeKind, scope_number

Micros = NewType("Micros", int)
"""An instant in whole microseconds since 1970, as counters keep it: exact, and eight bytes."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

ALWAYS_START: Final = Micros(0)
ALWAYS_END: Final = Micros(253_370_764_800_000_000)
"""The year 9999: a total limit's one window never ends."""


class Measure(StrEnum):
    """What a limit counts."""

    MONEY = "money"
    """Nanodollars: what calls hold, then what they are charged."""
    TOKENS = "tokens"
    """Input and output: what calls may use at most, then what they used."""
    CALLS = "calls"
    """Admitted calls, whatever became of them; a rule may leave failed ones out (LIM-03)."""
    PARALLEL = "parallel"
    """Open calls."""
    SECONDS = "seconds"
    """Wall time of a run since its first call (BUD-12)."""
    DEPTH = "depth"
    """How many runs deep a call is below the run."""


OBSERVED: Final = frozenset({Measure.SECONDS, Measure.DEPTH})
"""What is seen at each call and not counted up."""


class Period(StrEnum):
    """How long a window lasts."""

    MINUTE = "minute"
    """Aligned to engine time, as rates are."""
    UTC_DAY = "utc_day"
    """A rate's day: the same for every organisation."""
    DAY = "day"
    """A calendar day of the organisation's zone."""
    WEEK = "week"
    """From Monday, in the organisation's zone."""
    MONTH = "month"
    """A calendar month of the organisation's zone."""
    TOTAL = "total"
    """One window that never ends."""


RATES: Final = frozenset({Period.MINUTE, Period.UTC_DAY})
"""Periods of rate limits: refused with ``retry-after``, forgotten when their windows are over."""


ZONED: Final = frozenset({Period.DAY, Period.WEEK, Period.MONTH})
"""Periods that begin by the organisation's zone."""


class Effect(StrEnum):
    """What a limit does."""

    HARD = "hard"
    """It is never passed: what would pass it is refused."""
    ALERT = "alert"
    """It only tells (BUD-03)."""
    SHADOW = "shadow"
    """It counts and notes what it would have refused."""
    THROTTLE = "throttle"
    """It is never passed, but what would pass it may wait in order for room."""
    ALLOCATION = "allocation"
    """A project's own part of the balance: set aside from everybody else's, and never passed."""
    STOP = "stop"
    """Nothing more begins until it is taken away: a run or a key that was stopped (ANO-01)."""


REFUSING: Final = frozenset({Effect.HARD, Effect.THROTTLE, Effect.ALLOCATION, Effect.STOP})
"""Effects of limits that are never passed."""


class Origin(StrEnum):
    """Whose limit it is; limits of different origins stand beside each other (LIM-06)."""

    MANUAL = "manual"
    """Somebody set it."""
    TIER = "tier"
    """It comes with the organisation's usage tier and changes with that alone (LIM-05)."""


WINDOW_KEPT: Final = timedelta(days=35)
"""A budget's window is kept as long as holds are after closing, for late settles to find it."""


class Window(msgspec.Struct):
    """One window's counter."""

    start: Micros
    end: Micros
    used: int
    held: int
    told: int = 0
    """The highest threshold told in this window, in percent of the limit."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of a scope: used plus held never pass ``maximum`` inside one window."""

    measure: Measure = Measure.MONEY
    period: Period = Period.MONTH
    effect: Effect = Effect.HARD
    models: str = ""
    """A model's name, or the beginning of one and ``*``; empty means every model."""
    maximum: int
    """Nanodollars, tokens or calls, by the measure."""
    raised_to: int | None = None
    """A temporary maximum, ..."""
    raised_from: datetime | None = None
    """...when it begins, at once where nothing is said, ..."""
    raised_until: datetime | None = None
    """...and when it ends (BUD-16)."""
    thresholds: tuple[int, ...] = ()
    """Percentages of the maximum that are told when use reaches them (BUD-06)."""
    owner: str = ""
    """Who to ask (BUD-05)."""
    origin: Origin = Origin.MANUAL
    count_failed: bool = True
    """Whether a call that failed stays counted, as at the provider; else it gives its count back
    when it ends (LIM-03). False for calls per minute alone."""
    counts_from: datetime | None = None
    """Calls admitted earlier are not counted: a default begins when it is set."""

    @property
    def number(self) -> int:
        """Its number within a scope: the same for a default and for what stands in its place."""
        return rule_number(self.measure, self.period, self.effect, self.models, self.origin)

    @property
    def tally(self) -> int:
        """What its use is asked for by: one number where failed calls count, one where not."""
        return self.number if self.count_failed else -self.number

    @property
    def since(self) -> Micros:
        """Windows that begin earlier are not this rule's."""
        return ALWAYS_START if self.counts_from is None else micros(self.counts_from)

    def maximum_at(self, now: datetime) -> int:
        """What holds at an instant, a temporary raise included."""
        if (
            self.raised_to is None
            or (self.raised_from is not None and now < self.raised_from)
            or (self.raised_until is not None and now >= self.raised_until)
        ):
            return self.maximum
        return self.raised_to

    def counts(self, model: str) -> bool:
        """Whether calls to a model fall under it."""
        return not self.models or matches(self.models, model)


@lru_cache(maxsize=1 << 12)
def rule_number(
    measure: str, period: str, effect: str, models: str, origin: str = Origin.MANUAL
) -> int:
    """A positive 63-bit number of what a rule is; one scope has one of each."""
    text = f"{measure}\0{period}\0{effect}\0{models}"
    if origin != Origin.MANUAL:
        text += f"\0{origin}"
    digest = sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


class ScopeLimits(msgspec.Struct):
    """All limits of one scope, with their counters; the engine works on copies."""

    organization_id: UUID
    kind: ScopeKind
    ref: str
    """Empty for the defaults of a kind: their rules apply to each scope, and count nothing here."""
    rules: tuple[Rule, ...]
    windows: dict[int, list[Window]]
    """By the rule's number."""

    @property
    def number(self) -> int:
        """The scope's number within its organisation."""
        return scope_number(self.kind, self.ref)

    @property
    def is_default(self) -> bool:
        """Whether these are the defaults of a kind."""
        return self.ref == EVERY

    @property
    def is_everywhere(self) -> bool:
        """Whether every call of the organisation must know these limits, whoever it is for."""
        return self.is_default or any(rule.effect is Effect.ALLOCATION for rule in self.rules)

    def rule(self, number: int) -> Rule | None:
        """The scope's own rule of that number."""
        return next((rule for rule in self.rules if rule.number == number), None)


def window_of(kept: Iterable[Window], rule: Rule, at: Micros) -> Window | None:
    """The window that an instant lies in, if it has been counted since the rule counts."""
    for window in kept:
        if rule.since <= window.start <= at < window.end:
            return window
    return None


def window_bounds(rule: Rule, now: datetime, zone: str) -> tuple[Micros, Micros]:
    """Where the window of an instant begins and ends.

    It begins no earlier than the rule counts; wall time, with the first call.
    """
    if rule.measure is Measure.SECONDS:
        return micros(now), ALWAYS_END
    start, end = _period_bounds(rule.period, now, zone)
    return max(start, rule.since), end


def _period_bounds(period: Period, now: datetime, zone: str) -> tuple[Micros, Micros]:
    match period:
        case Period.MINUTE:
            start = now.replace(second=0, microsecond=0)
            return micros(start), micros(start + timedelta(minutes=1))
        case Period.UTC_DAY:
            start = now.replace(hour=0, minute=0, second=0, microsecond=0)
            return micros(start), micros(start + timedelta(days=1))
        case Period.DAY:
            return micros(day_start(now, zone)), micros(next_day_start(now, zone))
        case Period.WEEK:
            return micros(week_start(now, zone)), micros(next_week_start(now, zone))
        case Period.MONTH:
            return micros(month_start(now, zone)), micros(next_month_start(now, zone))
        case _:
            return ALWAYS_START, ALWAYS_END


def drop_old(kept: list[Window], rule: Rule, now: Micros) -> None:
    """Forget windows that nothing can reach any more; a rate's as soon as it has passed."""
    keep = 0 if rule.period in RATES else WINDOW_KEPT // _MICROSECOND
    kept[:] = [w for w in kept if w.start >= rule.since and (w.held > 0 or w.end + keep > now)]


def micros(instant: datetime) -> Micros:
    """An aware instant as counters keep it."""
    return Micros((instant - _EPOCH) // _MICROSECOND)


def instant(at: Micros) -> datetime:
    """The other way round."""
    return _EPOCH + timedelta(microseconds=at)


class LimitFigures(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one limit showed at a decision: kept with the call, shown by ``calls show``."""

    scope_kind: str
    scope_id: str
    """An id as 32 hex digits, or a name."""
    period: str
    maximum: int
    used: int
    held: int
    resets_at: datetime | None
    """None where the window never ends."""
    measure: str = Measure.MONEY.value
    effect: str = Effect.HARD.value
    models: str = ""
    owner: str = ""
    origin: str = Origin.MANUAL.value
