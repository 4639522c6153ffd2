"""How an answer leaves the simulated provider: whole or streamed, to its end or an ordered break.

Both kinds are what :class:`~farebox.operations.upstream.UpstreamResponse` asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from typing_extensions import override

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamResponse,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from farebox.providers.simulated.billed import BilledCall
    from farebox.providers.simulated.bodies import Event

_HELD_EVENTS_MAX: Final = 4
"""How many events may share one piece of the stream."""

Headers = tuple[tuple[str, str], ...]


async def hang(
    closed: asyncio.Event, sleep: Callable[[float], Awaitable[object]], limit_seconds: float
) -> None:
    """Do nothing until closed or until a patient client has enough.

    Raises:
        UpstreamTimeoutError: The limit passed.
        UpstreamBrokenError: It was closed before.
    """
    waits = {asyncio.ensure_future(closed.wait()), asyncio.ensure_future(sleep(limit_seconds))}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if closed.is_set():
        raise UpstreamBrokenError("the simulated provider was closed while it hung")
    raise UpstreamTimeoutError(f"the simulated provider was silent for {limit_seconds:g} s")


class WholeReply(UpstreamResponse):
    """An answer whose body is ready."""

    __slots__ = ("_body", "_breaks", "_closed", "_headers", "_status")

    def __init__(self, status: int, headers: Headers, body: bytes, *, breaks: bool = False) -> None:
        self._status = status
        self._headers = headers
        self._body = body
        self._breaks = breaks
        self._closed = False

    @property
    @override
    def status(self) -> int:
        return self._status

    @property
    @override
    def headers(self) -> Headers:
        return self._headers

    @override
    async def read(self, limit_bytes: int) -> bytes:
        if len(self._body) > limit_bytes:
            message = f"the simulated answer is larger than {limit_bytes} bytes"
            raise UpstreamTooLargeError(message)
        if self._breaks or self._closed:
            raise self._broken()
        return self._body

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        if self._closed:
            raise self._broken()
        middle = len(self._body) // 2
        if middle:
            yield self._body[:middle]
        if self._breaks or self._closed:
            raise self._broken()
        yield self._body[middle:]

    @override
    async def close(self) -> None:
        self._closed = True

    def _broken(self) -> UpstreamBrokenError:
        why = "was closed" if self._closed else "broke off in the middle, as ordered"
        return UpstreamBrokenError(f"the simulated answer {why}")


class Delivery(msgspec.Struct, frozen=True):
    """How a stream is sent."""

    draws: Iterator[int]
    """Decides how it is cut into pieces."""
    sleep: Callable[[float], Awaitable[object]]
    event_seconds: float = 0.0
    """The wait before each event."""
    breaks_after: int | None = None
    """Break off once so many events have left."""
    hangs_seconds: float | None = None
    """Instead of breaking off, say nothing for so long."""


class StreamReply(UpstreamResponse):
    """An answer that leaves event by event.

    The pieces are cut by chance: one event, several, or a part of one, as networks do.
    """

    def __init__(
        self,
        headers: Headers,
        events: Iterator[Event],
        call: BilledCall,
        delivery: Delivery,
        *,
        hidden_tokens: int = 0,
    ) -> None:
        """Prepare a stream.

        Args:
            headers: Of the answer.
            events: All of them, in order.
            call: The line in the log that is kept up to date.
            delivery: How to send them.
            hidden_tokens: Billed though never streamed.
        """
        self._headers = headers
        self._events = events
        self._call = call
        self._delivery = delivery
        self._generated_tokens = hidden_tokens
        self._closed = asyncio.Event()

    @property
    @override
    def status(self) -> int:
        return 200

    @property
    @override
    def headers(self) -> Headers:
        return self._headers

    @override
    async def read(self, limit_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in self.chunks():
            size += len(piece)
            if size > limit_bytes:
                await self.close()
                message = f"the simulated stream is larger than {limit_bytes} bytes"
                raise UpstreamTooLargeError(message)
            pieces.append(piece)
        return b"".join(pieces)

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        pending = b""
        held = 0
        sleep, event_seconds = self._delivery.sleep, self._delivery.event_seconds
        try:
            for event in self._events:
                if self._call.events == self._delivery.breaks_after:
                    if pending:
                        yield pending
                    await self._break_off()
                if event_seconds:
                    await sleep(event_seconds)
                if self._closed.is_set():
                    raise UpstreamBrokenError("the simulated stream was closed")
                self._call.events += 1
                self._generated_tokens += event.tokens
                pending += event.data
                held += 1
                size = self._cut(pending, held)
                if size:
                    piece, pending, held = pending[:size], pending[size:], 0
                    await sleep(0)  # others get their turn, as they would with a socket
                    yield piece
            self._finish()
            if pending:
                yield pending
            if self._call.events == self._delivery.breaks_after:
                await self._break_off()
        finally:
            self._call.stop_early("closed", self._generated_tokens)

    @override
    async def close(self) -> None:
        self._closed.set()
        self._call.stop_early("closed", self._generated_tokens)

    def _finish(self) -> None:
        if self._call.outcome == "running":
            self._call.outcome = "complete"

    async def _break_off(self) -> None:
        """The end that was ordered."""
        if self._delivery.hangs_seconds is not None:
            await hang(self._closed, self._delivery.sleep, self._delivery.hangs_seconds)
        self._call.stop_early("broken", self._generated_tokens)
        raise UpstreamBrokenError("the simulated stream broke off, as ordered")

    def _cut(self, pending: bytes, held: int) -> int:
        """How many of the bytes leave now: none, some or all."""
        draw = next(self._delivery.draws)
        if held < _HELD_EVENTS_MAX and draw % 8 in {4, 5}:
            return 0
        if draw % 8 in {6, 7}:
            return 1 + (draw >> 3) % len(pending)
        return len(pending)
