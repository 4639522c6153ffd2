"""A PostgreSQL in memory, as far as the money engine leans on one.

It keeps the engine's rows (``tests.support.ledger_memory``), node rows and the quarantine; it locks
organisations in the order of their ids and reads everything else after the locks; it knows the time
by a clock of its own that may jump; a commit takes effect at one instant, before or after which the
server or the connection may end. What is not simulated stands in the README of this folder.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg
import psycopg.errors

from farebox.ledger.commands import Admit, AnyCommand, Result, SetZone
from farebox.ledger.decide import decide
from farebox.ledger.holds import CallState
from farebox.ledger.state import Decision, State
from farebox.storage.loading import _numbers_of, _scopes
from farebox.storage.remembered import AHEAD_MAX, BEHIND_MAX, Recalled
from tests.simulation.locks import RowLocks
from tests.simulation.trace import SimulationError, Trace, short
from tests.simulation.virtual_loop import Process, VirtualLoop
from tests.support.ledger_memory import MemoryLedger

T = TypeVar("T")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

IDLE_SECONDS_MAX: Final = 2.0
"""``idle_in_transaction_session_timeout`` of the real connections (``storage.connecting``)."""

CALL_COMMANDS: Final = frozenset({"Extend", "Settle", "Release", "Lapse", "Report"})


@dataclass
class Batch:
    """One transaction of the money engine: what was asked, seen and decided."""

    commands: Sequence[AnyCommand]
    resent: bool
    state: State
    now: datetime
    transaction: str = ""
    """The version of what it writes."""
    versions: dict[UUID, str] = field(default_factory=dict)
    """Of the organisations' rows as they were read, or as they are remembered."""
    checked_at: datetime = EPOCH
    """The database's time when what is remembered was compared."""
    decision: Decision | None = None

    @classmethod
    def of(cls, commands: Sequence[AnyCommand], recalled: Recalled) -> Batch:
        """A batch that is decided by what is remembered."""
        return cls(commands, False, recalled.state, recalled.now, versions=recalled.versions)

    def decide(self) -> None:
        """Have the real engine decide; a client's work, between the two waits."""
        self.decision = decide(self.state, self.commands, self.now)

    @property
    def results(self) -> list[Result]:
        """The answers."""
        assert self.decision is not None
        return self.decision.results

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        assert self.decision is not None
        changes = self.decision.changes
        return any(getattr(changes, name) for name in changes.__struct_fields__)


@dataclass
class NodeRow:
    """A row of the table ``node``."""

    epoch: int
    seen_at: datetime
    name: str
    renewed: float
    """The same in the world's seconds, which no clock jump moves."""


@dataclass
class Quarantined:
    """A row of the table ``quarantine``."""

    command: AnyCommand
    error: str
    ruled: bool = False


@dataclass
class Behaviour:
    """How the server does now; faults change it."""

    commit_seconds: float = 0.001
    stall_chance: float = 0.0
    stall_seconds: float = 6.0
    error_chance: float = 0.0
    """Of a deadlock, a serialisation failure or a cancelled statement, per batch."""


TRANSIENT: Final = ("40P01", "40001", "57014")


