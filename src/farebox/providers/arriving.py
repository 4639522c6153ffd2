"""An answer on its way from a provider, over aiohttp.

Pieces are handed on as they arrive and never piled up: aiohttp stops reading the connection while
nobody takes them. What arrived before a break is handed out before the break is told, because the
last bytes can be the usage that a call is charged by.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from typing_extensions import override

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamResponse,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.header_rules import downstream_headers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

TALK_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""What aiohttp raises while it talks: its own errors, a malformed head or chunk, a bare error of
the socket, and RuntimeError for a connection that was closed under a reader."""

_REASON_LENGTH_MAX: Final = 200


def reason_of(error: BaseException) -> str:
    """What happened, in a few words; never a byte of what the provider said."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(cause).__name__}: {cause.strerror}"[:_REASON_LENGTH_MAX]
    return type(cause).__name__


class ArrivingAnswer(UpstreamResponse):
    """One answer of a provider, from its head to its end."""

    __slots__ = ("_answer", "_base", "_broken", "_headers", "_idle_seconds")

    def __init__(self, answer: aiohttp.ClientResponse, base: str, idle_seconds: float) -> None:
        self._answer = answer
        self._base = base
        self._idle_seconds = idle_seconds
        self._headers = downstream_headers(answer.headers.items())
        self._broken: BaseException | None = None
        self._watch_connection()

    @property
    @override
    def status(self) -> int:
        return self._answer.status

    @property
    @override
    def headers(self) -> tuple[tuple[str, str], ...]:
        return self._headers

    @override
    async def read(self, limit_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for piece in chunks:
                size += len(piece)
                if size > limit_bytes:
                    message = f"the answer of {self._base} is larger than {limit_bytes} bytes"
                    raise UpstreamTooLargeError(message)
                pieces.append(piece)
        return b"".join(pieces)

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        whole = False
        try:
            while piece := await self._next_piece():
                yield piece
            whole = True
        finally:
            if not whole:  # broken, or the reader went away
                await self.close()

    @override
    async def close(self) -> None:
        connection = self._answer.connection
        transport = None if connection is None else connection.transport
        self._answer.close()
        if transport is not None:
            # Not only close(): that waits until everything written has left, and with TLS for the
            # other side's farewell, while the provider goes on working.
            transport.abort()

    def _watch_connection(self) -> None:
        """See to it that the reader hears of the connection's end.

        aiohttp 3.14 does not tell it when a chunk is malformed: it closes the connection, and the
        reader would wait out its whole patience.
        """
        content = self._answer.content

        def lost(closed: asyncio.Future[None] | None) -> None:
            if closed is not None and not closed.cancelled():
                closed.exception()  # looked at, so that asyncio does not complain
            if not content.is_eof() and content.exception() is None:
                content.set_exception(aiohttp.ClientPayloadError("the connection ended"))

        connection = self._answer.connection
        if connection is None or connection.protocol is None:
            return  # the whole answer came with its head
        closed = connection.protocol.closed
        if closed is None:
            lost(None)
        else:
            closed.add_done_callback(lost)
            content.on_eof(lambda: _forget(closed, lost))

    async def _next_piece(self) -> bytes:
        """What has arrived since, or empty at the end."""
        if self._broken is not None:
            raise self._broken_off() from self._broken
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._answer.content.readany()
        except TimeoutError as error:
            message = f"{self._base} sent nothing for {self._idle_seconds:g} s"
            raise UpstreamTimeoutError(message) from error
        except TALK_ERRORS as error:
            self._broken = error
            if rescued := _take_arrived(self._answer.content):
                return rescued
            raise self._broken_off() from error

    def _broken_off(self) -> UpstreamBrokenError:
        assert self._broken is not None
        return UpstreamBrokenError(f"{self._base} broke off: {reason_of(self._broken)}")


def _take_arrived(content: aiohttp.StreamReader) -> bytes:
    """What arrived whole before a break.

    aiohttp's reader forgets it and raises at once; but the last bytes before a break can be the
    usage that a call is charged by.
    """
    arrived = b"".join(content._buffer)  # noqa: SLF001 - there is no public way
    content._buffer.clear()  # noqa: SLF001
    return arrived


def _forget(closed: asyncio.Future[None], lost: Callable[[asyncio.Future[None]], None]) -> None:
    closed.remove_done_callback(lost)
