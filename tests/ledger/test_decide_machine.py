"""The engine against a second implementation, on random histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.support.ledger_machine import LedgerMachine

_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


class TestMachine(LedgerMachine.TestCase):  # type: ignore[misc]
    """DED-16, NEG-01, CRD-10: no random history breaks an invariant or departs from the model."""

    settings = settings(
        max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=_CHECKS
    )


@pytest.mark.long
class TestMachineLong(LedgerMachine.TestCase):  # type: ignore[misc]
    """The same for ten times as many and longer histories."""

    settings = settings(
        max_examples=2_000, stateful_step_count=50, deadline=None, suppress_health_check=_CHECKS
    )