class Database:
    """The server and its rows."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, trace: Trace) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.ledger = MemoryLedger()
        self.nodes: dict[UUID, NodeRow] = {}
        self.quarantine: list[Quarantined] = []
        self.poison: set[tuple[str, UUID | None]] = set()
        """Kinds and ids of commands whose values the database rejects."""
        self.locks = RowLocks()
        self.behaviour = Behaviour()
        self.on_commit: list[Callable[[Batch], None]] = []
        """Told at the instant of every commit, with the rows as they are from then on."""
        self.process = Process(loop, "database")
        self.epoch_start: datetime = EPOCH
        self.clock_offset = timedelta(0)
        self.jumped_at: list[float] = []
        """When the clock was last set anew, in the world's seconds."""
        self.is_up = True
        self.silent = False
        """While it is away: connections hang rather than be refused."""
        self._sessions: dict[Session, None] = {}
        self._versions: dict[UUID, str] = {}
        """``xmin`` of the organisations' rows."""
        self._transactions = itertools.count(1)

    def version(self, organization_id: UUID) -> str:
        """Which transaction wrote the organisation's row."""
        return self._versions.get(organization_id, "0")

    def begin(self) -> str:
        """A new transaction's name."""
        return str(next(self._transactions))

    def wrote(self, organization_id: UUID, transaction: str) -> None:
        """A transaction has written the organisation's row."""
        self._versions[organization_id] = transaction

    def now(self) -> datetime:
        """``clock_timestamp()``."""
        passed = timedelta(microseconds=round(self.loop.time() * 1_000_000))
        return self.epoch_start + passed + self.clock_offset

    # Coming and going.

    def crash(self, *, silent: bool) -> None:
        """Every session ends; a commit on its way is in the log, or it is not."""
        self.is_up, self.silent = False, silent
        self.trace.note("database crash", "database", "silent" if silent else "refusing")
        for session in list(self._sessions):
            session.server_ends()
        self._sessions.clear()
        self.locks.clear()
        self.process.kill()

    def start(self) -> None:
        """Recover: every commit that was in the log is there."""
        assert not self.is_up
        self.is_up = True
        self.process = Process(self.loop, "database")
        self.trace.note("database up", "database")

    def session(self) -> Session:
        """A new connection's server side."""
        session = Session(self)
        self._sessions[session] = None
        return session

    def forget(self, session: Session) -> None:
        """A session has ended."""
        self._sessions.pop(session, None)

    def set_clock(self, by: timedelta) -> None:
        """Set the clock anew."""
        self.clock_offset += by
        self.jumped_at.append(self.loop.time())
        self.trace.note("clock jump", "database", by)

    # Nodes.

    def put_node(self, node_id: UUID, row: NodeRow) -> None:
        """Write a node's row."""
        self.nodes[node_id] = row
        self.ledger.epochs[node_id] = row.epoch

    # Quarantine.

    def put_aside(self, command: AnyCommand, error: str) -> None:
        """Insert into the quarantine, once while nobody has ruled."""
        if not any(q.command == command and not q.ruled for q in self.quarantine):
            self.quarantine.append(Quarantined(command, error))

    def is_quarantined(self, call_id: UUID) -> bool:
        """Tell whether a call's end waits for a ruling: then the sweep lets its hold stand."""
        return any(
            not q.ruled
            and type(q.command).__name__ in {"Settle", "Release", "Lapse"}
            and getattr(q.command, "call_id", None) == call_id
            for q in self.quarantine
        )


