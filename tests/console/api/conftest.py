"""What the native API's tests share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api_clients import House


@pytest.fixture
def house(app: Any, dsn: str) -> House:
    """An organisation and callers of every kind."""
    return House(app, dsn)
