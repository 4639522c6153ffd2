"""What goes wrong, and when: each fault is a small story, at a time that the seed draws."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from farebox.ledger.organizations import OnLapse, OnOverrun
from tests.simulation.wire import Network

if TYPE_CHECKING:
    from tests.simulation.gateways import Gateway
    from tests.simulation.workers import Worker
    from tests.simulation.world import World

JUMPS_SECONDS: Final = (-18_000, -600, -45, -20, 20, 45, 600, 18_000)
"""Of the database's clock: some that the sweep must notice, some that it cannot."""


class Faults:
    """All faults of a seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = random.Random(f"{world.plan.seed} faults")

    def stories(self) -> list[Coroutine[Any, Any, None]]:
        """One coroutine per fault, each with its own time."""
        plan = self.world.plan
        kinds: tuple[tuple[int, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            (plan.crashes, self._crash),
            (plan.pauses, self._pause),
            (plan.partitions, self._partition),
            (plan.gentle_stops, self._stop_gently),
            (plan.outages, self._outage),
            (plan.clock_jumps, self._clock_jump),
            (plan.console_changes, self._console),
        )
        return [
            self._at(self.chance.uniform(0, plan.seconds), story)
            for times, story in kinds
            for _ in range(times)
        ]

    async def _at(self, seconds: float, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(seconds)
        await story()

    def _long(self) -> float:
        """Mostly seconds, sometimes longer than a node may be silent."""
        return self.chance.choice((0.3, 3.0, 30.0, 58.0, 62.0, 120.0)) * self.chance.uniform(
            0.8, 1.2
        )

    async def _crash(self) -> None:
        """SIGKILL; a supervisor starts another."""
        if self.chance.random() < 0.15:
            await self.world.restart_worker(self.chance, self._long())
            return
        slot = self.chance.randrange(len(self.world.gateways))
        gateway = self.world.gateways[slot]
        if not gateway.process.alive:
            return
        self.world.trace.note("crash", gateway.name, len(gateway.running))
        gateway.process.kill()
        await asyncio.sleep(self._long())
        same = self.chance.random() < 0.3
        self.world.start_gateway(slot, node_id=gateway.node.id if same else None)

    async def _pause(self) -> None:
        """SIGSTOP for a while: a zombie, if it sleeps for longer than the sweep waits."""
        workers = self.world.workers if self.chance.random() < 0.15 else []
        who = self.chance.choice([*(workers or self.world.gateways)])
        process = who.process
        if process.stopped or not process.alive:
            return
        seconds = self._long()
        self.world.trace.note("pause", process.name, f"{seconds:.1f} s")
        process.stop()
        await asyncio.sleep(seconds)
        self.world.trace.note("go on", process.name)
        process.go_on()

    async def _partition(self) -> None:
        """The network between a process and the database swallows everything."""
        world = self.world
        names: list[Gateway | Worker] = [*world.gateways, *world.gateways, *world.workers]
        who = self.chance.choice(names)
        links: list[Network] = world.networks[who.process]
        seconds = self._long()
        world.trace.note("partition", who.name, f"{seconds:.1f} s")
        for link in links:
            link.is_cut = True
        await asyncio.sleep(seconds)
        world.trace.note("partition ends", who.name)
        for link in links:
            link.is_cut = False

    async def _stop_gently(self) -> None:
        """A rolling restart: one ends, another begins."""
        slot = self.chance.randrange(len(self.world.gateways))
        gateway = self.world.gateways[slot]
        if gateway.process.alive and not gateway.is_closing:
            self.world.trace.note("stop gently", gateway.name, len(gateway.running))
            gateway.stop_gently()
            await asyncio.sleep(self._long())
            self.world.start_gateway(slot)

    async def _outage(self) -> None:
        """The database goes away, for moments or a minute."""
        database = self.world.database
        if database.is_up:
            database.crash(silent=self.chance.random() < 0.3)
            await asyncio.sleep(min(75.0, self._long()))
            database.start()

    async def _clock_jump(self) -> None:
        """The database's clock is set anew."""
        self.world.database.set_clock(timedelta(seconds=self.chance.choice(JUMPS_SECONDS)))

    async def _console(self) -> None:
        """Somebody changes a key, an organisation or the prices."""
        world, chance = self.world, self.chance
        tenant = chance.choice(world.tenants)
        database = world.database
        what = chance.choice(("prices", "key", "suspend", "policy", "archive"))
        if what == "prices":
            database.ledger.catalogue_revision += 1
            world.trace.note("console prices", "console", database.ledger.catalogue_revision)
            return
        keys = database.ledger.keys
        project_id, mine = chance.choice(list(tenant.projects.items()))
        old_key = mine[-1]

        def change() -> None:
            org = database.ledger.organizations[tenant.organization_id]
            put = database.ledger.organizations.__setitem__
            match what:
                case "key":
                    keys[old_key] = structs.replace(keys[old_key], revoked_at=database.now())
                    mine.append(world.make_key(tenant, project_id))
                case "archive":
                    keys[old_key] = structs.replace(
                        keys[old_key], project_archived_at=database.now()
                    )
                    mine.append(world.make_key(tenant, project_id))
                case "suspend":
                    put(org.id, structs.replace(org, active=not org.active))
                case _:
                    put(
                        org.id,
                        structs.replace(
                            org,
                            on_overrun=chance.choice(list(OnOverrun)),
                            on_lapse=chance.choice(list(OnLapse)),
                        ),
                    )
            world.trace.note(f"console {what}", "console", tenant.organization_id.hex[-6:])

        seconds = chance.choice((0.001, 0.05, 1.0, 7.0))
        times = 2 if what == "suspend" else 1
        for _ in range(times):
            if database.is_up:
                session = database.session()
                done = database.process.spawn(
                    session.serve(session.change(tenant.organization_id, change, seconds=seconds))
                )
                await asyncio.wait({done}, timeout=20.0)
                session.client_gone()
            await asyncio.sleep(chance.uniform(1.0, 10.0))
