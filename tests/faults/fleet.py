"""A fleet of real processes, and whoever does it harm: kills and pauses at random moments.

Two gateways, a worker and a console on the bundled PostgreSQL that they supervise. Who was killed
is started again, as any supervisor would, while the harm goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from farebox.storage.batch_store import BATCH_SECONDS_MAX
from tests.support.processes import FareboxProcess, Installation

KILL = "kill"
"""What the names of faults begin with that kill somebody."""

PAUSES_SECONDS = (0.05, 0.5, 3.0)
"""Unnoticed, noticed, and longer than a transaction may be idle."""

Fault = Callable[[], Awaitable[bool]]


class Fleet:
    """Two gateways, a worker and a console, and whoever does them harm."""

    def __init__(self, installed: Installation, chance: random.Random) -> None:
        self.installed = installed
        self.chance = chance
        self.gateways: list[FareboxProcess] = []
        self.away: set[FareboxProcess] = set()
        """Who is down just now: clients are not sent there."""
        self._recovering: list[asyncio.Task[None]] = []
        self.done: Counter[str] = Counter()
        self.longest_burial_seconds = 0.0
        """From a gateway's death to the end of the last hold it left."""
        self._faults: list[tuple[int, Fault]] = [
            (6, self.kill_gateway),
            (3, self.stop_gateway),
            (3, self.pause_gateway),
            (2, self.kill_worker),
            (1, self.pause_worker),
            (1, self.kill_console),
            (1, self.pause_console),
            (3, self.kill_postmaster),
            (3, self.kill_cluster),
            (3, self.kill_backend),
            (2, self.pause_backend),
            (1, self.pause_cluster),
            (1, self.pause_backend_for_long),
            (1, self.kill_everything),
        ]

    async def start(self) -> None:
        """Start everybody."""
        spawn = self.installed.spawn
        started = await asyncio.gather(
            spawn("gateway"), spawn("gateway"), spawn("worker"), spawn("console")
        )
        self.gateways = list(started[:2])
        self.worker, self.console = started[2:]

    @property
    def kills(self) -> int:
        """How often somebody was killed."""
        return sum(times for name, times in self.done.items() if name.startswith(KILL))

    def urls(self) -> list[str]:
        """Where calls may go; a gateway that was just killed is found out the hard way."""
        return [g.url for g in self.gateways if g not in self.away]

    async def harm(self) -> None:
        """Do one thing that must not matter."""
        weights = [weight for weight, _ in self._faults]
        while True:
            (fault,) = self.chance.choices([fault for _, fault in self._faults], weights)
            if await self.do(fault):
                return
            await asyncio.sleep(0.1)

    async def do(self, fault: Fault) -> bool:
        """Do this one, if whom it meets is there."""
        was_done = await fault()
        self.done[getattr(fault, "__name__", "fault")] += was_done
        return was_done

    async def recovered(self) -> None:
        """Wait until everybody is back, and nothing of the dead is left."""
        while self._recovering:
            await self._recovering.pop()

    # Our own processes.

    async def kill_gateway(self) -> bool:
        """SIGKILL one; the sweep ends its holds, a new one takes its place."""
        if (gateway := self._any_gateway()) is None:
            return False
        self._kill(gateway)
        return True

    async def stop_gateway(self) -> bool:
        """SIGTERM one, as an upgrade does: what runs in it ends first."""
        if (gateway := self._any_gateway()) is None:
            return False
        self.away.add(gateway)

        async def stop_and_start() -> None:
            await asyncio.to_thread(gateway.stop)
            await self._start(gateway)

        self._recover(stop_and_start())
        return True

    async def pause_gateway(self) -> bool:
        """SIGSTOP one for a moment, wherever it is, with whatever it has locked."""
        return await self._pause_process(self._any_gateway())

    async def kill_worker(self) -> bool:
        """SIGKILL the worker, perhaps in the middle of a sweep."""
        return self.worker not in self.away and self._kill(self.worker)

    async def pause_worker(self) -> bool:
        """SIGSTOP the worker."""
        return await self._pause_process(None if self.worker in self.away else self.worker)

    async def kill_console(self) -> bool:
        """SIGKILL the console."""
        return self.console not in self.away and self._kill(self.console)

    async def pause_console(self) -> bool:
        """SIGSTOP the console."""
        return await self._pause_process(None if self.console in self.away else self.console)

    async def kill_everything(self) -> bool:
        """SIGKILL all at once, as a machine that loses its power; and start again."""
        for process in {*self.gateways, self.worker, self.console} - self.away:
            self._kill(process)
        return await self.kill_cluster()

    def _any_gateway(self) -> FareboxProcess | None:
        there = [gateway for gateway in self.gateways if gateway not in self.away]
        return self.chance.choice(there) if there else None

    def _kill(self, process: FareboxProcess) -> bool:
        self.away.add(process)
        pid = process.pid
        process.kill()

        async def bury() -> None:
            died_at = time.monotonic()
            await self.installed.unsee(pid)
            await self.installed.until(
                "SELECT NOT EXISTS (SELECT FROM hold h JOIN node n ON n.id = h.node_id"
                " WHERE n.name LIKE %s)",
                f"% {pid}",
            )
            took = time.monotonic() - died_at
            self.longest_burial_seconds = max(self.longest_burial_seconds, took)

        if process in self.gateways:
            self._recover(bury())
        self._recover(self._start(process))
        return True

    async def _start(self, process: FareboxProcess) -> None:
        await self.installed.restart(process)
        self.away.discard(process)

    def _recover(self, work: Coroutine[Any, Any, None]) -> None:
        self._recovering.append(asyncio.create_task(work))

    async def _pause_process(self, process: FareboxProcess | None) -> bool:
        if process is None:
            return False
        process.pause()
        await asyncio.sleep(self.chance.choice(PAUSES_SECONDS))
        process.resume()
        return True

    # PostgreSQL.

    async def kill_postmaster(self) -> bool:
        """SIGKILL the postmaster alone; its children end by themselves, somebody starts anew."""
        return self._signal(signal.SIGKILL, [self.installed.postmaster_pid()])

    async def kill_cluster(self) -> bool:
        """SIGKILL every process of the server."""
        return self._signal(signal.SIGKILL, self.installed.server_pids())

    async def kill_backend(self) -> bool:
        """SIGKILL one process of the server; the postmaster then restarts all of them."""
        return self._signal(signal.SIGKILL, [self._any_child()])

    async def pause_backend(self) -> bool:
        """SIGSTOP one process of the server, perhaps one that holds a lock."""
        return await self._pause([self._any_child()], self.chance.choice(PAUSES_SECONDS))

    async def pause_backend_for_long(self) -> bool:
        """SIGSTOP one for longer than a batch may take: its commit may come after all."""
        return await self._pause([self._any_child()], BATCH_SECONDS_MAX + 3.0)

    async def pause_cluster(self) -> bool:
        """SIGSTOP the whole server."""
        return await self._pause(self.installed.server_pids(), self.chance.choice(PAUSES_SECONDS))

    async def _pause(self, pids: Sequence[int | None], seconds: float) -> bool:
        if not self._signal(signal.SIGSTOP, pids):
            return False
        await asyncio.sleep(seconds)
        self._signal(signal.SIGCONT, pids)
        return True

    def _signal(self, order: signal.Signals, pids: Sequence[int | None]) -> bool:
        reached = False
        for pid in pids:
            with suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, order)
                    reached = True
        return reached

    def _any_child(self) -> int | None:
        first = self.installed.postmaster_pid()
        pids = [pid for pid in self.installed.server_pids() if pid != first]
        return self.chance.choice(pids) if pids else None
