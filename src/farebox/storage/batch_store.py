"""Batches of money commands on PostgreSQL: lock, load, decide, write, commit.

READ COMMITTED, one pipeline. The organisations are locked first, in the order of their ids; every
other row is read by later statements, so that nothing read is older than the lock; the time comes
last (ENGINE.md, "A batch"). Two waits for the network: one to load, one to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from farebox.kit.money import Nanos
from farebox.kit.periods import hour_start
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    Extend,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    Result,
    SetLimit,
    Settle,
)
from farebox.ledger.decide import decide
from farebox.ledger.holds import CallState
from farebox.ledger.limits import window_bounds
from farebox.ledger.state import Decision, OrganizationState, State
from farebox.operations.batches import BatchRejectedError, BatchStoreLostError, BatchUnsettledError
from farebox.storage import rows
from farebox.storage.arrays import uuids
from farebox.storage.connecting import Connector
from farebox.storage.sql import queries
from farebox.storage.writing import json_text, statements

TRY_AGAIN: Final = frozenset({"40P01", "40001", "55P03", "25P03", "57014"})
"""Deadlock, serialisation, lock and idle timeouts, cancellation: nothing was committed, and the
same ids may be sent again at once."""

BATCH_SECONDS_MAX: Final = 15.0
"""A batch takes milliseconds; longer than the lock timeout, this is a connection that is gone."""

_Row = tuple[Any, ...]


class PostgresBatchStore:
    """One lane's connection; a batch at a time."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: AsyncConnection[_Row] | None = None

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
            connection = await self._connected()
            return await self._run(connection, commands, resent=resent)
        except psycopg.Error as error:
            await self._forget()
            state = error.sqlstate or ""
            if state in TRY_AGAIN:
                raise BatchUnsettledError(str(error)) from error
            if state[:2] in {"22", "23"}:
                raise BatchRejectedError(f"{state}: {error}") from error
            raise BatchStoreLostError(f"{state or 'connection'}: {error}") from error
        except (OSError, TimeoutError) as error:
            await self._forget()
            raise BatchStoreLostError(str(error) or "the database did not answer") from error
        except BaseException:
            # Cancelled or failed half-way: what the server does with the rest is unknown here,
            # so the connection must not be used for another batch.
            await self._forget()
            raise

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        """Put a command aside that the database rejects by itself, and leave word."""
        sql = queries("engine")
        kind = type(command).__name__.lower()
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute(
                sql["insert_quarantine"],
                {
                    "organization_id": command.organization_id,
                    "kind": kind,
                    "command": json_text(command),
                    "error": error,
                },
            )
            await connection.execute(
                sql["insert_quarantine_event"],
                {
                    "organization_id": command.organization_id,
                    "facts": json_text({"command": kind, "error": error}),
                },
            )

    async def aclose(self) -> None:
        """Close the connection."""
        await self._forget()

    async def _connected(self) -> AsyncConnection[_Row]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connector.connect()
        return self._connection

    async def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _run(
        self, connection: AsyncConnection[_Row], commands: Sequence[AnyCommand], *, resent: bool
    ) -> list[Result]:
        async with asyncio.timeout(BATCH_SECONDS_MAX), connection.pipeline() as pipeline:
            batch = _Batch(connection, commands)
            state, now = await batch.load(resent=resent)
            decision = decide(state, commands, now)
            sent = await batch.write(decision)
            # Waits for the answers to everything, the commit included, and raises the first error.
            await pipeline.sync()
        for name, touched, expected in sent:
            assert touched.rowcount == expected, (name, touched.rowcount, expected)
        return decision.results


