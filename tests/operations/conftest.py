"""What the tests of this room may ask for."""

from __future__ import annotations

import pytest

from farebox.operations import lane as lanes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of real time are short; everything that is measured uses the test's clock."""
    monkeypatch.setattr(lanes, "LATE_POLL_SECONDS", 0.002)
    monkeypatch.setattr(lanes, "RECONNECT_SECONDS", (0.0, 0.001))
