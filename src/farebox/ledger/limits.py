"""Spend limits and the counters that decide them.

A scope (an organisation now; projects, keys and others later) that has a limit has one counter row
with all its windows; a scope without a limit has none. A window belongs to the instant a call was
admitted, and keeps its used and held money until long after its last hold can close.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.kit.periods import month_start, next_month_start


class Period(StrEnum):
    """How long a window lasts; a month is the calendar month of the organisation's zone."""

    MONTH = "month"


class ScopeKind(StrEnum):
    """What a limit is set on."""

    ORGANIZATION = "organization"


WINDOW_KEPT: Final = timedelta(days=35)
"""A window is kept as long as holds are after closing, so that a late settle still finds it."""


class Window(msgspec.Struct):
    """One window's counter."""

    start: datetime
    end: datetime
    used: Nanos
    held: Nanos


class Rule(msgspec.Struct, frozen=True):
    """A hard limit: used plus held never pass ``maximum`` inside one window."""

    period: Period
    maximum: Nanos


class ScopeLimits(msgspec.Struct):
    """All limits of one scope, with their counters; the engine works on copies."""

    kind: ScopeKind
    id: UUID
    rules: dict[Period, Rule]
    windows: dict[Period, list[Window]]

    def window_at(self, period: Period, now: datetime, zone: str) -> Window:
        """The window that an instant lies in, begun empty where it is new; old ones drop out."""
        kept = self.windows.setdefault(period, [])
        for window in kept:
            if window.start <= now < window.end:
                return window
        start, end = window_bounds(period, now, zone)
        window = Window(start=start, end=end, used=Nanos(0), held=Nanos(0))
        kept[:] = [w for w in kept if w.held > 0 or w.end + WINDOW_KEPT > now]
        kept.append(window)
        return window


def window_bounds(period: Period, now: datetime, zone: str) -> tuple[datetime, datetime]:
    """Where the window of an instant begins and ends, in UTC."""
    assert period is Period.MONTH, period
    return month_start(now, zone), next_month_start(now, zone)


class LimitFigures(msgspec.Struct, frozen=True):
    """What one limit showed at a decision: kept with the call, shown by ``calls show``."""

    scope_kind: str
    scope_id: UUID
    period: str
    maximum: Nanos
    used: Nanos
    held: Nanos
    resets_at: datetime
