"""A worker process: the real sweep on a real bookkeeper, and a look over its shoulder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.sweep import HOLDS_PER_STEP, NODE_SILENCE, Sweep
from farebox.worker.clockwork import SWEEP_SECONDS
from tests.simulation import store
from tests.simulation.store import SimulatedBatchStore, SimulatedNodeStore
from tests.simulation.trace import SimulationError
from tests.simulation.virtual_loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

HOLDS_SEEN_MAX: Final = HOLDS_PER_STEP
"""More overdue holds than one step takes: the next one has them."""


class Worker:
    """One start of a worker process, as ``assembly.worker`` puts it together."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process = Process(world.loop, name, clock_offset=world.chance.random() * 1e6)
        self.network = world.network(self.process)
        self.bookkeeper = Bookkeeper(
            [SimulatedBatchStore(self.network)], monotonic=self.process.monotonic
        )
        self.sweep = Sweep(
            SimulatedNodeStore(world.network(self.process, like=self.network)),
            self.bookkeeper,
            monotonic=self.process.monotonic,
        )
        self.process.spawn(self._main())

    async def _main(self) -> None:
        """``worker.clockwork.sweeping``, told to the trace instead of a log."""
        self.bookkeeper.start()
        while True:
            pause = SWEEP_SECONDS
            try:
                if await self._step() >= HOLDS_PER_STEP:
                    pause = 0.0
            except SimulationError as error:
                self.world.loop.halt(error)
            except Exception as error:  # noqa: BLE001 - as the real clockwork
                self.world.trace.note("sweep failed", self.name, type(error).__name__)
            await asyncio.sleep(pause)

    async def _step(self) -> int:
        """One round, and what it promises: whatever was overdue before it has ended after it."""
        database, trace = self.world.database, self.world.trace
        offset = database.clock_offset
        overdue = {hold.call_id for hold in store.holds_to_lapse(database)}
        silent = {row.name for _, row in store.silent_nodes(database, NODE_SILENCE)}
        swept = await self.sweep.step()
        if swept.paused:
            trace.note("sweep paused", self.name)
            return 0
        trace.count("sweep")
        trace.count("lapsed", swept.lapsed)
        if swept.lapsed or swept.fenced:
            trace.note("swept", self.name, swept.lapsed, *swept.fenced)
        if offset != database.clock_offset or len(overdue) > HOLDS_SEEN_MAX:
            return swept.lapsed
        left = {hold.call_id for hold in store.holds_to_lapse(database)} & overdue
        if left:
            raise SimulationError("bound", f"{len(left)} overdue holds outlived a whole sweep")
        still = {row.name for _, row in store.silent_nodes(database, NODE_SILENCE)} & silent
        if still:
            raise SimulationError("bound", f"a whole sweep left silent nodes unfenced: {still}")
        return swept.lapsed
