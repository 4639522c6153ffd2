"""What the tests of this room may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from farebox.operations import lane as lanes
from tests.support.office import Office, open_office


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of real time are short; everything that is measured uses the test's clock."""
    monkeypatch.setattr(lanes, "LATE_POLL_SECONDS", 0.002)
    monkeypatch.setattr(lanes, "RECONNECT_SECONDS", (0.0, 0.001))


@pytest.fixture
async def office(dsn: str) -> AsyncIterator[Office]:
    """The use cases of the management plane on a fresh database."""
    async with open_office(dsn) as office:
        yield office
