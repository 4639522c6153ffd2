"""The engine against a second implementation, on random histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.ledger_machine import LedgerMachine, LimitsMachine

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


@pytest.mark.long
def test_no_long_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: the same for many more and longer histories."""
    run_state_machine_as_test(LedgerMachine, settings=LONG)


@pytest.mark.long
def test_no_long_history_under_limits_departs_from_the_model() -> None:
    """BUD-02, BUD-07, LIM-01: the same under limits, for many more and longer histories."""
    run_state_machine_as_test(LimitsMachine, settings=LONG_UNDER_LIMITS)
