"""An answer on its way from a provider.

Pieces are handed on as they arrive and never piled up: the connection is not read while nobody
takes them. What arrived before a break is handed out before the break is told, because the last
bytes can be the usage that a call is charged by.

Whoever has an answer reads it to its end or closes it; until then it keeps its connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamResponse,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.header_rules import downstream_headers
from farebox.providers.unpacking import Unpacker, UnpackingError, unpacker_of
from farebox.providers.wire import Arrival, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class ArrivingAnswer(Arrival, UpstreamResponse):
    """One answer of a provider, from its request to its end."""

    __slots__ = ("_base", "_headers", "_idle_seconds", "_loop", "_unpacker")

    def __init__(
        self, wire: Wire, base: str, idle_seconds: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(wire)
        self._base = base
        self._idle_seconds = idle_seconds
        self._loop = loop
        self._headers: tuple[tuple[str, str], ...] | None = None
        self._unpacker: Unpacker | None = None

    @property
    @override
    def headers(self) -> tuple[tuple[str, str], ...]:
        if self._headers is None:
            self._headers = downstream_headers(
                (name.decode("latin-1"), value.decode("latin-1").strip(" \t"))
                for name, value in self.lines
            )
        return self._headers

    async def head(self, patience_seconds: float) -> None:
        """Wait until the head is here.

        Raises:
            UpstreamTimeoutError: It did not come in time, which the wire watches.
            UpstreamBrokenError: The connection ended before it, or it makes no sense.
        """
        try:
            while not self.status and self.wire is not None:
                await self._wait()
        except BaseException:
            self._let_go()
            raise
        if not self.status:
            assert self.fault is not None
            kind, reason = self.fault
            if kind is UpstreamTimeoutError:
                raise kind(f"{self._base} gave no answer in {patience_seconds:g} s")
            raise kind(f"{self._base} broke off before its answer: {reason}")
        codings = [
            value.decode("latin-1")
            for name, value in self.lines
            if len(name) == _CODING_LENGTH and name.lower() == b"content-encoding"
        ]
        if codings:
            try:
                self._unpacker = unpacker_of(codings)
            except UnpackingError as error:
                self._let_go()
                raise UpstreamBrokenError(f"{self._base} broke off: {error}") from error

    @override
    async def read(self, limit_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        next_piece = self._next_piece if self._unpacker is None else self._next_unpacked
        try:
            while piece := await next_piece():
                size += len(piece)
                if size > limit_bytes:
                    message = f"the answer of {self._base} is larger than {limit_bytes} bytes"
                    raise UpstreamTooLargeError(message)
                pieces.append(piece)
        finally:
            self._let_go()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        next_piece = self._next_piece if self._unpacker is None else self._next_unpacked
        try:
            while piece := await next_piece():
                yield piece
        finally:
            self._let_go()

    @override
    async def close(self) -> None:
        self._let_go()

    async def _wait(self) -> None:
        """Until the wire tells something."""
        assert self.waiter is None, "an answer has one reader"
        self.waiter = self._loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def _let_go(self) -> None:
        """Break off, if the body is not whole."""
        if self.wire is not None:
            self.wire.drop("it was closed on our side")

    async def _next_piece(self) -> bytes:
        """What has arrived since, or empty at the end."""
        while not self.unread and self.wire is not None:
            self.wire.wake_at(self._loop.time() + self._idle_seconds)
            await self._wait()
        if unread := self.unread:
            piece = unread[0] if len(unread) == 1 else b"".join(unread)
            unread.clear()
            self.unread_bytes = 0
            if self.wire is not None:
                self.wire.read_on()
            return piece
        if self.fault is not None:
            kind, reason = self.fault
            if kind is UpstreamTimeoutError:
                raise kind(f"{self._base} sent nothing for {self._idle_seconds:g} s")
            raise kind(f"{self._base} broke off: {reason}")
        return b""

    async def _next_unpacked(self) -> bytes:
        """The same of a compressed body."""
        unpacker = self._unpacker
        assert unpacker is not None
        try:
            while not (piece := unpacker.take()):
                packed = await self._next_piece()
                if not packed:
                    unpacker.check_end()
                    return b""
                unpacker.add(packed)
        except UnpackingError as error:
            raise UpstreamBrokenError(f"{self._base} broke off: {error}") from error
        return piece


_CODING_LENGTH: Final = len("content-encoding")
