"""What is written beside the money path: a queue with a bound, emptied in batches.

Taking a row never waits and never fails, and whatever happens to it later, the call's own answer is
the same. Rows wait while the database is away; what finds no room, and a batch that the database
rejects, is dropped and counted.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from farebox.kit.errors import UnavailableError

FLUSH_SECONDS: Final = 0.5
"""A row is in the database after this time: soon enough for a person who looks it up."""

CLOSE_SECONDS: Final = 5.0
"""What is left is written at the end, if the database answers in this time."""

_Row = TypeVar("_Row")


class Recorder(ABC, Generic[_Row]):
    """Takes rows at once and writes them soon; a subclass says what a row is."""

    def __init__(self, *, batch_max: int, rows_max: int, bytes_max: int | None = None) -> None:
        """Begin empty.

        Args:
            batch_max: Rows of one write.
            rows_max: Rows that may wait.
            bytes_max: What they may take while they wait, as :meth:`_size` has it; None for any.
        """
        self.dropped = 0
        """What was noted and not kept; anything but zero is worth an alert."""
        self.written = 0
        """Rows that were written."""
        self.last_error: str | None = None
        """Why writing failed the last time; None while it works."""
        self._batch_max = batch_max
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._queue: deque[_Row] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Rows that wait to be written."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to write; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self) -> None:
        """Stop, and write what is left if the database answers in time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.flush(everything=True)
        except TimeoutError:
            self.last_error = "the database did not answer while closing"
        self.dropped += sum(map(self._times, self._queue))
        self._queue.clear()
        self._bytes = 0

    async def flush(self, *, everything: bool = False) -> bool:
        """Write what is due, or as much of it as the database takes.

        Args:
            everything: What would be due later too.

        Returns:
            Whether anything is left to write.
        """
        later = self._gather(everything=everything)
        while self._queue:
            batch = [self._queue[i] for i in range(min(self._batch_max, len(self._queue)))]
            try:
                await self._write(batch)
            except UnavailableError as error:
                self.last_error = error.message
                return True  # they stay in the queue for the next time
            except Exception as error:  # noqa: BLE001 - a row that cannot be written stops no other
                self.last_error = repr(error)
                self.dropped += sum(map(self._times, batch))
            else:
                self.last_error = None
                self.written += len(batch)
            for _ in batch:
                self._bytes -= self._size(self._queue.popleft())
        return later

    def _put(self, row: _Row) -> None:
        """Queue a row if there is room."""
        size = self._size(row)
        is_full = len(self._queue) >= self._rows_max
        if is_full or (self._bytes_max is not None and self._bytes + size > self._bytes_max):
            self.dropped += self._times(row)
        else:
            self._queue.append(row)
            self._bytes += size

    def _wake(self) -> None:
        """Have what was queued written soon."""
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._arrived.clear()
            if await self.flush():
                self._wake()

    @abstractmethod
    async def _write(self, batch: Sequence[_Row]) -> None:
        """Write rows; those that are there already are left as they are.

        Raises:
            UnavailableError: The database is away; the same rows may be sent again.
        """

    def _size(self, _row: _Row) -> int:
        """Bytes that a row takes while it waits."""
        return 0

    def _times(self, _row: _Row) -> int:
        """How many of what was noted are lost with a row."""
        return 1

    def _gather(self, *, everything: bool) -> bool:  # noqa: ARG002 - for who keeps something back
        """Queue what has become due, or everything; tells whether something is kept back."""
        return False
