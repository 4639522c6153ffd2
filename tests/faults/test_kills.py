"""Killing and pausing everything under traffic: nothing that a client received goes uncharged.

Two gateways, a worker and a console on the bundled PostgreSQL that they supervise; callers go on
throughout. After each fault: every answer that a client received whole is charged once with what it
was told, and the books are clean. In the end every hold has ended and everybody is served.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import psycopg
import pytest

from farebox.kit.errors import UnavailableError
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.storage.batch_store import BATCH_SECONDS_MAX
from tests.faults.storm_watch import count_commits, install_watch
from tests.faults.traffic import ANSWERS_MIN, Clients, Traffic, assert_charged_once, say
from tests.support.processes import (
    BACK_SECONDS_MAX,
    Customer,
    FareboxProcess,
    Installation,
    bundled_installation,
)

CALLERS = 12
RICHES = Nanos(1_000 * NANOS_PER_UNIT)
DROP = Nanos(NANOS_PER_UNIT // 100)
"""A cent: three calls at once, ten one after the other."""

FAULTS_PER_ROUND = 25
"""Two in three of them are kills; the others pause or stop somebody."""
ROUNDS = 32

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
        self._faults: list[tuple[int, Fault]] = [
            (6, self.kill_gateway),
            (3, self.stop_gateway),
            (3, self.pause_gateway),
            (2, self.kill_worker),
            (1, self.pause_worker),
            (1, self.kill_console),
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
            await self.installed.unsee(pid)
            await self.installed.until(
                "SELECT NOT EXISTS (SELECT FROM hold h JOIN node n ON n.id = h.node_id"
                " WHERE n.name LIKE %s)",
                f"% {pid}",
            )

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


async def play(seed: int, faults: Sequence[str | None]) -> None:
    """One round: named faults, or any, at seeded moments under traffic.

    One customer is rich, the other has hardly more than a call may cost, all the time.
    """
    chance = random.Random(seed)
    async with bundled_installation() as installed, AsyncExitStack() as stack:
        install_watch(installed.dsn)
        fleet = Fleet(installed, chance)
        await fleet.start()
        crowds: list[tuple[Customer, Traffic]] = []
        for name, credit, callers in (("rich", RICHES, CALLERS), ("poor", DROP, CALLERS // 2)):
            customer = await installed.customer(name, credit)
            clients = await stack.enter_async_context(Clients(customer))
            traffic = Traffic(clients, fleet.urls, chance)
            traffic.start(callers)
            crowds.append((customer, traffic))
        (_, crowd), (poor, _) = crowds
        for fault in faults:
            await asyncio.sleep(chance.uniform(0.1, 1.0))
            if fault is None:
                await fleet.harm()
            else:
                assert await fleet.do(getattr(fleet, fault))
            for customer, traffic in crowds:
                await assert_charged_once(installed, customer.organization_id, traffic.whole())
            await installed.assert_books_clean()
            await top_up(installed, poor)
        await asyncio.gather(*(traffic.stop() for _, traffic in crowds))
        await fleet.recovered()
        await assert_everybody_is_served(fleet, crowd)
        for customer, traffic in crowds:
            await assert_nothing_is_left(installed, customer, traffic)
        assert len(crowd.whole()) >= ANSWERS_MIN, crowd.tally()
        say(f"seed {seed}", dict(fleet.done), *(dict(t.tally()) for _, t in crowds))


async def top_up(installed: Installation, customer: Customer) -> None:
    """Give a drop; the database may go away while we do, and a second drop is no harm."""
    until = time.monotonic() + BACK_SECONDS_MAX
    while time.monotonic() < until:
        with suppress(UnavailableError, psycopg.Error):
            await installed.grant(customer.organization_id, DROP)
            return
        await asyncio.sleep(0.1)


async def assert_everybody_is_served(fleet: Fleet, traffic: Traffic) -> None:
    """When the faults are over, each process works as if nothing had been."""
    for gateway in fleet.gateways:
        for stream in (False, True):
            outcome = await traffic.clients.call(gateway.url, 40, stream=stream)
            assert outcome.is_whole, (outcome, gateway.last_words())
            traffic.outcomes.append(outcome)
    async with aiohttp.ClientSession() as session, session.get(fleet.console.url) as response:
        assert response.status < 500
    assert fleet.worker.is_alive, fleet.worker.last_words()


async def assert_nothing_is_left(
    installed: Installation, customer: Customer, traffic: Traffic
) -> None:
    """No hold is open, no command set aside, every answer charged, nobody was ever over."""
    await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
    assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
    await assert_charged_once(installed, customer.organization_id, traffic.whole())
    await installed.assert_books_clean()
    watched = count_commits(installed.dsn, customer.organization_id)
    assert watched.commits > 0
    assert watched.commits_over == 0, watched


async def test_a_few_kills() -> None:
    """DESIGN promise 2: whatever is killed, what clients received is charged exactly once."""
    await play(
        seed=1,
        faults=[
            "kill_gateway",
            "kill_cluster",
            "pause_gateway",
            "kill_backend",
            "kill_worker",
            "kill_postmaster",
            "pause_backend",
            "kill_console",
            "kill_gateway",
        ],
    )


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, ROUNDS + 1))
async def test_five_hundred_kills(seed: int) -> None:
    """DESIGN promise 2: so it is at any moment of any traffic; a seed names its moments."""
    await play(1_000 + seed, [None] * FAULTS_PER_ROUND)
