"""An event loop without a machine: its clock is a number, its order is chosen by the seed.

Nothing sleeps, no socket or thread exists. Callbacks that are ready at one instant run in an order
that the seeded chance picks; when none is ready, time jumps to the next timer. Every callback
belongs to a :class:`Process` (by its context), which may be killed (nothing of it ever runs again,
at whatever ``await`` its tasks stood) or stopped (nothing of it runs until it goes on).
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar, TypeVarTuple

from typing_extensions import override

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PROCESS: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar("process")


class DeadlockError(Exception):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class _Handle(asyncio.TimerHandle):
    """A callback and what it needs to run; as little as will do, for there are thousands a seed."""

    __slots__ = ("args", "callback", "context", "instant", "is_cancelled")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.instant = when
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.is_cancelled = False

    @override
    def when(self) -> float:
        return self.instant

    @override
    def cancel(self) -> None:
        self.is_cancelled = True

    @override
    def cancelled(self) -> bool:
        return self.is_cancelled


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time and order come from the seed."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._time = 0.0
        self._waiting: list[tuple[float, int, _Handle]] = []
        self._numbers = 0
        self._soon: list[_Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """Every task ever made, so that none is collected, and cleaned up after, in the middle."""
        self.trouble: list[str] = []
        """What went wrong in callbacks that nobody awaits."""
        self._failure: BaseException | None = None
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda *_: None)  # what it could tell is looked for at the end

    @override
    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._time

    @override
    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run something at this instant, in whatever place the chance gives it."""
        handle = _Handle(0.0, callback, args, context)
        self._soon.append(handle)
        return handle

    @override
    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run something after some virtual seconds."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    @override
    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run something at an instant of virtual time."""
        handle = _Handle(when, callback, args, context)
        self._numbers += 1
        heapq.heappush(self._waiting, (when, self._numbers, handle))
        return handle

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T],
        *,
        context: contextvars.Context | None = None,
        **more: Any,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(work, loop=loop, context=context, **more)
        self.tasks.append(task)
        return task

    def _run_once(self) -> None:
        """Run what is ready at this instant once, in a seeded order; pass time if nothing is."""
        for handle in self._batch():
            if handle.is_cancelled:
                continue
            process = handle.context.get(_PROCESS)
            if process is None or process.takes(handle):
                try:
                    handle.context.run(handle.callback, *handle.args)
                except Exception as error:  # noqa: BLE001 - as every loop, but it is told at the end
                    self.trouble.append(f"{handle.callback}: {error!r}")
                if self._failure is not None:
                    raise self._failure

    def _batch(self) -> list[_Handle]:
        """What is ready, or what will be first."""
        waiting = self._waiting
        if not self._soon:
            while waiting and waiting[0][2].is_cancelled:
                heapq.heappop(waiting)
            if not waiting:
                raise DeadlockError
            self._time = max(self._time, waiting[0][0])
        while waiting and waiting[0][0] <= self._time:
            self._soon.append(heapq.heappop(waiting)[2])
        batch, self._soon = self._soon, []
        if len(batch) == 2:
            if self._chance.random() < 0.5:
                batch.reverse()
        elif len(batch) > 2:
            self._chance.shuffle(batch)
        return batch

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end of ``main``.

        Raises:
            DeadlockError: It never ends.
        """
        return self.run_until_complete(main)

    def halt(self, failure: BaseException) -> None:
        """End the run after this callback; :meth:`run` raises the first failure."""
        self._failure = self._failure or failure

    def bury(self) -> None:
        """Throw away every task that has not ended; nothing of them has any effect any more."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they begin in their last moments goes nowhere
            self._bury_tasks()
            self._soon.clear()
            self._waiting.clear()
        self.close()

    def _bury_tasks(self) -> None:
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if task.done():
                if not task.cancelled():
                    task.exception()
                continue
            with suppress(BaseException):  # it may await in its last moments
                task.get_coro().close()


class Process:
    """A part of the world that can die or be stopped as a whole."""

    def __init__(self, loop: VirtualLoop, name: str, *, clock_offset: float = 0.0) -> None:
        self.name = name
        self.loop = loop
        self.alive = True
        self.stopped = False
        self.times_stopped = 0
        self._clock_offset = clock_offset
        # One context for all: only one callback runs at a time, and nobody else sets anything.
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        self._parked: list[_Handle] = []
        self.on_death: list[Callable[[], None]] = []
        """What the rest of the world notices at once: sockets that close."""

    def monotonic(self) -> float:
        """Seconds of this machine's clock that only goes forward, stopped or not."""
        return self.loop.time() + self._clock_offset

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task that belongs to this process, and everything it begins."""
        return self.loop.create_task(work, context=self._context)

    def kill(self) -> None:
        """SIGKILL: nothing of it runs again."""
        assert self.alive
        self.alive = False
        self._parked.clear()
        for tell in self.on_death:
            tell()

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True
        self.times_stopped += 1

    def go_on(self) -> None:
        """SIGCONT: everything that came due meanwhile is ready now."""
        self.stopped = False
        if self.alive:
            self.loop._soon += self._parked
        self._parked.clear()

    def takes(self, handle: _Handle) -> bool:
        """Tell whether a callback of this process may run now; keep it if that is later."""
        if self.alive and self.stopped:
            self._parked.append(handle)
        return self.alive and not self.stopped