@dataclass(eq=False)
class Session:
    """One connection, seen from the server."""

    database: Database
    is_open: bool = True
    busy: bool = False
    ended_by: str = ""
    """SQLSTATE with which the server ended it."""
    on_crash: Callable[[], None] = lambda: None
    _locked: list[UUID] = field(default_factory=list)
    _idle: asyncio.TimerHandle | None = None
    _client_gone: bool = False
    _committing: Batch | None = None

    async def load(self, commands: Sequence[AnyCommand], *, resent: bool) -> Batch:
        """BEGIN, lock, read, and last of all ask for the time and the nodes' epochs."""
        database, ledger = self.database, self.database.ledger
        await self._lock(commands)
        state = ledger.load(commands, database.now())
        if not resent:
            _overlook_admissions(state, commands)
        _overlook_limits(state, commands)
        await asyncio.sleep(database.chance.expovariate(5_000))
        nodes = {getattr(c, "node_id", None) for c in commands}
        state.epochs = {i: ledger.epochs[i] for i in ledger.epochs if i in nodes}
        state.catalogue_revision = ledger.catalogue_revision
        versions = {i: database.version(i) for i in state.organizations}
        batch = Batch(commands, resent, state, database.now(), database.begin(), versions)
        self._idle = database.loop.call_later(IDLE_SECONDS_MAX, self._end_idle)
        return batch

    async def go_on(self, batch: Batch) -> bool:
        """All of a batch that was decided by what its lane remembers; False if that has changed."""
        await self._lock(batch.commands)
        if not is_as_remembered(self.database, batch):
            self.database.trace.count("not as remembered")
            self.unlock()
            return False
        try:
            compare_with_rows(self.database.ledger, batch)
        except AssertionError as error:
            self.database.loop.halt(SimulationError("remembered", repr(error)))
        batch.transaction, batch.checked_at = self.database.begin(), self.database.now()
        await self.finish(batch)
        self.database.trace.count("batch from memory")
        return True

    async def _lock(self, commands: Sequence[AnyCommand]) -> None:
        database = self.database
        for organization_id in sorted({c.organization_id for c in commands}):
            if organization_id in database.ledger.organizations:
                if database.locks.is_held(organization_id):
                    database.trace.count("lock wait")
                await database.locks.take(organization_id)
                self._locked.append(organization_id)
        self._trouble()

    async def finish(self, batch: Batch) -> None:
        """Write and COMMIT; the locks go when it is durable and seen."""
        if self._idle is not None:
            self._idle.cancel()
        self._trouble()
        database, behaviour = self.database, self.database.behaviour
        if batch.writes or batch.resent:
            self._reject(batch)
            self._committing = batch
            seconds = database.chance.expovariate(1 / behaviour.commit_seconds)
            if database.chance.random() < behaviour.stall_chance:
                seconds += behaviour.stall_seconds * database.chance.random()
                database.trace.count("slow commit")
            await asyncio.sleep(seconds)
            self._committing = None
        self._apply(batch)
        self.unlock()

    def _apply(self, batch: Batch) -> None:
        database = self.database
        assert batch.decision is not None
        for organization_id in self._locked:
            assert database.locks.is_held(organization_id)
        try:
            database.ledger.write(batch.decision.changes)
        except (AssertionError, KeyError) as error:
            database.loop.halt(SimulationError("database constraint", repr(error)))
        written = [organization.id for organization in batch.decision.changes.organizations]
        for organization_id in batch.state.organizations if batch.resent else written:
            database.wrote(organization_id, batch.transaction)
        database.trace.note("commit", "database", _named(batch))
        for tell in database.on_commit:
            try:
                tell(batch)
            except SimulationError as error:
                database.loop.halt(error)

    def _reject(self, batch: Batch) -> None:
        """What the values of a batch make the database say."""
        database = self.database
        for command in batch.commands:
            if (type(command).__name__, identity(command)) in database.poison:
                raise psycopg.errors.NumericValueOutOfRange("bigint out of range")
        assert batch.decision is not None
        for new in batch.decision.changes.new_holds:
            known = database.ledger
            if new.hold.call_id in known.holds or new.hold.call_id in known.calls:
                raise psycopg.errors.UniqueViolation("duplicate key value: hold")

    def _trouble(self) -> None:
        """Deadlocks and their like."""
        database = self.database
        if database.chance.random() < database.behaviour.error_chance:
            state = database.chance.choice(TRANSIENT)
            raise psycopg.errors.lookup(state)("by the seed")

    async def change(
        self, organization_id: UUID, work: Callable[[], None], *, seconds: float
    ) -> None:
        """Change rows of an organisation under its lock, as whoever writes them must."""
        await self.database.locks.take(organization_id)
        self._locked.append(organization_id)
        await asyncio.sleep(seconds)
        work()
        self.database.wrote(organization_id, self.database.begin())
        self.unlock()

    async def at_once(self, work: Callable[[Database], T]) -> T:
        """A statement of its own that locks no organisation."""
        return work(self.database)

    async def put_aside(self, command: AnyCommand, error: str) -> None:
        """Insert into the quarantine."""
        self.database.put_aside(command, error)

    async def roll_back(self) -> None:
        """ROLLBACK."""
        self.unlock()

    # Ending.

    def unlock(self) -> None:
        """End the transaction."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        for organization_id in self._locked:
            self.database.locks.free(organization_id)
        self._locked.clear()

    def _end_idle(self) -> None:
        """25P03: the client thinks too long, and others wait for its locks."""
        if self.is_open and not self.busy:
            self.database.trace.note("session ended idle", "database")
            self.end("25P03")

    def end(self, state: str) -> None:
        """Roll back and close."""
        if self.is_open:
            self.is_open, self.ended_by = False, state
            self.unlock()
            self.database.forget(self)

    def server_ends(self) -> None:
        """The server is going down: what was being committed is in its log, or it is not."""
        batch, self._committing = self._committing, None
        if batch is not None and self.database.chance.random() < 0.5:
            self.database.trace.count("committed by recovery")
            self._apply(batch)
        if self._idle is not None:
            self._idle.cancel()
        self.is_open = False
        self._locked.clear()
        self.on_crash()

    def ending(self) -> psycopg.Error:
        """What whoever writes to an ended session is told."""
        if self.ended_by:
            return psycopg.errors.lookup(self.ended_by)("terminating connection")
        return psycopg.OperationalError("server closed the connection unexpectedly")

    def client_gone(self) -> None:
        """The socket closed: noticed between two messages."""
        self._client_gone = True
        if not self.busy:
            self.end("")

    async def serve(self, work: Coroutine[Any, Any, T]) -> T:
        """Work on one message to its end, even if the client is gone meanwhile."""
        self.busy = True
        try:
            return await work
        except psycopg.Error:
            self.unlock()
            raise
        finally:
            self.busy = False
            if self._client_gone:
                self.end("")


def is_as_remembered(database: Database, batch: Batch) -> bool:
    """``check_one`` and ``check_many`` of engine.sql."""
    ledger, state = database.ledger, batch.state
    return (
        all(database.version(i) == version for i, version in batch.versions.items())
        and all(ledger.epochs.get(i) == epoch for i, epoch in state.epochs.items())
        and ledger.catalogue_revision == state.catalogue_revision
        and batch.now - AHEAD_MAX <= database.now() <= batch.now + BEHIND_MAX
    )


def compare_with_rows(ledger: MemoryLedger, batch: Batch) -> None:
    """What a lane remembers is what it would have read."""
    wanted = _scopes(batch.commands)
    for organization_id, mine in batch.state.organizations.items():
        assert mine.organization == ledger.organizations[organization_id]
        grants = [g for g in ledger.grants.values() if g.organization_id == organization_id]
        assert {g.id: g for g in mine.grants} == {g.id: g for g in grants if g.remaining}
        assert all(ledger.holds.get(i) == hold for i, hold in mine.holds.items())
        assert all(ledger.keys[i] == key for i, key in mine.keys.items())
        rows = {n: row for (i, n), row in ledger.limits.items() if i == organization_id}
        raised = {item.scope for hold in mine.holds.values() for item in hold.raised}
        named = {n for i, n in wanted if i == organization_id} | raised
        everywhere = {n for n, row in rows.items() if row.is_everywhere}
        found = {row.number: row for row in mine.limits}
        assert found == {n: row for n, row in rows.items() if n in named | everywhere}


def _overlook_admissions(state: State, commands: Sequence[AnyCommand]) -> None:
    """The real store looks for a new admission's hold only where the batch is sent again."""
    named = {getattr(c, "call_id", None) for c in commands if type(c).__name__ in CALL_COMMANDS}
    for command in commands:
        if isinstance(command, Admit) and command.call_id not in named:
            mine = state.organizations.get(command.organization_id)
            if mine is not None:
                mine.holds.pop(command.call_id, None)
                mine.closed.pop(command.call_id, None)


