"""Batches of money commands on PostgreSQL: lock, load, decide, write, commit.

READ COMMITTED, one pipeline. The organisations are locked first, in the order of their ids; every
other row is read by later statements, so that nothing read is older than the lock; the time comes
last (ENGINE.md, "A batch"). Two waits for the network: one to load, one to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import psycopg

from farebox.ledger.commands import AnyCommand, Result
from farebox.ledger.decide import decide
from farebox.operations.batches import BatchRejectedError, BatchStoreLostError, BatchUnsettledError
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from farebox.storage.loading import load
from farebox.storage.sql import queries
from farebox.storage.writing import json_text, statements

TRY_AGAIN: Final = frozenset({"40P01", "40001", "55P03", "25P03", "57014"})
"""Deadlock, serialisation, lock and idle timeouts, cancellation: nothing was committed, and the
same ids may be sent again at once."""

BATCH_SECONDS_MAX: Final = 15.0
"""A batch takes milliseconds; longer than the lock timeout, this is a connection that is gone."""


class PostgresBatchStore:
    """One lane's connection; a batch at a time."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._exchange: Exchange | None = None

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
            return await _run(await self._connected(), commands, resent=resent)
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
        async with await self._connector.connect() as connection, connection.transaction():
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

    async def _connected(self) -> Exchange:
        exchange = self._exchange
        if exchange is None or exchange.connection.closed:
            exchange = self._exchange = Exchange(await self._connector.connect())
        return exchange

    async def _forget(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.connection.close()


async def _run(exchange: Exchange, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
    async with asyncio.timeout(BATCH_SECONDS_MAX):
        state, now = await load(exchange, commands, resent=resent)
        decision = decide(state, commands, now)
        written = []
        for name, sql, parameters, count in statements(decision.changes):
            exchange.send(sql, parameters)
            written.append((name, count))
        exchange.send("COMMIT" if written else "ROLLBACK")
        answers = await exchange.answers(end=True)
    for (name, count), answer in zip(written, answers, strict=False):
        assert answer.touched == count, (name, answer.touched, count)
    return decision.results
