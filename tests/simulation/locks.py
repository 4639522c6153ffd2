"""Row locks of the simulated database: first come first served, with a timeout."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from uuid import UUID

import psycopg.errors

LOCK_TIMEOUT_SECONDS: Final = 5.0
"""``lock_timeout`` of the real connections (``storage.connecting``)."""


class RowLocks:
    """``SELECT .. FOR NO KEY UPDATE`` on organisations."""

    def __init__(self) -> None:
        self._lines: dict[UUID, deque[asyncio.Future[None]]] = {}
        """Who holds a lock has a line, empty where nobody waits."""

    def is_held(self, organization_id: UUID) -> bool:
        """Tell whether somebody has it."""
        return organization_id in self._lines

    async def take(self, organization_id: UUID) -> None:
        """Wait for the lock.

        Raises:
            psycopg.errors.LockNotAvailable: 55P03, after the timeout.
        """
        line = self._lines.get(organization_id)
        if line is None:
            self._lines[organization_id] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.free(organization_id)  # it was given in the very turn in which we gave up
            else:
                line.remove(turn)
            if isinstance(error, TimeoutError):
                raise psycopg.errors.LockNotAvailable("lock timeout") from error
            raise

    def free(self, organization_id: UUID) -> None:
        """Give the lock to whoever waits longest."""
        line = self._lines[organization_id]
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._lines[organization_id]

    def clear(self) -> None:
        """The server ended: nobody holds or waits for anything."""
        self._lines.clear()
