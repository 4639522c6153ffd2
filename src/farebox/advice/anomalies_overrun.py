"""Projected overrun: at the current pace, is a limit passed before its window ends?

Two paces are known: that of the window so far, from its counter, and that of its last quarter (at
most a week), from the hourly rollups. A budget is projected with the slower of the two, so that
neither one dear day long ago nor one busy hour raises an alarm by itself; where rollups do not know
the scope (users, tags, runs), with the window's own. A pace begins with the first use in the
window, not at midnight before an organisation existed.

Nothing is said before there is evidence: a tenth of the window, or half of what is left of it where
that is less, and an hour at least; and a tenth of the budget used. What is used up is told by its
thresholds. A total limit has no end: its next seven days are projected, after a day of use.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from farebox.advice.anomalies import Anomaly, AnomalyKind
from farebox.kit.periods import hour_start
from farebox.ledger.limits import ALWAYS_START, Effect, Measure, Period, Rule, instant
from farebox.ledger.scopes import ScopeKind

EVIDENCE_MIN: Final = timedelta(hours=1)
EVIDENCE_TOTAL: Final = timedelta(days=1)
WINDOW_PART: Final = 10
"""The part of a window, and of a budget, that must be over before anything is projected."""

LOOKBACK_PART: Final = 4
LOOKBACK_MIN: Final = timedelta(hours=6)
LOOKBACK_MAX: Final = timedelta(days=7)

HORIZON: Final = timedelta(days=7)
"""How far a limit without an end is projected."""

KNOWN_DAYS: Final = timedelta(days=31)
"""How far back a window's first use is looked for."""

MEASURES: Final = frozenset({Measure.MONEY, Measure.TOKENS, Measure.CALLS})
PERIODS: Final = frozenset({Period.DAY, Period.WEEK, Period.MONTH, Period.TOTAL})
_EFFECTS: Final = frozenset({Effect.HARD, Effect.ALERT, Effect.THROTTLE, Effect.ALLOCATION})

ROLLED_UP: Final = frozenset(
    {
        ScopeKind.ORGANIZATION,
        ScopeKind.PROJECT,
        ScopeKind.KEY,
        ScopeKind.FEATURE,
        ScopeKind.ENVIRONMENT,
    }
)
"""Kinds of scopes that the hourly rollups know."""

_DAY: Final = timedelta(days=1)
_TICK: Final = timedelta(microseconds=1)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A limit with its counter in the running window."""

    scope_kind: ScopeKind
    scope_ref: str
    """As the engine knows it."""
    rule: Rule
    maximum: int
    used: int
    starts_at: datetime | None
    """None where the window is all time."""
    ends_at: datetime | None


class RecentUse(msgspec.Struct, frozen=True):
    """What rollups know of a limit's scope, in the limit's measure."""

    first_hour: datetime | None
    """The first hour with a call in the window; None where there is none in reach."""
    used: int
    """Since :func:`recent_since`."""


def is_worth_projecting(budget: Budget, now: datetime) -> bool:
    """Whether a budget can run over, as far as its counter tells: what costs nothing to know."""
    rule = budget.rule
    if rule.measure not in MEASURES or rule.period not in PERIODS or rule.effect not in _EFFECTS:
        return False
    if not budget.maximum <= budget.used * WINDOW_PART < budget.maximum * WINDOW_PART:
        return False
    if budget.starts_at is None or budget.ends_at is None:
        return budget.scope_kind in ROLLED_UP  # else nobody knows when its use began
    return now - budget.starts_at >= EVIDENCE_MIN


def looked_back(budget: Budget, now: datetime) -> datetime:
    """From which hour on rollups can tell when the window's use began."""
    earliest = hour_start(now - KNOWN_DAYS)
    return earliest if budget.starts_at is None else max(earliest, hour_start(budget.starts_at))


def recent_since(budget: Budget, now: datetime) -> datetime:
    """Where the last part of the window begins, to the hour."""
    lookback = LOOKBACK_MAX
    if budget.starts_at is not None and budget.ends_at is not None:
        part = (budget.ends_at - budget.starts_at) / LOOKBACK_PART
        lookback = min(LOOKBACK_MAX, max(LOOKBACK_MIN, part))
    return max(hour_start(now - lookback), looked_back(budget, now))


def projected_overrun(budget: Budget, recent: RecentUse | None, now: datetime) -> Anomaly | None:
    """The finding that a budget will not last; None where it will, or too little is known.

    Args:
        budget: One that is worth projecting.
        recent: None where rollups do not know the scope.
        now: Engine time.
    """
    begun = budget.starts_at
    if recent is not None:
        if recent.first_hour is None:
            return None  # all of its use is older than anybody looks
        begun = recent.first_hour if begun is None else max(begun, recent.first_hour)
    if begun is None:
        return None
    elapsed = now - begun
    end = now + HORIZON if budget.ends_at is None else budget.ends_at
    if elapsed < _evidence(budget, end - now):
        return None
    left, gone = (end - now) // _TICK, elapsed // _TICK
    more, pace_used, pace_time = budget.used * left // gone, budget.used, gone
    if recent is not None:
        span = (now - max(recent_since(budget, now), begun)) // _TICK
        lately = recent.used * left // max(1, span)
        if lately < more:
            more, pace_used, pace_time = lately, recent.used, span
    projected = budget.used + more
    if projected <= budget.maximum:
        return None
    reached_at = now + _TICK * ((budget.maximum - budget.used) * pace_time // pace_used)
    return _finding(
        budget,
        pace_per_day=pace_used * (_DAY // _TICK) // pace_time,
        projected=projected,
        reached_at=reached_at,
        until=end,
    )


def _evidence(budget: Budget, left: timedelta) -> timedelta:
    if budget.starts_at is None or budget.ends_at is None:
        return EVIDENCE_TOTAL
    part = (budget.ends_at - budget.starts_at) / WINDOW_PART
    return max(EVIDENCE_MIN, min(part, left / 2))


def _finding(
    budget: Budget,
    *,
    pace_per_day: int,
    projected: int,
    reached_at: datetime,
    until: datetime,
) -> Anomaly:
    rule = budget.rule
    start = budget.starts_at or instant(ALWAYS_START)
    return Anomaly(
        kind=AnomalyKind.PROJECTED_OVERRUN,
        # A budget that was raised is another one: it may be told of again.
        subject=f"{budget.scope_kind}:{budget.scope_ref}:{rule.number:016x}:{budget.maximum}",
        period_start=start,
        facts={
            "scope_kind": budget.scope_kind,
            "scope_ref": budget.scope_ref,
            "measure": rule.measure,
            "period": rule.period,
            "effect": rule.effect,
            "models": rule.models,
            "window_start": start.isoformat(),
            "window_end": "" if budget.ends_at is None else budget.ends_at.isoformat(),
            "used": str(budget.used),
            "maximum": str(budget.maximum),
            "pace_per_day": str(pace_per_day),
            "projected": str(projected),
            "projected_until": until.isoformat(),
            "reached_at": reached_at.isoformat(),
            "owner": rule.owner,
        },
    )