class _Batch:
    """The statements of one batch on one connection in pipeline mode."""

    def __init__(self, connection: AsyncConnection[_Row], commands: Sequence[AnyCommand]) -> None:
        self._connection = connection
        self._commands = commands
        self._sql = queries("engine")

    async def load(self, *, resent: bool) -> tuple[State, datetime]:
        """Lock, then read every row that the commands touch."""
        commands = self._commands
        organization_ids = sorted({c.organization_id for c in commands})
        orgs = uuids(organization_ids)
        admits = [c for c in commands if isinstance(c, Admit)]
        called = _called(commands, resent=resent)
        await self._connection.execute("BEGIN", prepare=True)
        locked = await self._ask("lock_organizations", orgs)
        grants = await self._ask("read_grants", orgs)
        named = _named_grants(commands)
        spent = await self._ask("read_named_grants", uuids(named)) if named else None
        limits = await self._ask("read_limits", orgs)
        keys = (
            await self._ask("read_keys", uuids({c.dimensions.key_id for c in admits}))
            if admits
            else None
        )
        holds = await self._ask("read_holds", uuids(called)) if called else None
        limited = {c.organization_id for c in commands if isinstance(c, SetLimit)}
        all_holds = await self._ask("read_holds_of", uuids(limited)) if limited else None
        effects = [c.command_id for c in commands if isinstance(c, Refund | Correct)]
        known = await self._ask("read_money_commands", uuids(effects)) if effects else None
        time = await self._ask("read_time", uuids(_nodes(commands)))

        organizations = {
            row[0]: OrganizationState(rows.organization(row)) for row in await _rows(locked)
        }
        for row in [*await _rows(grants), *await _rows(spent)]:
            if row[1] in organizations:
                organizations[row[1]].grants.append(rows.grant(row))
        for row in await _rows(limits):
            organizations[row[0]].limits.append(rows.limits(row))
        for row in await _rows(keys):
            if row[1] in organizations:
                organizations[row[1]].keys[row[0]] = rows.key(row)
        for row in [*await _rows(holds), *await _rows(all_holds)]:
            if row[1] in organizations:
                organizations[row[1]].holds[row[0]] = rows.hold(row)
        seen = frozenset(row[0] for row in await _rows(known))
        for mine in organizations.values():
            mine.known_commands = seen
        clock = await _rows(time)
        now = rows.utc(clock[0][0])
        state = State(
            organizations=organizations,
            epochs={row[2]: row[3] for row in clock if row[2] is not None},
            catalogue_revision=clock[0][1],
        )
        await self._load_closed(state, called)
        for organization_id in limited & organizations.keys():
            await self._load_charged(organizations[organization_id], now)
        return state, now

    async def write(self, decision: Decision) -> list[tuple[str, AsyncCursor[_Row], int]]:
        """Send what changed, and the commit; the answers are still to come."""
        sent = [
            (name, await self._execute(sql, parameters), count)
            for name, sql, parameters, count in statements(decision.changes)
        ]
        if not sent:
            # Nothing to lose, so nothing to wait for. No ROLLBACK: the driver would forget every
            # prepared statement, and the next batch would trip over those it still sends.
            await self._execute("SET LOCAL synchronous_commit TO off", ())
        await self._execute("COMMIT", ())
        return sent

    async def _load_closed(self, state: State, called: Iterable[UUID]) -> None:
        """Calls that are open no more: only replays and late answers come here."""
        open_now = {call_id for o in state.organizations.values() for call_id in o.holds}
        missing = [call_id for call_id in called if call_id not in open_now]
        if not missing:
            return
        drawn: set[UUID] = set()
        late: set[UUID] = set()
        for row in await (await self._ask("read_closed", uuids(missing))).fetchall():
            if row[1] in state.organizations:
                call = rows.closed(row)
                state.organizations[row[1]].closed[call.call_id] = call
                drawn.update(draw.grant_id for draw in call.draws)
                if call.state is CallState.LAPSED and call.charge:
                    late.add(call.organization_id)
        loaded = {g.id for o in state.organizations.values() for g in o.grants}
        if drawn - loaded or late:
            # A late answer may give money back: to the grants it drew, and to those that repaid
            # what was owed for it, all of which may be empty by now.
            cursor = await self._ask("read_empty_grants", uuids(drawn), uuids(late))
            for row in await cursor.fetchall():
                if row[0] not in loaded:
                    state.organizations[row[1]].grants.append(rows.grant(row))

    async def _load_charged(self, mine: OrganizationState, now: datetime) -> None:
        """What the current window has charged, for a limit that begins in its middle."""
        organization = mine.organization
        for command in self._commands:
            if (
                isinstance(command, SetLimit)
                and command.organization_id == organization.id
                and command.maximum is not None
            ):
                engine_time = max(now, organization.last_time)
                start, _ = window_bounds(command.period, engine_time, organization.zone)
                first_hour = hour_start(start)
                if first_hour < start:
                    first_hour += timedelta(hours=1)
                cursor = self._connection.cursor(binary=True)
                await cursor.execute(
                    self._sql["read_charged_since"],
                    {
                        "organization_id": organization.id,
                        "start": start,
                        "first_hour": first_hour,
                    },
                )
                row = await cursor.fetchone()
                assert row is not None
                mine.month_charged = Nanos(row[0])

    async def _ask(self, name: str, *parameters: str) -> AsyncCursor[_Row]:
        return await self._execute(self._sql[name], parameters)

    async def _execute(self, sql: str, parameters: tuple[str, ...]) -> AsyncCursor[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(sql, parameters or None, prepare=True)
        return cursor


async def _rows(cursor: AsyncCursor[_Row] | None) -> list[_Row]:
    """The rows of a question, none where it was not asked."""
    return [] if cursor is None else await cursor.fetchall()


def _called(commands: Sequence[AnyCommand], *, resent: bool) -> list[UUID]:
    """Calls whose holds may exist; an admission's only where it is sent again."""
    return [
        c.call_id
        for c in commands
        if isinstance(c, Settle | Release | Lapse | Report | Extend)
        or (resent and isinstance(c, Admit))
    ]


def _named_grants(commands: Sequence[AnyCommand]) -> list[UUID]:
    """Grants that commands name: they may have no money left, or may exist already."""
    return [c.grant_id for c in commands if isinstance(c, GrantCredit | Refund | Dispute)]


def _nodes(commands: Sequence[AnyCommand]) -> set[UUID]:
    return {c.node_id for c in commands if isinstance(c, Admit | Extend | Lapse)}
