"""Statements that travel together: one write to the socket, one wait, answers in order.

The driver's own pipeline writes to the socket once per statement; a batch has a dozen. This speaks
libpq's pipeline mode through the driver's documented ``pq`` module instead: statements are prepared
once per connection, queued, and sent with one flush. An error makes the server skip everything up
to the next synchronisation point, so a batch that fails half-way never commits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from psycopg import AsyncConnection, Error, OperationalError, errors, pq
from psycopg.adapt import Transformer

Row = tuple[Any, ...]

_BINARY: Final = 1
_ROWS: Final = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK})


class Answer:
    """What the server answered to one statement."""

    __slots__ = ("rows", "touched")

    def __init__(self, rows: list[Row], touched: int) -> None:
        self.rows = rows
        self.touched = touched
        """Rows inserted, updated or deleted."""


class Exchange:
    """A connection in pipeline mode; nobody else may use it."""

    def __init__(self, connection: AsyncConnection[Row]) -> None:
        self.connection = connection
        self._pq = connection.pgconn
        self._transformer = Transformer(connection)
        self._names: dict[str, bytes] = {}
        self._new_names: set[str] = set()
        """Statements that the server has not said it has prepared."""
        self._prepared = 0
        self._awaited: deque[str | None] = deque()
        """What is to be answered: a statement that is prepared, or None for one that runs."""
        self._waiter: asyncio.Future[None] | None = None
        # Watched from one wait to the next: to begin and to end it each time takes as long as a
        # tenth of the wait.
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._pq.enter_pipeline_mode()

    @property
    def is_watched(self) -> bool:
        """Whether the loop is told of what arrives."""
        return self._watched is not None

    def send(self, sql: str, parameters: tuple[str | None, ...] = ()) -> None:
        """Queue a statement; :meth:`answers` sends it.

        Args:
            sql: With ``$1``, ``$2``... each cast to its type, so that the server knows them.
            parameters: In text form; None is NULL.
        """
        name = self._names.get(sql)
        if name is None:
            self._prepared += 1
            name = self._names[sql] = f"s{self._prepared}".encode()
            self._new_names.add(sql)
            self._pq.send_prepare(name, sql.encode())
            self._awaited.append(sql)
        values = [None if p is None else p.encode() for p in parameters]
        self._pq.send_query_prepared(name, values, result_format=_BINARY)
        self._awaited.append(None)

    async def answers(self) -> list[Answer]:
        """Send what is queued and wait for every answer, in order.

        It ends with a synchronisation point even in the middle of a transaction: only a session
        that has said "ready" is idle to the server, and only then does the timeout for idle
        transactions free the rows that a stopped or unreachable process has locked.

        Raises:
            psycopg.Error: The first error that the server reported, after which a transaction that
                was begun by BEGIN is to be rolled back; or the connection's end.
        """
        try:
            self._pq.pipeline_sync()
            await self._flush()
            return await self._answers()
        except BaseException:
            # The library may have closed its socket: nobody may watch that number any longer.
            self._unwatch()
            for sql in self._new_names:
                del self._names[sql]
            raise
        finally:
            self._new_names.clear()

    async def aclose(self) -> None:
        """Close the connection."""
        self._unwatch()
        await self.connection.close()

    async def _answers(self) -> list[Answer]:
        """Everything up to the synchronisation point, whatever failed on the way."""
        found: list[Answer] = []
        failed: Error | None = None
        while self._awaited:
            result = await self._next(failed)
            prepared = self._awaited.popleft()
            if result is None:
                raise failed or OperationalError("the server gave no answer")
            if result.status not in _ROWS:
                failed = failed or self._error(result)
            elif prepared is not None:
                self._new_names.discard(prepared)
            elif result.nfields or result.command_status:
                found.append(self._answer(result))
            if await self._next(failed) is not None:
                raise OperationalError("the server lost step with the pipeline")
        result = await self._next(failed)
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            # A transaction without COMMIT commits here, and may fail here.
            failed = failed or self._error(result)
            await self._next(failed)
            result = await self._next(failed)
        if result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            raise failed or OperationalError("the server lost step with the pipeline")
        if failed is not None:
            raise failed
        return found

    async def _next(self, failed: Error | None) -> pq.abc.PGresult | None:
        """The next result; where the connection ends after an error, it is that error."""
        if self._pq.is_busy():
            try:
                await self._arrived()
            except Error:
                if failed is not None:
                    raise failed from None
                raise
        return self._pq.get_result()

    async def _arrived(self) -> None:
        """Wait until the next result is whole."""
        while self._pq.is_busy():
            await self._ready(write=False)
            self._pq.consume_input()

    async def _flush(self) -> None:
        while self._pq.flush():
            # The server may be waiting for us to read before it takes more.
            await self._ready(write=True)
            self._pq.consume_input()

    async def _ready(self, *, write: bool) -> None:
        """Wait until the socket can be read, or, where asked, written."""
        loop = asyncio.get_running_loop()
        ready = self._waiter = loop.create_future()
        socket = self._pq.socket
        if self._watched is None:
            loop.add_reader(socket, self._wake)
            self._watched = (loop, socket)
        if write:
            loop.add_writer(socket, self._wake)
        try:
            await ready
        finally:
            self._waiter = None
            if write:
                loop.remove_writer(socket)

    def _wake(self) -> None:
        if self._waiter is None:
            # Something came while nobody waits, the connection's end perhaps: the next one to wait
            # will see it; until then the loop would call without end.
            self._unwatch()
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _unwatch(self) -> None:
        if self._watched is not None:
            loop, socket = self._watched
            self._watched = None
            loop.remove_reader(socket)

    def _answer(self, result: pq.abc.PGresult) -> Answer:
        rows: list[Row] = []
        if result.ntuples:
            self._transformer.set_pgresult(result, format=pq.Format.BINARY)
            rows = self._transformer.load_rows(0, result.ntuples, tuple)
        return Answer(rows, result.command_tuples or 0)

    def _error(self, result: pq.abc.PGresult) -> Error:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            return errors.error_from_result(result)
        return OperationalError(f"the server skipped a statement ({result.status})")
