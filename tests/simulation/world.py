"""One seed: the database, the processes, the people, the faults, and in what order they come.

First traffic with every fault of the plan; then everything heals, and what must come to an end has
to: clients get their answers, holds end within their bound, the books are right.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg

from farebox.kit.errors import FareboxError
from farebox.kit.ids import uuid7_from_millis
from farebox.ledger.commands import AnyCommand
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.ledger.state import KeyFacts
from farebox.operations.check_books import check_books
from farebox.operations.sweep import CLOCK_JUMP_MAX, NODE_SILENCE, PAUSE_AFTER_JUMP
from tests.simulation.audit_rows import MemoryAuditStore
from tests.simulation.books import Books
from tests.simulation.checks import Checks
from tests.simulation.clients import People, Tenant
from tests.simulation.database import Behaviour, Database
from tests.simulation.events import EventCounts
from tests.simulation.faults import Faults
from tests.simulation.gateways import Gateway, GoneError
from tests.simulation.oracle import Oracle
from tests.simulation.owners import watch_owners
from tests.simulation.plans import ZONES, Plan
from tests.simulation.trace import SimulationError, Trace
from tests.simulation.virtual_loop import Process, VirtualLoop
from tests.simulation.wire import Network, Weather
from tests.simulation.workers import Worker
from tests.support.ledger_memory import audit

T = TypeVar("T")

MONTH_MILLIS: Final = 1_806_500_000_000
"""Unix milliseconds in March 2027: where call ids count from."""

TURNS_MAX: Final = 6
"""An answer takes some turns of the loop from the database's socket to the handler."""

HEAL_SECONDS_MAX: Final = 900.0
"""How long the world may take to come to rest once nothing goes wrong any more."""


