"""One connection: bytes in, requests to the handler one after the other, answers out.

A request whose head and body came together is parsed, handled and answered with one task and one
write. Requests that come before their turn wait, within limits. However the connection ends, the
handler's stream is read to its end, because that is where its call is charged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Final, cast

from typing_extensions import override

from farebox.gateway.desk import logger
from farebox.gateway.http import Answer, ClientGoneError, Presence, Request, StreamAnswer
from farebox.gateway.openai_errors import GatewayError, internal
from farebox.gateway.server_exchange import Exchange
from farebox.gateway.server_faults import too_many_connections, too_slow
from farebox.gateway.server_parser import Fault, RequestParser
from farebox.gateway.server_shared import Shared
from farebox.gateway.server_wire import (
    CHUNKED,
    CLOSING,
    CONTINUE,
    LAST_PIECE,
    NO_BODY,
    head,
    piece,
)

JOINED_BYTES_MAX: Final = 64 * 1024
"""A larger body is written beside its head: joining them would cost more than a second piece."""


class Connection(asyncio.Protocol):
    """A client's connection."""

    __slots__ = (
        "_deadline",
        "_drained",
        "_fault",
        "_is_closing",
        "_is_deaf",
        "_is_gone",
        "_is_reading",
        "_is_stuck",
        "_later",
        "_parser",
        "_queue",
        "_transport",
        "_unsent",
        "_until_gone",
        "current",
        "shared",
    )

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until it is made
        self._parser = RequestParser(self, shared.limits)
        self._deadline = 0.0
        self.current: Exchange | None = None
        """The request that is being answered."""
        # Those that wait, and bytes that nobody has parsed yet.
        self._queue: deque[Exchange] = deque()
        self._later = bytearray()
        self._fault: Fault | None = None
        """What to say when all of them have their answers."""
        self._is_reading = True
        self._is_deaf = False
        """Whatever comes is thrown away: there is no further request."""
        self._is_closing = False
        self._is_gone = False
        self._is_stuck = False
        """The client takes less than we send."""
        self._unsent = 0
        self._drained: asyncio.Future[None] | None = None
        self._until_gone: asyncio.Future[None] | None = None

    # What the transport calls.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self._transport = cast("asyncio.Transport", transport)
        shared = self.shared
        shared.connections.add(self)
        self._rest()
        if len(shared.connections) > shared.limits.connections:
            self._refuse(too_many_connections)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self.current is None or self._parser.incoming is self.current:
            self._feed(data)
            return
        # A request before its turn.
        self._later += data
        if len(self._later) > self.shared.limits.later_bytes:
            self.hold_back()

    @override
    def eof_received(self) -> None:
        # A client that says goodbye in one direction has gone: none of ours does it and stays.
        self._lose()
        self._is_closing = True
        self._rest_until(self.shared.limits.send_seconds)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()
        self._parser.close()
        self.shared.connections.discard(self)
        self.shared.note_end()

    @override
    def pause_writing(self) -> None:
        self._is_stuck = True
        self._unsent = self._transport.get_write_buffer_size()
        self._deadline = self.shared.now + self.shared.limits.send_seconds

    @override
    def resume_writing(self) -> None:
        self._is_stuck = False
        self._rest()
        _wake(self._drained)

    # What the server calls.

    def look(self, now: float) -> None:
        """End what lasts too long."""
        incoming = self._parser.incoming
        if self._is_stuck:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:  # slow, but it reads
                self._unsent = unsent
                self._deadline = now + self.shared.limits.send_seconds
            elif now >= self._deadline:
                self.abort()
        elif now < self._deadline:
            return
        elif self._is_closing:
            self.abort()
        elif self.current is not None:
            if incoming is self.current and self._is_reading:
                self._break_off(incoming, partial(too_slow, "body"))
        elif incoming is None and self._parser.in_head:
            self._refuse(partial(too_slow, "head"))
        else:
            self._close()

    def stop(self) -> None:
        """Close at once where nothing is under way; else after the answer."""
        if self.current is None and not self._parser.in_head and self._parser.incoming is None:
            self._close()

    def abort(self) -> None:
        """Close now, whatever is under way."""
        self._lose()
        self._transport.abort()

    # What requests call.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it runs."""
        return self.shared.loop

    def write_continue(self) -> None:
        """Have the client send its body."""
        self._write(CONTINUE)

    def read_on(self) -> None:
        """Read again, if reading was held back."""
        if not self._is_reading and not self._is_gone:
            self._is_reading = True
            self._transport.resume_reading()
            self._rest()

    async def until_gone(self) -> None:
        """Return when the client has gone."""
        if not self._is_gone:
            waiting = self._until_gone = self.shared.loop.create_future()
            try:
                await waiting
            finally:
                if self._until_gone is waiting:  # and not the next request's
                    self._until_gone = None

    # What the parser calls.

    def accept(self, exchange: Exchange) -> bool:
        """Take a request whose head is whole; False where too many wait already."""
        if self.current is None:
            self._begin(exchange)
        elif len(self._queue) < self.shared.limits.pipelined:
            self._queue.append(exchange)
        else:
            return False
        return True

    def note_whole(self, exchange: Exchange) -> None:
        """All of a request has come."""
        if exchange.is_last:
            self._is_deaf = True
        if self.current is None:
            self._rest()

    def hold_back(self) -> None:
        """Let the client wait."""
        if self._is_reading and not self._is_gone:
            self._is_reading = False
            self._transport.pause_reading()

    # Reading.

    def _feed(self, data: bytes) -> None:
        parser = self._parser
        before, was_in_head = parser.incoming, parser.in_head
        fault = parser.feed(data)
        if fault is not None:
            if not self._is_deaf:  # what comes after the last request is nobody's
                self._misread(fault)
        elif parser.incoming is not None:
            if parser.incoming is not before:
                parser.incoming.body_until = self.shared.now + self.shared.limits.body_seconds
            self._rest()
        elif parser.in_head and not was_in_head:
            self._rest()

    def _misread(self, fault: Fault) -> None:
        """What follows cannot be told apart: refuse it once its turn comes, then close."""
        self._is_deaf = True
        exchange, self._parser.incoming = self._parser.incoming, None
        if exchange is not None:
            self._break_off(exchange, fault)
            if self.current is None:  # it had its answer
                self._close()
        elif self.current is not None:
            self._fault = fault
        else:
            self._refuse(fault)

    def _break_off(self, exchange: Exchange, fault: Fault) -> None:
        """The rest of a body will not be waited for."""
        self._is_deaf = True
        exchange.is_last = True
        exchange.fail(fault)

    # Requests.

    def _begin(self, exchange: Exchange) -> None:
        shared = self.shared
        self.current = exchange
        shared.running.add(exchange)
        exchange.task = shared.loop.create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        presence = Presence(self.until_gone)
        try:
            answer = await self.shared.handler(
                Request(
                    exchange.method, exchange.path, exchange.headers, exchange.read_body, presence
                )
            )
            if isinstance(answer, Answer):
                self._send_whole(exchange, answer)
            else:
                await self._send_stream(exchange, answer)
        except ClientGoneError:
            pass
        except Exception as error:  # noqa: BLE001 - the server's last door: it must go on
            exchange.is_last = True
            if not isinstance(error, GatewayError):  # of the body, where the handler lets it pass
                logger.exception("answer_failed", path=exchange.path)
                error = internal(error)
            if not exchange.is_begun:
                self._send_whole(exchange, self.shared.refuse(error))
        finally:
            presence.close()
            self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        """A request has had its answer, or will have none."""
        shared = self.shared
        exchange.task = self.current = None
        shared.running.discard(exchange)
        shared.note_end()
        if self._is_gone:
            return
        if not exchange.is_answered:
            self._close()
        elif exchange.is_last or shared.is_stopping:
            self._close(linger=not exchange.is_whole or bool(self._later))
        elif not exchange.is_whole:
            exchange.spill()
            exchange.body_until = shared.now + shared.limits.spill_seconds
            self.read_on()
            self._rest()
        else:
            self._next()

    def _next(self) -> None:
        """Take up what has come meanwhile."""
        if self._queue:
            self._begin(self._queue.popleft())
        elif self._fault is not None:
            self._refuse(self._fault)
            return
        if self._later and (self.current is None or self.current is self._parser.incoming):
            data, self._later = bytes(self._later), bytearray()
            if not self._is_deaf:
                self._feed(data)
        if len(self._later) <= self.shared.limits.later_bytes:
            self.read_on()
        self._rest()

    # Answers.

    def _send_whole(self, exchange: Exchange, answer: Answer) -> None:
        body, status = answer.body, answer.status
        framing = self._framing(exchange)
        if status not in NO_BODY:
            framing += f"content-length: {len(body)}\r\n"
        data = head(status, answer.headers, framing)
        if exchange.method == "HEAD" or status in NO_BODY:
            body = b""
        exchange.is_begun = exchange.is_answered = True
        if len(body) > JOINED_BYTES_MAX:
            self._write(data)
            self._write(body)
        else:
            self._write(data + body)

    async def _send_stream(self, exchange: Exchange, answer: StreamAnswer) -> None:
        """Send pieces as they come; read on to the end though nobody takes them any more."""
        exchange.abandon = answer.abandon
        if self._is_gone:
            answer.abandon()
        try:
            is_mute = exchange.method == "HEAD" or answer.status in NO_BODY
            is_chunked = not exchange.is_plain and not is_mute
            framing = self._framing(exchange)
            data = head(answer.status, answer.headers, framing + CHUNKED * is_chunked)
            exchange.is_begun = True
            self._write(data)
            async for part in answer.chunks:
                if self._is_gone or is_mute or not part:
                    continue
                self._transport.write(piece(part) if is_chunked else part)
                if self._is_stuck:
                    await self._until_drained()
        except BaseException:
            answer.abandon()
            async for _ in answer.chunks:
                pass
            raise
        finally:
            exchange.abandon = None
        if is_chunked:
            self._write(LAST_PIECE)
        exchange.is_answered = True

    def _framing(self, exchange: Exchange) -> str:
        """The date, and whether the connection closes: decided here, for the head says it."""
        shared = self.shared
        if shared.is_stopping or (exchange.expects and not exchange.is_whole):
            exchange.is_last = True
        return shared.date_line + CLOSING if exchange.is_last else shared.date_line

    def _refuse(self, fault: Fault) -> None:
        """Say what was wrong, outside of any request, and close."""
        self._fault = None
        self._is_deaf = True
        answer = self.shared.refuse(fault())
        length = f"content-length: {len(answer.body)}\r\n"
        framing = f"{self.shared.date_line}{CLOSING}{length}"
        self._write(head(answer.status, answer.headers, framing) + answer.body)
        self._close(linger=True)

    # The transport.

    def _write(self, data: bytes) -> None:
        if not self._is_gone:
            self._transport.write(data)

    async def _until_drained(self) -> None:
        self._drained = self.shared.loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def _rest(self) -> None:
        """Set the time by which something has to come."""
        if self._is_stuck or self._is_closing:
            return
        now, limits, incoming = self.shared.now, self.shared.limits, self._parser.incoming
        if incoming is not None:
            self._deadline = min(now + limits.body_pause_seconds, incoming.body_until)
        elif self._parser.in_head:
            self._deadline = now + limits.head_seconds
        else:
            self._deadline = now + limits.idle_seconds

    def _rest_until(self, seconds: float) -> None:
        if not self._is_stuck:
            self._deadline = self.shared.now + seconds

    def _close(self, *, linger: bool = False) -> None:
        """Close once everything is sent; with patience for a client that is still sending."""
        if self._is_gone or self._is_closing:
            return
        self._is_deaf = True
        limits = self.shared.limits
        if linger:
            self.read_on()
            self._transport.write_eof()
        else:
            self._transport.close()
        self._is_closing = True
        self._rest_until(limits.linger_seconds if linger else limits.send_seconds)

    def _lose(self) -> None:
        """The client has gone: tell whom it concerns."""
        if self._is_gone:
            return
        self._is_gone = self._is_deaf = True
        if self._parser.incoming is not None:
            self._parser.incoming.fail(ClientGoneError)
            self._parser.incoming = None
        self._queue.clear()
        self._later.clear()
        _wake(self._until_gone)
        _wake(self._drained)
        if self.current is not None and self.current.abandon is not None:
            self.current.abandon()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
