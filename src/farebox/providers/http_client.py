"""An HTTP/1.1 client of one origin, made for calls that cost money.

The error of a call says whether the other side can have done work (the port's errors); a request
is never sent twice, a redirect is an answer, and nothing is added to what the caller wrote. On a
connection that is kept, a call is one write and one wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from farebox.operations.upstream import UpstreamNotReachedError
from farebox.providers.arriving import ArrivingAnswer
from farebox.providers.connections import Connections, Origin
from farebox.providers.wire import WireClosedError

if TYPE_CHECKING:
    from ssl import SSLContext

CONNECTIONS_MAX: Final = 1000
"""Calls in flight at one provider; above it a call waits as long as a connect may take. It stays
under the usual limit of 1024 open files; raise both for more."""

KEEPALIVE_SECONDS: Final = 15.0
"""How long an idle connection is kept: shorter than the idle limit of the large providers."""


class UpstreamTimeouts(msgspec.Struct, frozen=True):
    """How long each part of a call may take."""

    connect_seconds: float = 5.0
    """Name look-up, TCP and TLS together, or waiting for a free connection (the official clients'
    figure too)."""
    head_seconds: float = 600.0
    """From the start to the head of the answer; a slow model thinks for minutes."""
    idle_seconds: float = 300.0
    """The longest silence between two pieces of a body."""


class HttpClient:
    """Calls to one origin, over connections that are kept for a while."""

    def __init__(
        self,
        base: str,
        *,
        timeouts: UpstreamTimeouts,
        connections_max: int = CONNECTIONS_MAX,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        tls: SSLContext | None = None,
    ) -> None:
        """Nothing is opened before the first call.

        Args:
            base: A checked base URL: where the servers are, and what errors call them.
            timeouts: How long each part of a call may take.
            connections_max: Calls in flight at once.
            keepalive_seconds: How long an idle connection is kept.
            tls: How to check certificates; the system's authorities if None.
        """
        origin = Origin.of(base)
        self.host = origin.host_header
        """What the header ``Host`` must say."""
        self._base = base
        self._timeouts = timeouts
        self._connect_seconds = min(timeouts.connect_seconds, timeouts.head_seconds)
        self.connections = Connections(
            origin,
            base,
            connections_max=connections_max,
            keepalive_seconds=keepalive_seconds,
            tls=tls,
        )

    async def send(self, request: bytes) -> ArrivingAnswer:
        """Send a whole request, head and body, and wait for the head of the answer.

        Never HEAD or CONNECT: their answers are framed in another way.

        Raises:
            UpstreamNotReachedError: No connection; nothing was sent.
            UpstreamBrokenError: The connection or the time ended after something was sent.
        """
        loop = asyncio.get_running_loop()
        timeouts = self._timeouts
        deadline = loop.time() + timeouts.head_seconds
        wire = self.connections.take()
        if wire is None:
            wire = await self.connections.wait(self._connect_seconds)
        answer = ArrivingAnswer(wire, self._base, timeouts.idle_seconds, loop)
        try:
            wire.begin(answer, request, deadline)
        except WireClosedError as error:
            self.connections.freed(wire, reusable=False)
            message = f"the connection to {self._base} was closed; nothing was sent"
            raise UpstreamNotReachedError(message) from error
        await answer.head(timeouts.head_seconds)
        return answer

    def close(self) -> None:
        """End every connection, running calls included; later calls are not sent."""
        self.connections.close()
