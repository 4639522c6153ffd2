"""The engine against a second implementation, on random histories."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from farebox.ledger.commands import SetLimit, SetZone
from farebox.ledger.limits import Measure, Period
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_machine import LedgerMachine, LimitsMachine
from tests.support.ledger_wishes import Wish, uuid

FIRST = datetime(2027, 11, 1, tzinfo=UTC)

SHORT = settings(
    max_examples=200,
    stateful_step_count=25,
    deadline=None,
    # One failure is enough, and shrinking its history takes minutes without explaining it too.
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    # A history is long by its nature.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SHORT_UNDER_LIMITS = settings(SHORT, max_examples=100)
LONG = settings(SHORT, max_examples=2_000, stateful_step_count=50)
LONG_UNDER_LIMITS = settings(LONG, max_examples=1_000)


def test_no_random_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: random histories keep every invariant and agree with the model."""
    run_state_machine_as_test(LedgerMachine, settings=SHORT)


def test_no_history_under_limits_departs_from_the_model() -> None:
    """BUD-02, BUD-07, LIM-01: limits of every kind decide, count and tell as the model's do."""
    run_state_machine_as_test(LimitsMachine, settings=SHORT_UNDER_LIMITS)


def test_a_zone_and_back_within_a_month_is_no_departure() -> None:
    """BUD-01, BUD-14: the model too counts under a default by the zone of now and by no other."""
    sides = LimitsMachine()
    sides.open_books(("UTC", "UTC"), (OnOverrun.ABSORB,) * 2, (OnLapse.METERED,) * 2)
    organization_id = uuid(1)
    default = SetLimit(
        organization_id=organization_id,
        scope_kind=ScopeKind.PROJECT,
        measure=Measure.CALLS,
        period=Period.MONTH,
        maximum=2,
    )
    sides.run([default])
    for hour in (2, 5):
        sides.wait_until(FIRST + timedelta(hours=hour))
        sides.try_run(Wish("admit", 0, 0, 0, 0, when=5))
    for zone in ("America/New_York", "UTC"):
        sides.run([SetZone(organization_id=organization_id, zone=zone)])


@pytest.mark.long
def test_no_long_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: the same for many more and longer histories."""
    run_state_machine_as_test(LedgerMachine, settings=LONG)


@pytest.mark.long
def test_no_long_history_under_limits_departs_from_the_model() -> None:
    """BUD-02, BUD-07, LIM-01: the same under limits, for many more and longer histories."""
    run_state_machine_as_test(LimitsMachine, settings=LONG_UNDER_LIMITS)
