"""The engine against a second implementation, on random histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.ledger_machine import LedgerMachine

SHORT = settings(
    max_examples=250,
    stateful_step_count=25,
    deadline=None,
    # One failure is enough, and shrinking its history takes minutes without explaining it too.
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    # A history is long by its nature.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONG = settings(SHORT, max_examples=3_000, stateful_step_count=50)


def test_no_random_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: random histories keep every invariant and agree with the model."""
    run_state_machine_as_test(LedgerMachine, settings=SHORT)


@pytest.mark.long
def test_no_long_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: the same for many more and longer histories."""
    run_state_machine_as_test(LedgerMachine, settings=LONG)
