"""The engine against a second implementation, on random histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.ledger_machine import LedgerMachine

# A history is long by its nature.
_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


def test_no_random_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: random histories keep every invariant and agree with the model."""
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=250, stateful_step_count=25, deadline=None, suppress_health_check=_CHECKS
        ),
    )


@pytest.mark.long
def test_no_long_history_departs_from_the_model() -> None:
    """DED-16, NEG-01, CRD-10: the same for many more and longer histories."""
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=2_000, stateful_step_count=50, deadline=None, suppress_health_check=_CHECKS
        ),
    )
