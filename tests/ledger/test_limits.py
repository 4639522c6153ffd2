"""Windows of limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.money import Nanos
from farebox.ledger.limits import WINDOW_KEPT, Period, ScopeKind, ScopeLimits, window_bounds
from tests.support.ledger_scenes import MICRO, NOON

ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "America/St_Johns")
INSTANTS = st.datetimes(
    datetime(2005, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2060, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.lists(INSTANTS, min_size=1, max_size=8).map(sorted), st.sampled_from(ZONES))
def test_every_instant_finds_its_own_window(instants: list[datetime], zone: str) -> None:
    """BUD-01: the same window again for the same month, and never two that overlap."""
    scope = ScopeLimits(ScopeKind.ORGANIZATION, UUID(int=1), {}, {})
    for now in instants:
        window = scope.window_at(Period.MONTH, now, zone)
        assert window.start <= now < window.end
        assert (window.start, window.end) == window_bounds(Period.MONTH, now, zone)
        assert scope.window_at(Period.MONTH, now, zone) is window
        kept = scope.windows[Period.MONTH]
        assert len({w.start for w in kept}) == len(kept)
        assert all(a.end <= b.start for a, b in pairwise(kept))


@pytest.mark.parametrize(("early", "months"), [(MICRO, [3, 5]), (0 * MICRO, [5])])
def test_a_window_is_kept_as_long_as_an_answer_may_be_late(
    early: timedelta, months: list[int]
) -> None:
    """BUD-01: 35 days past its end, to the microsecond; and longer while a hold is open in it."""
    for held in (0, 1):
        scope = ScopeLimits(ScopeKind.ORGANIZATION, UUID(int=1), {}, {})
        window = scope.window_at(Period.MONTH, NOON, "UTC")
        window.held = Nanos(held)
        scope.window_at(Period.MONTH, window.end + WINDOW_KEPT - early, "UTC")
        kept = [window.start.month for window in scope.windows[Period.MONTH]]
        assert kept == ([3, 5] if held else months)
