"""The ports of ``operations`` on the simulated database: batches, nodes, the sweep's questions.

``BatchStore`` follows ``storage.batch_store`` step by step, with its own translation of errors;
``NodeStore`` and ``SweepStore`` say in Python what ``storage/queries/nodes.sql`` says in SQL.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, TypeVar
from uuid import UUID

import psycopg

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import AnyCommand, Result
from farebox.ledger.grants import GrantState
from farebox.operations.batches import BatchRejectedError
from farebox.operations.sweep import CLOCK_JUMP_MAX, NODE_SILENCE, HoldToLapse
from farebox.storage.batch_store import _FAILURES, BATCH_SECONDS_MAX, _failure
from farebox.storage.loading import _scopes
from farebox.storage.remembered import Look, Memory, Read
from tests.simulation.database import Batch, Database, NodeRow, Session
from tests.simulation.trace import SimulationError
from tests.simulation.wire import Network, Wire

T = TypeVar("T")

POOL_SECONDS_MAX: Final = 30.0
"""How long a pool waits for a connection before it gives up (psycopg_pool's default)."""


SILENCE_SECONDS_MIN: Final = (NODE_SILENCE - CLOCK_JUMP_MAX).total_seconds()
"""A node that renewed later than this lives, whatever the database's clock has done since."""


class SimulatedBatchStore:
    """Implements ``operations.batches.BatchStore``: one lane's connection."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._wire: Wire | None = None
        self._memory = Memory()

    async def run(self, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
        """Decide and commit one batch.

        Raises:
            BatchUnsettledError: Nothing was committed; send the same batch again.
            BatchStoreLostError: The connection ended; the batch may have been committed.
            BatchRejectedError: The database rejected a value; one command must be found.
        """
        assert commands
        if resent:
            self._network.trace.count("batch resent")
        try:
            async with asyncio.timeout(BATCH_SECONDS_MAX):
                return await self._run(await self._connected(), list(commands), resent=resent)
        except BatchRejectedError:
            raise
        except _FAILURES as error:
            self._forget()
            failure = _failure(error)
            self._note(failure, error)
            raise failure from error
        except BaseException:
            self._forget()
            raise

    def _note(self, failure: Exception, error: Exception) -> None:
        trace, state = self._network.trace, getattr(error, "sqlstate", None)
        trace.note(type(failure).__name__, self._network.process.name, state or repr(error))
        trace.count(f"sqlstate {state or 'none'}")

    async def _run(self, wire: Wire, commands: list[AnyCommand], *, resent: bool) -> list[Result]:
        if not resent and (results := await self._go_on(wire, commands)) is not None:
            return results
        sent_seconds = self._seconds()
        batch = await wire.ask(lambda session: session.load(commands, resent=resent))
        look = Look(batch.now, sent_seconds, self._seconds())
        try:
            batch.decide()
        except Exception as error:
            await wire.ask(Session.roll_back)
            self._network.trace.note("undecidable", self._network.process.name, repr(error))
            message = f"the engine cannot decide it: {error!r}"
            raise BatchRejectedError(message) from error
        await wire.ask(lambda session: session.finish(batch))
        self._network.on_answer(commands)
        assert batch.decision is not None
        read = Read(batch.state, batch.now, batch.versions, _scopes(commands), batch.transaction)
        self._memory.learn(commands, read, batch.decision.changes, look)
        return batch.results

    async def _go_on(self, wire: Wire, commands: list[AnyCommand]) -> list[Result] | None:
        recalled = self._memory.recall(commands, self._seconds())
        if recalled is None:
            return None
        batch = Batch.of(commands, recalled)
        batch.decide()
        sent_seconds = self._seconds()
        if not await wire.ask(lambda session: session.go_on(batch)):
            return None
        self._network.on_answer(commands)
        assert batch.decision is not None
        self._memory.keep(
            recalled,
            batch.decision.changes,
            batch.transaction,
            Look(batch.checked_at, sent_seconds, self._seconds()),
        )
        return batch.results

    def _seconds(self) -> float:
        """A clock that only goes forward."""
        return self._network.process.loop.time()

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        """Put a command aside, on a connection of its own."""
        try:
            async with asyncio.timeout(BATCH_SECONDS_MAX):
                wire = await self._network.connect()
                try:
                    await wire.ask(lambda session: session.put_aside(command, error))
                finally:
                    wire.close()
        except _FAILURES as failure:
            raise _failure(failure) from failure

    async def aclose(self) -> None:
        """Close the connection."""
        self._forget()

    async def _connected(self) -> Wire:
        if self._wire is None or self._wire.closed:
            self._memory.clear()
            self._wire = await self._network.connect()
        return self._wire

    def _forget(self) -> None:
        wire, self._wire = self._wire, None
        self._memory.clear()
        if wire is not None:
            wire.close()


class SimulatedNodeStore:
    """Implements ``operations.nodes.NodeStore`` and ``operations.sweep.SweepStore``."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._wire: Wire | None = None
        self._looks: list[float] = []
        """When this sweep looked at the clock, in the world's seconds."""

    async def register(self, node_id: UUID, name: str) -> int:
        """Make the node's row, or begin its next epoch."""

        def register(database: Database) -> int:
            old = database.nodes.get(node_id)
            epoch = 1 if old is None else old.epoch + 1
            now = database.loop.time()
            database.put_node(node_id, NodeRow(epoch, database.now(), name, now))
            database.trace.note("register", name, epoch)
            return epoch

        return await self._query(register)

    async def renew(self, node_id: UUID, epoch: int) -> bool:
        """Renew the row; False if the epoch has been fenced off."""

        def renew(database: Database) -> bool:
            row = database.nodes.get(node_id)
            if row is None or row.epoch != epoch:
                database.trace.count("renewal refused")
                return False
            row.seen_at, row.renewed = database.now(), database.loop.time()
            database.trace.count("heartbeat")
            return True

        return await self._query(renew)

    async def retire(self, node_id: UUID, epoch: int) -> None:
        """End the epoch."""

        def retire(database: Database) -> None:
            row = database.nodes.get(node_id)
            if row is not None and row.epoch == epoch:
                database.put_node(node_id, NodeRow(epoch + 1, row.seen_at, row.name, row.renewed))
                database.trace.note("retire", row.name, epoch)

        await self._query(retire)

    async def real_time(self) -> datetime:
        """The database's clock."""
        now, looked_at = await self._query(lambda database: (database.now(), database.loop.time()))
        self._looks.append(looked_at)
        return now

    async def fence_silent(self, silence: timedelta, looked_at: datetime) -> list[str]:
        """End the epochs of silent nodes that hold money."""
        looks = self._looks

        def fence(database: Database) -> list[str]:
            if abs(database.now() - looked_at) > CLOCK_JUMP_MAX:
                database.trace.count("no fence by a clock that has jumped")
                return []
            return fence_silent(database, silence, looks)

        return await self._query(fence)

    async def holds_to_lapse(self, limit: int) -> list[HoldToLapse]:
        """Open holds whose node is gone or whose time is up."""
        return await self._query(lambda database: holds_to_lapse(database)[:limit])

    async def organizations_with_ended_grants(self, limit: int) -> list[UUID]:
        """Organisations that have breakage to post."""
        return await self._query(lambda database: ended_grants(database)[:limit])

    async def _query(self, work: Callable[[Database], T]) -> T:
        """Ask on a pooled connection; whatever goes wrong on the way is UnavailableError."""
        try:
            async with asyncio.timeout(POOL_SECONDS_MAX):
                if self._wire is None:
                    self._wire = await self._network.connect()
                return await self._wire.ask(lambda session: session.at_once(work))
        except (psycopg.Error, TimeoutError) as error:
            self._forget()
            raise UnavailableError(f"The database is away: {error}") from error
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


def silent_nodes(database: Database, silence: timedelta) -> list[tuple[UUID, NodeRow]]:
    """Nodes that hold money and were not seen for that long, or were seen in the future."""
    now = database.now()
    holding = {(hold.node_id, hold.epoch) for hold in database.ledger.holds.values()}
    return [
        (node_id, row)
        for node_id, row in database.nodes.items()
        if (row.seen_at < now - silence or row.seen_at > now + silence)
        and (node_id, row.epoch) in holding
    ]


def fence_silent(database: Database, silence: timedelta, looks: Sequence[float]) -> list[str]:
    """``fence_silent_nodes`` of nodes.sql, for a sweep that has looked at the clock then."""
    names = []
    for node_id, row in silent_nodes(database, silence):
        database.put_node(node_id, NodeRow(row.epoch + 1, row.seen_at, row.name, row.renewed))
        check_fence(database, row, looks)
        names.append(row.name)
    return names


def check_fence(database: Database, row: NodeRow, looks: Sequence[float]) -> None:
    """Look whether a node that is being fenced off is really gone.

    A clock that jumped before a sweep's first look at it deceives it; so does one that jumped after
    its last look, but less far than a sweep tolerates, and one that jumped there and back between
    two looks.
    """
    unseen = database.loop.time() - row.renewed
    database.trace.note("fence", row.name, row.epoch, f"unseen for {unseen:.1f} s")
    jumps = database.jumped_at
    if any(row.renewed <= at and _is_hidden(at, jumps, looks) for at in jumps):
        database.trace.count("fence by a deceived sweep")
    elif unseen < SILENCE_SECONDS_MIN:
        database.loop.halt(SimulationError("fence", f"{row.name} renewed {unseen:.1f} s ago"))


def _is_hidden(at: float, jumps: Sequence[float], looks: Sequence[float]) -> bool:
    """Whether a jump was before the first look, after the last, or not alone between two."""
    after = bisect_right(looks, at)
    if not 0 < after < len(looks):
        return True
    return sum(looks[after - 1] < each < looks[after] for each in jumps) > 1


def holds_to_lapse(database: Database) -> list[HoldToLapse]:
    """``holds_to_lapse`` of nodes.sql: the first of every organisation before the second of any."""
    now = database.now()
    found: list[HoldToLapse] = []
    for hold in database.ledger.holds.values():
        row = database.nodes.get(hold.node_id)
        gone = row is None or row.epoch != hold.epoch
        if (gone or hold.latest_end <= now) and not database.is_quarantined(hold.call_id):
            found.append(
                HoldToLapse(hold.organization_id, hold.call_id, hold.node_id, hold.epoch, gone)
            )
    found.sort(key=lambda hold: (hold.organization_id, hold.call_id))
    ranked = [
        (rank, hold)
        for _, line in groupby(found, key=lambda hold: hold.organization_id)
        for rank, hold in enumerate(line)
    ]
    return [hold for _, hold in sorted(ranked, key=lambda pair: (pair[0], pair[1].call_id))]


def ended_grants(database: Database) -> list[UUID]:
    """``grants_to_expire`` of nodes.sql."""
    now = database.now()
    return list(
        dict.fromkeys(
            grant.organization_id
            for grant in database.ledger.grants.values()
            if grant.state is GrantState.OPEN and grant.has_expired(now) and grant.unreserved > 0
        )
    )
