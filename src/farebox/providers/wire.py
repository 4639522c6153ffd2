"""One connection to a provider: HTTP/1.1 on ``httptools``, one call at a time.

What a wire knows for sure, the money rests on: whether anything of a request was given to the
connection, and whether an answer came to its end. An answer is whole only where its framing says
so: all bytes of its length, the last chunk, or, with neither, an orderly end of the connection.

A wire is used again only after a whole answer on a connection that the provider keeps open, with
nothing left to send and nothing received beyond the answer. It is always dropped, never closed
slowly: a provider must not get, and work on, the rest of a request that nobody waits for.
"""

from __future__ import annotations

import asyncio
import errno
import os
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from typing_extensions import override

from farebox.operations.upstream import UpstreamBrokenError, UpstreamTimeoutError

if TYPE_CHECKING:
    from ssl import SSLContext

HEAD_BYTES_MAX: Final = 64 * 1024
"""What a head may have, interim answers before it included, and how much of anything else may come
between two bytes of a body (chunk extensions, trailers)."""

UNREAD_BYTES_MAX: Final = 128 * 1024
"""How much of a body waits for its reader before the connection is no longer read; one piece more
than that can be on its way."""

_EARLY_SECONDS: Final = 0.001
"""How much too early a timer may be: clocks of event loops are that coarse."""


class WireClosedError(Exception):
    """The connection was closed before the first byte of a request was given to it."""


