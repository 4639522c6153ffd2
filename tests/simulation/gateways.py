"""A gateway process: the real bookkeeper and the real node, with the calls that run on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from uuid import UUID

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import Admit, AnyCommand, Extend, Report, Result
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.lane import LATE_POLL_SECONDS
from farebox.operations.nodes import HEARTBEAT_SECONDS, Node
from farebox.operations.pending import ADMIT_DOUBT_SECONDS
from tests.simulation.store import SimulatedBatchStore, SimulatedNodeStore
from tests.simulation.trace import SimulationError
from tests.simulation.virtual_loop import Process
from tests.simulation.wire import fail

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

START_AGAIN_SECONDS: Final = 1.0
"""How soon a supervisor starts a gateway again that found no database."""

DRAIN_SECONDS: Final = 20.0
"""As ``assembly.gateway``."""


class GoneError(Exception):
    """The gateway died or closed before it answered."""


class Running(Protocol):
    """A call that is under way."""

    async def report(self) -> None:
        """Note its use so far."""

    async def abort(self) -> None:
        """Close its upstream."""


class Gateway:
    """One start of a gateway process; a restart is another object with a node of another id."""

    def __init__(self, world: World, name: str, node_id: UUID) -> None:
        self.world = world
        self.name = name
        self.process = Process(world.loop, name, clock_offset=world.chance.random() * 1e6)
        self.network = world.network(self.process)
        self.bookkeeper = Bookkeeper(
            [SimulatedBatchStore(self.network) for _ in range(world.plan.lanes)],
            monotonic=self.process.monotonic,
        )
        self.node = Node(
            SimulatedNodeStore(world.network(self.process, like=self.network)),
            node_id=node_id,
            name=name,
            monotonic=self.process.monotonic,
            on_lost=self._lost,
        )
        self.running: dict[UUID, Running] = {}
        self.is_ready = False
        self.is_closing = False
        self._replies: dict[asyncio.Future[Any], None] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.process.on_death.append(self._died)
        self.process.spawn(self._main())

    @property
    def takes_calls(self) -> bool:
        """Whether a load balancer would send it anything."""
        return self.process.alive and self.is_ready and not self.is_closing

    @property
    def is_working(self) -> bool:
        """Whether something is still to be settled or released."""
        return bool(self._tasks)

    # Life.

    async def _main(self) -> None:
        self.bookkeeper.start()
        while True:
            try:
                await self.node.start()
            except UnavailableError:
                await asyncio.sleep(START_AGAIN_SECONDS)
            else:
                break
        self.is_ready = True
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            calls = list(self.running.values())
            await asyncio.gather(*(call.report() for call in calls), return_exceptions=True)

    def _lost(self) -> None:
        self.world.trace.note("node lost", self.name, len(self.running))
        for call in list(self.running.values()):
            self.spawn(call.abort())

    def stop_gently(self) -> None:
        """SIGTERM: finish what runs, retire the epoch, drain the lanes, exit."""
        self.is_closing = True
        self.process.spawn(self._close())

    async def _close(self) -> None:
        until = self.process.monotonic() + DRAIN_SECONDS
        while (self._tasks or self.running) and self.process.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # as the desk does: what ends may begin something else
        await self.node.aclose()
        await self.bookkeeper.aclose()
        self.world.trace.note("exit", self.name)
        self.world.loop.call_soon(self._exit)

    def _exit(self) -> None:
        if self.process.alive:
            self.process.kill()

    def _died(self) -> None:
        for reply in list(self._replies):
            fail(reply, GoneError())

    # Work.

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something that must finish whatever becomes of who asked for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.trace.note("background failed", self.name, repr(error))

    async def submit(self, command: AnyCommand, *, patience_seconds: float = 0.0) -> Result:
        """Have the real bookkeeper decide; every answer it gives must be true for ever."""
        began, stopped = self.process.monotonic(), self.process.times_stopped
        try:
            result = await self.bookkeeper.submit(command, patience_seconds=patience_seconds)
        except Exception as error:
            self.world.trace.count(f"submit {type(error).__name__}")
            raise
        finally:
            took = self.process.monotonic() - began
            bound = patience_seconds + ADMIT_DOUBT_SECONDS + 2 * LATE_POLL_SECONDS
            brief = isinstance(command, Admit | Extend | Report)
            if brief and took > bound and stopped == self.process.times_stopped:
                self.world.loop.halt(SimulationError("answer", f"{took:.2f} s: {command}"))
        self.world.books.acknowledged(command, result)
        return result

    def serve(
        self, handle: Callable[[], Awaitable[T]]
    ) -> tuple[asyncio.Task[None], asyncio.Future[T]]:
        """Handle a request of a client: the handler's task, and the answer as the client sees it.

        The answer is :class:`GoneError` where the process dies first.
        """
        reply: asyncio.Future[T] = self.world.loop.create_future()
        self._replies[reply] = None
        reply.add_done_callback(lambda _: self._replies.pop(reply, None))
        return self.process.spawn(self._handle(handle, reply)), reply

    async def _handle(self, handle: Callable[[], Awaitable[T]], reply: asyncio.Future[T]) -> None:
        try:
            answer = await handle()
        except Exception as error:  # noqa: BLE001 - the last door of a handler
            self.network.later(self.network.delay(), fail, reply, error)
        else:
            self.network.later(self.network.delay(), self._answer, reply, answer)

    def _answer(self, reply: asyncio.Future[T], answer: T) -> None:
        if not reply.done():
            reply.set_result(answer)
