"""The worker, put together: the sweep and the housekeeping, by their clocks."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from farebox.assembly.database import OpenDatabase, open_pool
from farebox.assembly.upkeep import (
    FOLLOWING_SECONDS,
    REPEATS_SECONDS,
    RETENTION_SECONDS,
    UPKEEP_SECONDS,
    Retaining,
    Upkeep,
    Watching,
)
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.forgetting import Forgetting
from farebox.operations.sweep import Sweep
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.node_store import PostgresNodeStore
from farebox.storage.scope_store import PostgresScopeStore
from farebox.worker.clockwork import housekeeping, repeating, sweeping

POOL_CONNECTIONS: Final = 8
"""One for each job."""

FORGETTING_SECONDS: Final = 3_600.0
"""How often scopes are looked for that nothing can reach any more."""


class WorkerProcess:
    """A worker that runs in this process; any number may run at once."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Connect and begin the jobs."""
        stack = self._stack
        pool = await open_pool(self._database.connector("worker"), size=POOL_CONNECTIONS)
        stack.push_async_callback(pool.close)
        bookkeeper = Bookkeeper(
            [PostgresBatchStore(self._database.connector("worker lane"))],
            monotonic=time.monotonic,
        )
        bookkeeper.start()
        stack.push_async_callback(bookkeeper.aclose)
        store = PostgresNodeStore(pool)
        sweep = Sweep(store, bookkeeper, monotonic=time.monotonic)
        upkeep = Upkeep(pool, bookkeeper.submit)
        watching = Watching(pool, bookkeeper.submit)
        forgetting = Forgetting(PostgresScopeStore(pool), bookkeeper.submit)
        for job in (
            sweeping(sweep),
            housekeeping(store),
            repeating(upkeep.step, name="upkeep", every=UPKEEP_SECONDS),
            repeating(upkeep.follow, name="tiers", every=FOLLOWING_SECONDS),
            repeating(watching.step, name="watch", every=UPKEEP_SECONDS),
            repeating(Retaining(pool).step, name="retention", every=RETENTION_SECONDS),
            repeating(watching.step_repeats, name="watch repeats", every=REPEATS_SECONDS),
            repeating(forgetting.step, name="forgetting", every=FORGETTING_SECONDS),
        ):
            task = asyncio.create_task(job)
            stack.push_async_callback(_stopped, task)

    async def aclose(self) -> None:
        """Stop the jobs and close everything."""
        await self._stack.aclose()


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