class Arrival:
    """An answer that a wire fills: the half of it that wires know."""

    __slots__ = ("fault", "lines", "status", "unread", "unread_bytes", "waiter", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire: Wire | None = wire
        """Where it arrives; None when it is whole or broken."""
        self.status = 0
        """The HTTP status; 0 until the head is here."""
        self.lines: list[tuple[bytes, bytes]] = []
        """The lines of the head as they came."""
        self.unread: list[bytes] = []
        """The body as it came, without what its reader has taken."""
        self.unread_bytes = 0
        self.waiter: asyncio.Future[None] | None = None
        """The reader, where it waits for more."""
        self.fault: tuple[type[UpstreamBrokenError], str] | None = None
        """Why it is broken, in place of an error, which would know who raised it."""

    def wake(self) -> None:
        """Something is here, or all is over."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self) -> None:
        """It is whole."""
        self.wire = None
        self.wake()

    def break_off(self, reason: str, *, in_time: bool) -> None:
        """The connection ended before it was whole, or its reader lost patience."""
        self.fault = (UpstreamBrokenError if in_time else UpstreamTimeoutError, reason)
        self.end()


class Owner(Protocol):
    """Who keeps the wires."""

    def opened(self, wire: Wire) -> None:
        """A connection came about."""

    def freed(self, wire: Wire, *, reusable: bool) -> None:
        """The call on this wire is over."""

    def lost(self, wire: Wire) -> None:
        """The connection ends; it may be told more than once."""


class Wire(asyncio.Protocol):
    """A connection, and the answer that is arriving on it."""

    __slots__ = (
        "_answer",
        "_between_bytes",
        "_deadline",
        "_fault",
        "_has_framing",
        "_head_bytes",
        "_head_is_read",
        "_is_done",
        "_is_paused",
        "_is_reusable",
        "_loop",
        "_owner",
        "_parser",
        "_timer",
        "_timer_at",
        "_transport",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._answer: Arrival | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._deadline = inf
        self._is_paused = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._between_bytes = 0
        self._fault = ""
        self._has_framing = False
        self._head_bytes = 0
        self._head_is_read = False
        self._is_done = False
        self._is_reusable = False

    # What its users do.

    @property
    def is_open(self) -> bool:
        """Whether a request may be given to it, as far as anybody knows by now."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, answer: Arrival, request: bytes, deadline: float) -> None:
        """Give a whole request to the connection, in one write, and let its answer arrive.

        Args:
            answer: What fills.
            request: Head and body.
            deadline: By the loop's clock, when the head must be here.

        Raises:
            WireClosedError: The connection is closed; none of the request was given to it.
        """
        if self._transport is None or self._transport.is_closing():
            raise WireClosedError
        assert self._answer is None
        if self._parser is None:
            self._parser = HttpResponseParser(self)
            # As lenient as servers in the field need it (RFC 9112 sections 2.2 and 7.1.1).
            self._parser.set_dangerous_leniencies(
                lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
            )
        self._start_afresh()
        self._answer = answer
        self.wake_at(deadline)
        self._transport.write(request)

    async def secure(self, tls: SSLContext, name: str) -> None:
        """Agree on TLS before the first call; whoever is cancelled or fails here drops the wire.

        Raises:
            OSError: The other side cannot, or is not who it should be.
        """
        plain, secured = self._transport, None
        if plain is not None and not plain.is_closing():
            secured = await self._loop.start_tls(plain, self, tls, server_hostname=name)
        # An event loop may take a connection that is dropped meanwhile for an agreement.
        if secured is None or self._transport is not plain or not self.is_open:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._transport = secured

    def wake_at(self, deadline: float) -> None:
        """When, by the loop's clock, patience with what is awaited now is over.

        A timer that rings too early costs less than one that is set for every wait.
        """
        self._deadline = deadline
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._ring)
            self._timer_at = deadline

    def read_on(self) -> None:
        """The reader has taken what had piled up."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def drop(self, reason: str = "", *, in_time: bool = True) -> None:
        """End the connection at once, and the call on it as broken for that reason."""
        answer, self._answer = self._answer, None
        self._owner.lost(self)
        if answer is not None:
            answer.break_off(reason, in_time=in_time)
            self._owner.freed(self, reusable=False)
        if self._transport is not None:
            self._transport.abort()

    # What the event loop tells.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)

    @override
    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._parser is None:
            self.drop()  # nobody asked for anything
            return
        self._between_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._is_reusable = False
            # The parser's words are its own, never the provider's.
            self._fault = self._fault or f"no proper HTTP answer ({error})"
        if self._is_done:
            self._finish(answer)
        elif self._fault:
            self.drop(self._fault)
        elif self._between_bytes > HEAD_BYTES_MAX:
            self.drop("its head is too large")
        elif self._head_is_read:
            self._deadline = inf  # until the reader waits for more
            if answer.unread_bytes > UNREAD_BYTES_MAX and not self._is_paused:
                self._is_paused = True
                assert self._transport is not None
                self._transport.pause_reading()
            answer.wake()

    @override
    def eof_received(self) -> None:
        answer = self._answer
        if answer is not None and self._head_is_read and not self._has_framing:
            self._is_reusable = False
            self._finish(answer)
        else:
            self.drop("the connection ended")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.drop(reason_of(exc) if exc else "the connection ended")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser = None  # it keeps us: nothing shall go round in circles

    def _ring(self) -> None:
        self._timer = None
        self._timer_at = inf
        if self._deadline - self._loop.time() > _EARLY_SECONDS:
            if self._deadline < inf:
                self.wake_at(self._deadline)
        else:
            self.drop(in_time=False)

    def _finish(self, answer: Arrival) -> None:
        """The answer is whole."""
        transport = self._transport
        assert transport is not None
        reusable = (
            self._is_reusable
            and not transport.is_closing()
            # An answer that came before the request had left: its rest must not leave any more.
            and transport.get_write_buffer_size() == 0
        )
        self._answer = None
        answer.end()
        if reusable:
            self.read_on()
            self._owner.freed(self, reusable=True)
        else:
            self._owner.freed(self, reusable=False)
            self.drop()

    # What the parser tells.

    def on_message_begin(self) -> None:
        """An answer begins: an interim one, the answer, or what nobody asked for."""
        if self._is_done:
            raise _NotAskedForError

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of a head, or a trailer, which says nothing that is needed here."""
        if self._head_is_read:
            return
        assert self._answer is not None
        self._answer.lines.append((name, value))
        self._head_bytes += len(name) + len(value) + 4  # with its colon and its line's end
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse("its head is too large")
        if len(name) in _FRAMING_LENGTHS:
            name = name.lower()
            if name == b"content-length":
                self._has_framing = True
            elif name == b"transfer-encoding":
                self._has_framing = True
                if value.strip().lower() != b"chunked":
                    self._refuse("its transfer coding is not known")

    def on_headers_complete(self) -> None:
        """A head is whole."""
        assert self._parser is not None
        assert self._answer is not None
        status = self._parser.get_status_code()
        if status < 200:
            if not 100 <= status <= 199 or status == 101:
                self._refuse("it changes the protocol")
            return
        self._head_is_read = True
        self._answer.status = status

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        assert self._answer is not None
        self._between_bytes = 0
        self._answer.unread.append(piece)
        self._answer.unread_bytes += len(piece)

    def on_message_complete(self) -> None:
        """An answer is whole; an interim one is forgotten."""
        assert self._parser is not None
        assert self._answer is not None
        if self._head_is_read:
            self._is_done = True
            self._is_reusable = self._parser.should_keep_alive()
        else:
            self._answer.lines.clear()
            self._has_framing = False

    def _refuse(self, reason: str) -> None:
        self._fault = reason
        raise _NotAskedForError


class _NotAskedForError(Exception):
    """Stops the parser."""


_FRAMING_LENGTHS: Final = frozenset({len("content-length"), len("transfer-encoding")})

_REASON_LENGTH_MAX: Final = 200


def reason_of(error: BaseException) -> str:
    """What happened, in a few words; never a byte of what the provider said."""
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"[:_REASON_LENGTH_MAX]
    return type(error).__name__
