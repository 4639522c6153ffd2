"""Anomalies: what looks wrong in how credit is spent, and what an organisation wants to hear of.

Thresholds of limits tell by themselves (``ledger.alerting``). What needs more than one counter is
found here, from facts that a worker reads: a budget that will not last, spending far above what is
usual, a run that grows call over call, a user who calls unusually often, a request that is repeated
over and over. Each finding says what it is about and of which period it is, and there is one of
each (ANO-01 to ANO-04, ANO-09, BUD-15).

Amounts are whole nanodollars and every comparison is of whole numbers.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import AMOUNT_NANOS_MAX, NANOS_PER_UNIT, Nanos


class AnomalyKind(StrEnum):
    """What was found; the kinds of the outbox's words, too."""

    PROJECTED_OVERRUN = "projected_overrun"
    """At the current pace a limit is passed before its window ends."""
    SPEND_RATE = "spend_rate"
    """An hour costs many times what such an hour does (ANO-02)."""
    DAILY_SPEND = "daily_spend"
    """A day costs many times what a day does (BUD-15)."""
    RUN_GROWTH = "run_growth"
    """A run's calls grow call over call (ANO-03)."""
    FREQUENT_USER = "frequent_user"
    """A user calls many times as often as is usual (ANO-04)."""
    REPEATED_REQUESTS = "repeated_requests"
    """Near-identical requests come at a rate that looks like a loop (ANO-01)."""


class AnomalyKey(NamedTuple):
    """What makes an anomaly of an organisation one."""

    kind: str
    subject: str
    period_start: datetime


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """One finding: there is one of each kind, subject and period."""

    kind: AnomalyKind
    subject: str
    """What it is about, in letters that stay the same."""
    period_start: datetime
    facts: dict[str, str]
    """The evidence (ANO-09): whole numbers, nanodollars where the name ends so, instants, names."""

    @property
    def key(self) -> AnomalyKey:
        """Which one it is."""
        return AnomalyKey(self.kind.value, self.subject, self.period_start)


TIMES_PERCENT_MAX: Final = 100_000
COUNT_MAX: Final = 1_000_000_000
REPEATS_MIN: Final = 6
"""Fewer near-identical requests in a minute are noted by no gateway: clients do send again."""
USER_CALLS_MIN: Final = 30
PROJECTS_MAX: Final = 1_000


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an organisation is told of, and from which figures on; percents of what is usual."""

    enabled: bool = True
    """Off: nothing here is looked for; thresholds of limits tell as before."""
    overrun: bool = True
    spending: bool = True
    spending_times_percent: int = 300
    """An hour or a day must cost so much of what is usual..."""
    hour_minimum: Nanos = Nanos(2 * NANOS_PER_UNIT)
    """...and an hour so much more than that..."""
    day_minimum: Nanos = Nanos(5 * NANOS_PER_UNIT)
    """...or a day."""
    runs: bool = True
    run_times_percent: int = 300
    """The last call must have so much of the input of the first of those that grew..."""
    run_calls_min: int = 6
    """...in so many calls, each larger than the one before..."""
    run_tokens_min: int = 50_000
    """...with so many tokens together."""
    users: bool = True
    user_times_percent: int = 500
    user_calls_min: int = 300
    """Calls of one user in an hour."""
    repeats: bool = True
    repeats_per_minute: int = 30
    """Near-identical requests of one key and run."""
    stop_repeats: bool = False
    """Stop the run (or the key, where there is no run) instead of only telling."""
    stop_repeats_projects: tuple[UUID, ...] = ()
    """Stop in these projects, whatever holds for the others."""

    def stops(self, project_id: UUID) -> bool:
        """Whether a loop in a project is stopped."""
        return self.stop_repeats or project_id in self.stop_repeats_projects


_COUNTS: Final = {
    "spending_times_percent": (101, TIMES_PERCENT_MAX),
    "run_times_percent": (101, TIMES_PERCENT_MAX),
    "user_times_percent": (101, TIMES_PERCENT_MAX),
    "run_calls_min": (3, 30),
    "run_tokens_min": (0, COUNT_MAX),
    "user_calls_min": (USER_CALLS_MIN, COUNT_MAX),
    "repeats_per_minute": (REPEATS_MIN, COUNT_MAX),
    "hour_minimum": (0, AMOUNT_NANOS_MAX),
    "day_minimum": (0, AMOUNT_NANOS_MAX),
}


def checked_settings(settings: AlertSettings) -> AlertSettings:
    """Settings whose figures can be meant.

    Raises:
        InvalidInputError: Naming the field.
    """
    for name, (low, high) in _COUNTS.items():
        if not low <= getattr(settings, name) <= high:
            amount = name.endswith("_minimum")
            span = "from 0 to one billion" if amount else f"from {low:,} to {high:,}"
            raise InvalidInputError(name, f"must be {span}")
    if len(settings.stop_repeats_projects) > PROJECTS_MAX:
        raise InvalidInputError("stop_repeats_projects", f"must be at most {PROJECTS_MAX:,}")
    return settings


def is_many_times(value: int, usual: int, times_percent: int) -> bool:
    """Whether a figure is so many percent of what is usual, and not nothing.

    >>> is_many_times(300, 100, 300), is_many_times(299, 100, 300), is_many_times(0, 0, 300)
    (True, False, False)
    """
    return value > 0 and value * 100 >= times_percent * usual