class World:
    """Everything of one seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(f"{plan.seed} world")
        self.loop = VirtualLoop(random.Random(f"{plan.seed} order"))
        self.trace = Trace(self.loop.time)
        self.database = Database(self.loop, random.Random(f"{plan.seed} database"), self.trace)
        self.database.epoch_start = plan.begins
        self.database.behaviour = Behaviour(
            commit_seconds=plan.commit_seconds,
            stall_chance=plan.stall_chance,
            error_chance=plan.error_chance,
        )
        self.weather = Weather(plan.wire_seconds, plan.break_chance, plan.silent_share)
        self.networks: dict[Process, list[Network]] = {}
        self.books = Books(self.trace)
        self.checks = Checks(self.database)
        self.oracle = Oracle(self.database)
        self.audits = MemoryAuditStore(self.database)
        self.database.on_commit += [
            EventCounts(self.trace).committed,
            self.audits.committed,
            self.books.committed,
            self.checks.committed,
        ]
        if plan.modelled:
            self.database.on_commit.append(self.oracle.committed)
        self.price_id = self.new_id()
        self._nobody = contextvars.Context()
        self._revisions: dict[Process, int] = {}
        self._starts = 0
        self._quarantined: set[UUID | None] = set()
        self._poisons_left = plan.poisons
        self.tenants: list[Tenant] = []
        self.gateways: list[Gateway] = []
        self.every_gateway: list[Gateway] = []
        self.leavers: dict[UUID, Callable[[], object]] = {}
        """Clients that go in the very moment in which their admission is answered."""
        self.workers: list[Worker] = []

    # Making things.

    def new_id(self) -> UUID:
        """An id, by the chance of the seed."""
        millis = MONTH_MILLIS + int(self.loop.time() * 1000)
        return uuid7_from_millis(millis, self.chance.randbytes(10))

    def network(self, process: Process, like: Network | None = None) -> Network:
        """A process's way to the database."""
        weather = self.weather if like is None else like.weather
        link = Network(process, self.database, weather, self.chance, self.trace)
        link.on_answer = self._answered
        self.networks.setdefault(process, []).append(link)
        return link

    def _answered(self, commands: Sequence[AnyCommand]) -> None:
        """Let clients go some turns later: before, while or after their answer is handed on."""
        for command in commands:
            leave = self.leavers.pop(getattr(command, "call_id", self.price_id), None)
            if leave is not None:
                self._in_turns(self.chance.randrange(TURNS_MAX), leave)

    def _in_turns(self, turns: int, work: Callable[[], object]) -> None:
        if turns:
            self.loop.call_soon(self._in_turns, turns - 1, work, context=self._nobody)
        else:
            self.trace.count("client left at the answer")
            work()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something that belongs to no process."""
        return self.loop.create_task(work)

    def make_key(self, tenant: Tenant, project_id: UUID) -> UUID:
        """A new key of a tenant's project."""
        key_id = self.new_id()
        self.database.ledger.add_key(
            KeyFacts(key_id, tenant.organization_id, project_id, None, None, None)
        )
        return key_id

    def _make_tenant(self, number: int) -> Tenant:
        plan, chance = self.plan, self.chance
        tenant = Tenant(
            organization_id=self.new_id(),
            projects={self.new_id(): [] for _ in range(2 if plan.beyond_the_model else 1)},
            calls_left=plan.calls // plan.organizations,
            ceiling=max(2, int(plan.credit * plan.ceiling_share)),
        )
        self.database.ledger.add_organization(
            tenant.organization_id,
            self.database.now(),
            zone=chance.choice(list(ZONES)),
            on_overrun=chance.choice((OnOverrun.ABSORB, OnOverrun.ABSORB, OnOverrun.OWE)),
            on_lapse=chance.choice(list(OnLapse)),
        )
        for project_id, keys in tenant.projects.items():
            keys.append(self.make_key(tenant, project_id))
        return tenant

    def start_gateway(self, slot: int, *, node_id: UUID | None = None) -> None:
        """Start a process in a slot, with a new node unless told otherwise."""
        self._starts += 1
        gateway = Gateway(self, f"gateway{slot}.{self._starts}", node_id or self.new_id())
        self._revisions[gateway.process] = self.database.ledger.catalogue_revision
        self.trace.note("start", gateway.name)
        self.every_gateway.append(gateway)
        if slot == len(self.gateways):
            self.gateways.append(gateway)
        else:
            self.gateways[slot] = gateway

    def start_worker(self, slot: int) -> None:
        """Start a worker in a slot."""
        self._starts += 1
        worker = Worker(self, f"worker{slot}.{self._starts}")
        if slot == len(self.workers):
            self.workers.append(worker)
        else:
            self.workers[slot] = worker

    async def restart_worker(self, chance: random.Random, seconds: float) -> None:
        """SIGKILL a worker; another starts later."""
        slot = chance.randrange(len(self.workers))
        process = self.workers[slot].process
        if process.alive:
            self.trace.note("crash", process.name)
            process.kill()
            await asyncio.sleep(seconds)
            self.start_worker(slot)

    # What the others ask.

    def pick_gateway(self, chance: random.Random) -> Gateway | None:
        """A gateway, as a load balancer would choose."""
        ready = [gateway for gateway in self.gateways if gateway.takes_calls]
        return chance.choice(ready) if ready else None

    def known_revision(self, gateway: Gateway) -> int:
        """The price book that a gateway rates by."""
        return self._revisions[gateway.process]

    def refresh_catalogue(self, gateway: Gateway) -> None:
        """It reads the price book anew."""
        self._revisions[gateway.process] = self.database.ledger.catalogue_revision

    def maybe_poison(self, call_id: UUID) -> None:
        """Now and then the database rejects a call's values."""
        if self._poisons_left and self.chance.random() < 0.1:
            self._poisons_left -= 1
            kind = self.chance.choice(("Admit", "Settle"))
            self.database.poison.add((kind, call_id))

    # The story.

    async def live(self) -> None:
        """From the first grant to the last check."""
        for number in range(self.plan.organizations):
            self.tenants.append(self._make_tenant(number))
        for slot in range(self.plan.gateways):
            self.start_gateway(slot)
        for slot in range(self.plan.workers):
            self.start_worker(slot)
        self.begin(watch_owners(self))
        people = [People(self, tenant, i) for i, tenant in enumerate(self.tenants)]
        stories = [self.begin(story) for story in Faults(self).stories()]
        stories += [self.begin(self._be(each)) for each in people]
        await asyncio.gather(*stories)
        await self._check_books()
        self._heal()
        await self._rest()
        await self._check_books()

    async def _be(self, people: People) -> None:
        """One organisation's life."""
        await people.order(people.grant(self.plan.credit))
        callers = [self.begin(people.caller()) for _ in range(self.plan.callers)]
        await asyncio.gather(*callers, people.operators())

    def _heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.trace.note("heal", "world")
        self.weather.break_chance = 0.0
        self.database.behaviour.error_chance = 0.0
        self.database.behaviour.stall_chance = 0.0
        self.database.poison.clear()
        for row in self.database.quarantine:
            row.ruled = True
            self._quarantined.add(getattr(row.command, "call_id", None))

    async def _rest(self) -> None:
        """Wait until every hold has ended and nobody has anything left to say."""
        ledger = self.database.ledger
        healed = self.loop.time()
        has_waited = False
        while ledger.holds or self._busy():
            await asyncio.sleep(1.0)
            rested = self.loop.time() - healed
            if rested > self._bound_seconds() and not has_waited:
                has_waited = True
                self._check_bounds()
                # What waited for an operator ends at its latest end, however far that is.
                self._pass_latest_ends()
            if rested > HEAL_SECONDS_MAX:
                left = list(ledger.holds.values())
                message = f"{left or self._busy()} after {HEAL_SECONDS_MAX} s"
                raise SimulationError("bound", message)

    def _check_bounds(self) -> None:
        for call_id, hold in self.database.ledger.holds.items():
            if call_id not in self._quarantined:
                message = f"{self._bound_seconds():.0f} s after the last fault: {hold}"
                raise SimulationError("bound", message)

    def _bound_seconds(self) -> float:
        """Latest end, silence, the pause after a jump, some sweeps: no hold needs longer."""
        spans = NODE_SILENCE + PAUSE_AFTER_JUMP + CLOCK_JUMP_MAX
        return self.plan.latest_end_seconds + spans.total_seconds() + 30.0

    def _pass_latest_ends(self) -> None:
        ends = [hold.latest_end for hold in self.database.ledger.holds.values()]
        if ends and max(ends) > self.database.now():
            self.database.set_clock(max(ends) - self.database.now() + timedelta(seconds=1))

    def _busy(self) -> list[str]:
        """Who still has something to do."""
        return [
            gateway.name
            for gateway in self.every_gateway
            if gateway.process.alive
            and (gateway.bookkeeper.queued or gateway.bookkeeper.waiting or gateway.is_working)
        ]

    async def _check_books(self) -> None:
        """``farebox books check``, on what is stored at this instant."""
        report = await check_books(self.audits)
        if not report.is_clean:
            raise SimulationError("books check", report.findings[0].message)
        self.trace.count("books check")

    # The end.

    def check_end(self) -> None:
        """Everything that must be true when all is quiet.

        Raises:
            SimulationError: It is not.
        """
        if self.loop.trouble:
            raise SimulationError("trouble", self.loop.trouble[0])
        for task in self.loop.tasks:
            error = None if not task.done() or task.cancelled() else task.exception()
            if not isinstance(error, FareboxError | GoneError | psycopg.Error | None):
                raise SimulationError("trouble", f"{task.get_coro()}: {error!r}")
        if self.trace.counts["undecidable"]:
            raise SimulationError("trouble", "the engine could not decide a batch")
        for row in self.database.quarantine:
            if "bigint out of range" not in row.error:
                raise SimulationError("trouble", f"{row} was put aside")
        self.books.compare(self.database.ledger)
        self.oracle.compare()
        try:
            audit(self.database.ledger)
        except AssertionError as error:
            raise SimulationError("audit", str(error)) from error


def live_through(world: World) -> None:
    """From the first grant to the last check.

    Raises:
        SimulationError: Some check failed.
    """
    world.loop.run(world.live())
    world.check_end()
