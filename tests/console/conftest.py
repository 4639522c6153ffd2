"""What the console's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.console_people import Visitor, running_console


@pytest.fixture
async def app(dsn: str, tmp_path: Path) -> AsyncIterator[Any]:
    """The console on a fresh sandbox database with one person."""
    async with running_console(dsn, tmp_path / ".farebox") as app:
        yield app


@pytest.fixture
async def visitor(app: Any) -> AsyncIterator[Visitor]:
    """Somebody at the door."""
    async with Visitor(app) as visitor:
        yield visitor


@pytest.fixture
async def inside(visitor: Visitor) -> Visitor:
    """The same, signed in."""
    assert (await visitor.sign_in()).status_code == 303
    return visitor
