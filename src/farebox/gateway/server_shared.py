"""What all connections of a server share: its limits, its handler, its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from farebox.gateway.http import Answer, Handler
from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.server_exchange import Exchange

Refuse = Callable[[GatewayError], Answer]
"""Puts an error into an answer with a request id of its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and how long. Times are looked at once in ``tick_seconds``."""

    connections: int = 20_000
    """More are refused with 503: memory is what they cost, a few kilobytes each."""
    head_bytes: int = 64 * 1024
    head_lines: int = 100
    """Official clients send about 20 headers, proxies add a few."""
    unread_body_bytes: int = 64 * 1024
    """Of a body that no handler has asked for yet; then the client waits."""
    later_bytes: int = 64 * 1024
    """Kept of what comes after a request that is being answered; then the client waits.

    Not zero: only who reads on sees a client go.
    """
    pipelined: int = 64
    """Requests that came in one piece and wait their turn; with more of them the last is closed."""
    idle_seconds: float = 75.0
    """Between two requests; more than the usual minute of proxies and pools."""
    head_seconds: float = 20.0
    """From a head's first byte to its last."""
    body_pause_seconds: float = 30.0
    """Without a byte of a body that is being read."""
    body_seconds: float = 600.0
    """For a whole body."""
    spill_seconds: float = 30.0
    """For the rest of a body after its answer, so that a client that is still sending sees it."""
    linger_seconds: float = 5.0
    """Between our last byte and the client's: closed at once, our answer might never be read."""
    send_seconds: float = 120.0
    """How long a client may take nothing of what we send."""
    tick_seconds: float = 1.0


class Watched(Protocol):
    """A connection, as far as its server needs it."""

    def look(self, now: float) -> None:
        """End what lasts too long."""

    def stop(self) -> None:
        """Close at once where nothing is under way; else after the answer."""

    def abort(self) -> None:
        """Close now, whatever is under way."""


class Shared:
    """What connections see of their server."""

    __slots__ = (
        "_emptied",
        "connections",
        "date_line",
        "handler",
        "is_stopping",
        "limits",
        "loop",
        "now",
        "refuse",
        "running",
    )

    def __init__(
        self, handler: Handler, refuse: Refuse, limits: Limits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.limits = limits
        self.loop = loop
        self.now = loop.time()
        """The loop's time at the last tick: a deadline need not be finer."""
        self.date_line = ""
        self.connections: set[Watched] = set()
        self.running: set[Exchange] = set()
        self.is_stopping = False
        self._emptied = asyncio.Event()

    def note_end(self) -> None:
        """A connection or a request has ended."""
        if self.is_stopping and not self.connections and not self.running:
            self._emptied.set()

    async def until_empty(self, seconds: float) -> bool:
        """Wait until nothing is left, at most so long; says whether that is so."""
        self.note_end()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._emptied.wait()
        return self._emptied.is_set()
