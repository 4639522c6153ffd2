"""One request on its way in, as its handler and its connection see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from farebox.gateway.http import BodyTooLargeError


class Line(Protocol):
    """The connection, as far as a request's body needs it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it runs."""

    def write_continue(self) -> None:
        """Have the client send its body."""

    def read_on(self) -> None:
        """Read again, if reading was held back."""


class Exchange:
    """A request whose head has come; its body may still be coming."""

    __slots__ = (
        "_body",
        "_failure",
        "_limit_bytes",
        "_line",
        "_waiter",
        "abandon",
        "body_until",
        "expects",
        "headers",
        "is_answered",
        "is_begun",
        "is_last",
        "is_plain",
        "is_whole",
        "method",
        "path",
        "size",
        "task",
    )

    def __init__(
        self,
        line: Line,
        method: str,
        path: str,
        headers: dict[str, str],
    ) -> None:
        self._line = line
        self.method = method
        self.path = path
        self.headers = headers
        self.is_plain = False
        """HTTP/1.0: its client knows no chunked coding."""
        self.is_last = False
        """The connection closes after its answer."""
        self.expects = False
        """The client waits for a word before it sends the body."""
        self.is_whole = False
        """Its last byte has come."""
        self.is_begun = False
        """Something of its answer was written."""
        self.is_answered = False
        """All of its answer was written."""
        self.abandon: Callable[[], None] | None = None
        """Told when the client goes while a stream is sent."""
        self.task: asyncio.Task[None] | None = None
        self.size = 0
        """Bytes of the body so far."""
        self.body_until = 0.0
        self._body: bytes | bytearray | None = b""
        """What has come; None where it is thrown away."""
        self._limit_bytes: int | None = None
        self._failure: Callable[[], Exception] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # The handler's side.

    async def read_body(self, limit_bytes: int) -> bytes:
        """The whole body; once.

        Raises:
            BodyTooLargeError: It is, or says that it will be, larger than that.
            ClientGoneError: The client went before its end.
            GatewayError: It was no body, or too slow.
        """
        declared = self.headers.get("content-length")
        if self.size > limit_bytes or (declared is not None and int(declared) > limit_bytes):
            raise BodyTooLargeError
        if not self.is_whole and self._failure is None:
            self._limit_bytes = limit_bytes
            if self.expects:
                self.expects = False
                self._line.write_continue()
            self._line.read_on()
            self._waiter = self._line.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._failure is not None:
            # Made anew and kept nowhere: an error that we keep would lead back to us.
            raise self._failure()
        body, self._body = self._body or b"", None
        return bytes(body)  # which costs nothing where it came in one piece

    # The connection's side.

    @property
    def unread_bytes(self) -> int:
        """Of the body, kept without anybody's asking for it."""
        return 0 if self._body is None or self._waiter is not None else self.size

    def take(self, part: bytes) -> None:
        """A piece of the body."""
        self.size += len(part)
        if self._body is None:
            return
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part  # however small the pieces, it takes no more than its size
        if self._limit_bytes is not None and self.size > self._limit_bytes:
            self.fail(BodyTooLargeError)

    def end(self) -> None:
        """The body's last byte has come."""
        self.is_whole = True
        self._wake()

    def fail(self, failure: Callable[[], Exception]) -> None:
        """The body will not come, and why."""
        if self._failure is None and not self.is_whole:
            self._failure = failure
            self.spill()
            self._wake()

    def spill(self) -> None:
        """Keep nothing of the body any more."""
        self._body = None

    def stop(self) -> None:
        """End it: the server's time is up."""
        # A stream hears of its connection's end, and ends by itself, charged.
        if self.abandon is None and self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