def _overlook_limits(state: State, commands: Sequence[AnyCommand]) -> None:
    """The real store reads the limits of the scopes that its batch names, and every default."""
    wanted = _scopes(commands)
    for organization_id, mine in state.organizations.items():
        for hold in mine.holds.values():
            wanted |= {(organization_id, item.scope) for item in hold.raised}
        for call in mine.closed.values():
            if call.state is CallState.LAPSED:
                wanted |= _numbers_of(organization_id, call, call)
        if not any(isinstance(c, SetZone) for c in commands):
            mine.limits = [
                row
                for row in mine.limits
                if row.is_everywhere or (organization_id, row.number) in wanted
            ]


def identity(command: AnyCommand) -> UUID | None:
    """The id that makes a command once-only, if it has one."""
    for name in ("call_id", "command_id", "grant_id"):
        found: UUID | None = getattr(command, name, None)
        if found is not None:
            return found
    return None


def _named(batch: Batch) -> str:
    """The batch in a line: each command and what became of it."""
    parts = []
    for command, result in zip(batch.commands, batch.results, strict=True):
        who = identity(command)
        kind = type(command).__name__.lower()
        said = getattr(result, "code", None) or type(result).__name__.lower()
        again = "=" if getattr(result, "exists", False) else ""
        parts.append(f"{kind}:{short(who) if who else '-'}:{again}{said}")
    return ("resent " if batch.resent else "") + " ".join(parts)
