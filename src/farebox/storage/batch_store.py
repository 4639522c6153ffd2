"""Batches of money commands on PostgreSQL: lock, load, decide, write, commit.

READ COMMITTED, one pipeline. The organisations are locked first, in the order of their ids; every
other row is read by later statements, so that nothing read is older than the lock; the time comes
last (ENGINE.md, "A batch"). Two waits for the network: one to load, one to commit. A batch of which
every row is remembered is decided first and needs one: lock, compare, write, commit (ADR 21).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg

from farebox.kit.errors import FareboxError, IncompatibleError
from farebox.kit.texts import storable
from farebox.ledger.commands import AnyCommand, Result
from farebox.ledger.decide import decide
from farebox.ledger.state import Changes, State
from farebox.operations.batches import BatchRejectedError, BatchStoreLostError, BatchUnsettledError
from farebox.storage.connecting import Connector
from farebox.storage.counting import Scan, counts, scan
from farebox.storage.exchange import Exchange
from farebox.storage.loading import load, send_check
from farebox.storage.remembered import Look, Memory, Recalled
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.storage.writing import ORGANIZATIONS, json_text, statements

TRY_AGAIN: Final = frozenset({"40P01", "40001", "55P03", "25P03", "57014"})
"""Deadlock, serialisation, lock and idle timeouts, cancellation: nothing was committed, and the
same ids may be sent again at once."""

REJECTED: Final = frozenset({"21", "22", "23", "44", "54", "P0"})
"""Classes of errors that the values of a command cause: cardinality, data, constraints, view check,
program limits, triggers."""

AWAY: Final = frozenset({"", "08", "25", "28", "3D", "53", "57", "58"})
"""Classes of errors of a database that is away, or cannot take anything now. Everything else is
taken for a trouble of these rows, in which nothing was committed and other batches can go on."""

ENDED: Final = frozenset({"FATAL", "PANIC"})
"""Severities with which a session or the server ends itself, of whatever class the cause is: a
commit whose log could not be flushed to the disk may be in the log all the same."""

NOT_AS_REMEMBERED: Final = "FB001"
"""What the database says where a row is no longer the version that a batch was decided by."""

_PLANNING: Final = (
    # A batch's statements are planned once and not anew for each length of its arrays, which took a
    # third of a batch's time; a plan made while tables are small must be the one for large ones.
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', false),"
    " set_config('enable_seqscan', 'off', false)"
)

CHECK: Final = "check"
"""The statement that compares."""

BATCH_SECONDS_MAX: Final = 15.0
"""A batch takes milliseconds; longer than the lock timeout, this is a connection that is gone."""


class PostgresBatchStore:
    """One lane's connection, and what it remembers; a batch at a time."""

    def __init__(
        self, connector: Connector, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect with the first batch.

        Args:
            connector: Makes the connection.
            monotonic: Seconds of a clock that only goes forward.
        """
        self._connector = connector
        self._monotonic = monotonic
        self._exchange: Exchange | None = None
        self._memory = Memory()
        self.remembered = 0
        """Batches that were decided by what is remembered, and committed."""
        self.surprises = 0
        """Those that had to be read and decided anew: something was not as remembered."""

    @property
    def divergences(self) -> int:
        """Organisations that were not as remembered though nobody had written them: a defect."""
        return self._memory.divergences

    async def run(self, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
        """Decide and commit one batch.

        Args:
            commands: Range-checked.
            resent: Some of them may have been committed before: look for them.

        Raises:
            BatchUnsettledError: Nothing was committed; send the same batch again.
            BatchStoreLostError: The connection ended; the batch may have been committed.
            BatchRejectedError: The database rejected a value; one command must be found.
        """
        try:
            scans = await self._scan(commands)
            async with asyncio.timeout(BATCH_SECONDS_MAX):
                return await self._run(await self._connected(), commands, scans, resent=resent)
        except _UndecidableError as error:
            # Rolled back by our own hand: the connection is as good as before.
            raise BatchRejectedError(error.message) from error.__cause__
        except _FAILURES as error:
            await self._forget()
            raise _failure(error) from error
        except BaseException:
            # Cancelled or failed half-way: what the server does with the rest is unknown here,
            # so the connection must not be used for another batch.
            await self._forget()
            raise

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        """Put a command aside that the database rejects by itself, and leave word; once.

        Raises:
            BatchUnsettledError: It was not done; try again.
            BatchStoreLostError: It may have been done; try again.
            BatchRejectedError: The database rejects even this.
        """
        kind = type(command).__name__.lower()
        facts = {
            "organization_id": command.organization_id,
            "kind": kind,
            "command": json_text(command),
            "error": storable(error),
            "facts": json_text({"command": kind, "error": error}),
        }
        try:
            async with asyncio.timeout(BATCH_SECONDS_MAX), await self._connector.connect() as spare:
                await spare.execute(queries("engine")["insert_quarantine"], facts)
        except _FAILURES as failure:
            raise _failure(failure) from failure

    async def aclose(self) -> None:
        """Close the connection."""
        await self._forget()

    async def _scan(self, commands: Sequence[AnyCommand]) -> dict[UUID, Scan]:
        """Count what limits that begin will need, before anything is locked."""
        if not any(map(counts, commands)):
            return {}
        async with asyncio.timeout(BATCH_SECONDS_MAX):
            exchange = await self._connected()
        return await scan(exchange, commands, seconds=BATCH_SECONDS_MAX)

    async def _run(
        self,
        exchange: Exchange,
        commands: Sequence[AnyCommand],
        scans: Mapping[UUID, Scan],
        *,
        resent: bool,
    ) -> list[Result]:
        if not resent:
            recalled = self._memory.recall(commands, self._monotonic())
            if recalled is not None:
                results = await self._go_on(exchange, commands, recalled)
                if results is not None:
                    return results
        sent_seconds = self._monotonic()
        read = await load(exchange, commands, scans, resent=resent)
        look = Look(read.now, sent_seconds, self._monotonic())
        try:
            decision = decide(read.state, commands, read.now)
        except Exception as error:
            # A broken invariant is one command's or one organisation's trouble, not the batch's.
            await _roll_back(exchange)
            raise _UndecidableError(f"the engine cannot decide it: {error!r}") from error
        if resent:
            _write_all(decision.changes, read.state)
        await _finish(exchange, decision.changes)
        self._memory.learn(commands, read, decision.changes, look)
        return decision.results

    async def _go_on(
        self, exchange: Exchange, commands: Sequence[AnyCommand], recalled: Recalled
    ) -> list[Result] | None:
        """Decide by what is remembered and commit it, if all is still so; None if not."""
        try:
            decision = decide(recalled.state, commands, recalled.now)
        except Exception:  # noqa: BLE001 - it is decided anew, by what is read
            self._memory.forget(recalled.versions)
            self.surprises += 1
            return None
        sent_seconds = self._monotonic()
        try:
            now, transaction = await _finish_if(exchange, decision.changes, recalled)
        except psycopg.Error as error:
            state = error.sqlstate or ""
            if state != NOT_AS_REMEMBERED:
                if state[:2] not in REJECTED:
                    raise
                # Whether it is the command or what is remembered, reading will tell.
                self._memory.forget(recalled.versions)
            self.surprises += 1
            return None
        look = Look(now, sent_seconds, self._monotonic())
        self._memory.keep(recalled, decision.changes, transaction, look)
        self.remembered += 1
        return decision.results

    async def _connected(self) -> Exchange:
        exchange = self._exchange
        if exchange is None or exchange.connection.closed:
            await self._forget()
            connection = await self._connector.connect()
            await connection.execute(_PLANNING)
            exchange = self._exchange = Exchange(connection)
        return exchange

    async def _forget(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._memory.clear()
        if exchange is not None:
            await exchange.aclose()


class _UndecidableError(FareboxError):
    """The engine cannot decide this batch; nothing was committed."""


_FAILURES: Final = (psycopg.Error, OSError, TimeoutError, IncompatibleError)


def _failure(error: Exception) -> FareboxError:
    """What an error of the database or of the way to it means for a batch."""
    state = getattr(error, "sqlstate", None) or ""
    text = f"{state or type(error).__name__}: {error}"
    if state in TRY_AGAIN:
        return BatchUnsettledError(text)
    if isinstance(error, psycopg.Error) and error.diag.severity_nonlocalized in ENDED:
        return BatchStoreLostError(text)
    if state[:2] in REJECTED:
        return BatchRejectedError(text)
    return BatchStoreLostError(text) if state[:2] in AWAY else BatchUnsettledError(text)


def _write_all(changes: Changes, state: State) -> None:
    """Write every organisation of a batch that is sent again, whether anything of it changes.

    What was sent first may still lie at the server, unread and without the lock: now it finds other
    versions and is undone, so that its answer is not another one than this. And a replay must not
    answer before the commit that it finds is as durable as its own would be: under synchronous
    replication a commit whose session was killed is seen before it is safe.
    """
    written = {organization.id for organization in changes.organizations}
    changes.organizations += [
        mine.organization for i, mine in state.organizations.items() if i not in written
    ]


async def _finish(exchange: Exchange, changes: Changes) -> None:
    """Write what was decided under the lock, commit and wait."""
    written = []
    for name, sql, parameters, count in statements(changes):
        exchange.send(sql, parameters)
        written.append((name, count))
    exchange.send("COMMIT" if written else "ROLLBACK")
    for (name, count), answer in zip(written, await exchange.answers(), strict=False):
        assert answer.touched == count, (name, answer.touched, count)


async def _finish_if(
    exchange: Exchange, changes: Changes, recalled: Recalled
) -> tuple[datetime, str]:
    """Lock, compare, write, commit and wait: all of a batch that was decided by what is remembered.

    Writing the organisations is the lock; only the versions that are remembered are written. What
    travels up to one synchronisation point is one transaction: it needs no BEGIN, no COMMIT, and
    after an error no ROLLBACK.

    Returns:
        The database's time after the lock, and the version of what was written.

    Raises:
        psycopg.Error: ``FB001`` where something is not as remembered; nothing was written.
    """
    written: list[tuple[str, int]] = []
    organizations = [organization.id for organization in changes.organizations]
    if not organizations:
        send_check(exchange, recalled, ())
        written.append((CHECK, 1))
    for name, sql, parameters, count in statements(changes, recalled.versions):
        exchange.send(sql, parameters)
        written.append((name, count))
        if name == ORGANIZATIONS:
            send_check(exchange, recalled, organizations)
            written.append((CHECK, 1))
    checked = None
    for (name, count), answer in zip(written, await exchange.answers(), strict=True):
        assert answer.touched == count, (name, answer.touched, count)
        if name == CHECK:
            checked = answer
    assert checked is not None
    now, transaction = checked.rows[0]
    return utc(now), transaction


async def _roll_back(exchange: Exchange) -> None:
    exchange.send("ROLLBACK")
    await exchange.answers()
