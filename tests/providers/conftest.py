"""The event loops on which the upstream's tests run."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.loops import LoopFactory, loops_for

ON_A_WIRE = ("test_arriving", "test_connections", "test_dialing", "test_http_client", "test_wire")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Run what touches a wire on both loops."""
    return loops_for(item, on_a_wire=ON_A_WIRE)
