"""The event loops on which what touches a wire is tested."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loops_for(item: pytest.Item, *, on_a_wire: Sequence[str]) -> Mapping[str, LoopFactory]:
    """Run what touches a wire on both loops: they differ in the order of data and end.

    Args:
        item: A test.
        on_a_wire: How the names of files begin whose tests touch one.
    """
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem.startswith(tuple(on_a_wire)) and sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
