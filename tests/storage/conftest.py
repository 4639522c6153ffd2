"""What the tests of this room may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.shop import Shop


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Shop]:
    """A database with one organisation."""
    shop = Shop(dsn)
    yield shop
    await shop.store.aclose()
