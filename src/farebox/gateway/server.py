"""The gateway's own HTTP/1.1 server: it listens, keeps the time for its connections, and stops.

One timer looks at every connection once a second; no request has one of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from farebox.gateway.desk import logger
from farebox.gateway.http import Handler
from farebox.gateway.server_connection import Connection
from farebox.gateway.server_shared import Limits, Refuse, Shared

LAST_SECONDS: Final = 5.0
"""For requests that are told to end when the time to stop is over."""


class HttpServer:
    """Serves a handler on sockets."""

    def __init__(
        self,
        handler: Handler,
        *,
        refuse: Refuse,
        unix_seconds: Callable[[], float],
        limits: Limits | None = None,
    ) -> None:
        """Describe it.

        Args:
            handler: Answers requests.
            refuse: Makes answers of errors that no handler sees.
            unix_seconds: What answers are dated by.
            limits: Others than the usual.
        """
        self.handler = handler
        self._refuse = refuse
        self._unix_seconds = unix_seconds
        self._limits = limits or Limits()
        self.shared: Shared | None = None
        """What its connections share, once there was one."""
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket, *, backlog: int) -> None:
        """Serve on a bound socket, which is ours from now on.

        Args:
            sock: Where.
            backlog: Connections that may wait until they are taken.
        """
        loop = asyncio.get_running_loop()
        self._listeners.append(
            await loop.create_server(self.connection, sock=sock, backlog=backlog)
        )

    def connection(self) -> Connection:
        """A new connection, for a transport of the running loop."""
        if self.shared is None:
            loop = asyncio.get_running_loop()
            self.shared = Shared(self.handler, self._refuse, self._limits, loop)
            self._tick(self.shared)
        return Connection(self.shared)

    async def aclose(self, seconds: float) -> None:
        """Accept nothing more, let requests end for so long, then end them.

        A stream that is ended is told that its client has gone, so that it is charged.
        """
        for listener in self._listeners:
            listener.close()
        shared = self.shared
        if shared is None:
            return
        shared.is_stopping = True
        for connection in list(shared.connections):
            connection.stop()
        await shared.until_empty(seconds)
        for exchange in list(shared.running):
            exchange.stop()
        for connection in list(shared.connections):
            connection.abort()
        if not await shared.until_empty(LAST_SECONDS):
            logger.error("requests_left_behind", requests=len(shared.running))
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, shared: Shared) -> None:
        # First of all: whatever goes wrong below, time goes on.
        self._timer = shared.loop.call_later(self._limits.tick_seconds, self._tick, shared)
        now = shared.now = shared.loop.time()
        shared.date_line = f"date: {formatdate(self._unix_seconds(), usegmt=True)}\r\n"
        for connection in list(shared.connections):
            connection.look(now)
