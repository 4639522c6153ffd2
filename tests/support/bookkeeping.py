"""A bookkeeper to submit to, and ways to wait for what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from farebox.ledger.commands import (
    Result,
)
from farebox.operations.bookkeeper import Bookkeeper
from tests.support.memory_store import Clock, MemoryStore
from tests.support.till import Till

Submission = asyncio.Task[Result]


@asynccontextmanager
async def running(
    *stores: MemoryStore, clock: Callable[[], float] | None = None, drain: float = 1.0
) -> AsyncIterator[Bookkeeper]:
    """A bookkeeper that has begun, and is closed afterwards."""
    bookkeeper = Bookkeeper(stores, monotonic=clock or Clock())
    bookkeeper.start()
    try:
        yield bookkeeper
    finally:
        await bookkeeper.aclose(drain_seconds=drain)


def begin(work: Coroutine[Any, Any, Result]) -> Submission:
    """Submit in a task of its own."""
    return asyncio.get_running_loop().create_task(work)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what a test may ask
            await asyncio.sleep(0.001)


async def settled(tasks: Sequence[Submission]) -> list[Result | BaseException]:
    """What became of each."""
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def funded(bookkeeper: Bookkeeper, till: Till, amount: int) -> None:
    """Give an organisation credit."""
    await bookkeeper.submit(till.grant(amount))
