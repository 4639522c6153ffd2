"""The event loops on which the upstream's tests run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

import pytest

ON_A_WIRE = ("test_arriving", "test_connections", "test_dialing", "test_http_client", "test_wire")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Run what touches a wire on both loops: they differ in the order of data and end."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem.startswith(ON_A_WIRE) and sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
