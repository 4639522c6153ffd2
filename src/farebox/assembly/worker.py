"""The worker, put together: the sweep and the housekeeping, by their clocks."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import structlog

from farebox.assembly.database import OpenDatabase, open_pool
from farebox.kit.errors import FareboxError
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.sweep import HOLDS_PER_STEP, Sweep
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.node_store import PostgresNodeStore

SWEEP_SECONDS: Final = 5.0
HOUSEKEEPING_SECONDS: Final = 3_600.0

logger: Final = structlog.get_logger("farebox.worker")


class WorkerProcess:
    """A worker that runs in this process; any number may run at once."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Connect and begin the jobs."""
        stack = self._stack
        pool = await open_pool(self._database.connector("worker"), size=2)
        stack.push_async_callback(pool.close)
        bookkeeper = Bookkeeper(
            [PostgresBatchStore(self._database.connector("worker lane"))],
            monotonic=time.monotonic,
        )
        bookkeeper.start()
        stack.push_async_callback(bookkeeper.aclose)
        store = PostgresNodeStore(pool)
        sweep = Sweep(store, bookkeeper, monotonic=time.monotonic)
        for job in (_sweeping(sweep), _housekeeping(store)):
            task = asyncio.create_task(job)
            stack.push_async_callback(_stopped, task)

    async def aclose(self) -> None:
        """Stop the jobs and close everything."""
        await self._stack.aclose()


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _sweeping(sweep: Sweep) -> None:
    paused = False
    while True:
        pause = SWEEP_SECONDS
        try:
            swept = await sweep.step()
            if swept.paused != paused:
                paused = swept.paused
                logger.error("sweep_paused" if paused else "sweep_resumed", cause="clock jump")
            if swept.lapsed or swept.fenced:
                logger.warning("holds_lapsed", holds=swept.lapsed, fenced=list(swept.fenced))
            if swept.lapsed >= HOLDS_PER_STEP:
                pause = 0.0
        except FareboxError as error:
            logger.warning("sweep_failed", error=error.message)
        await asyncio.sleep(pause)


async def _housekeeping(store: PostgresNodeStore) -> None:
    while True:
        try:
            await store.keep_house()
        except FareboxError as error:
            logger.warning("housekeeping_failed", error=error.message)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
