"""What the gateway's handlers see of HTTP: a head and a body in, an answer or a stream out.

No server's types appear here, so that the wire can be replaced without touching what a call means
(DESIGN.md, "Hot path").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import ClassVar, Final

import msgspec

from farebox.kit.errors import FareboxError

WATCH_AFTER_SECONDS: Final = 0.02
"""What takes longer than this is given up when its client goes; most things do not."""

Headers = list[tuple[str, str]]


class BodyTooLargeError(FareboxError):
    """The request's body is larger than the limit."""

    code: ClassVar[str] = "body_too_large"


class ClientGoneError(FareboxError):
    """The client closed the connection before its request was whole."""

    code: ClassVar[str] = "client_gone"


class Presence:
    """Knows whether the client is still there; watches only where something takes long."""

    def __init__(self, until_gone: Callable[[], Awaitable[object]]) -> None:
        """Take what ends when the client goes; it is awaited once at most."""
        self._until_gone = until_gone
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> asyncio.Task[None]:
        """The task that ends when the client goes."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        return self._watcher

    def needed(self) -> WhileHere:
        """Give up what happens inside when the client goes."""
        return WhileHere(self)

    def close(self) -> None:
        """Watch no longer."""
        if self._watcher is not None:
            self._watcher.cancel()
            # Its cancellation remembers where it was, and that leads back here: a circle with the
            # whole request in it, which only the collector would find, late.
            self._watcher = None

    async def _watch(self) -> None:
        await self._until_gone()


class WhileHere:
    """A block that ends with ClientGoneError as soon as the client has gone."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._begin)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.remove_done_callback(self._end)
        if not self._gone or self._task is None:
            return
        # As asyncio.timeout does it: only a cancellation that is ours becomes another error.
        if self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise ClientGoneError from error

    def _begin(self) -> None:
        self._watcher = self._presence.watch()
        self._watcher.add_done_callback(self._end)

    def _end(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled() and watcher.exception() is None and self._task is not None:
            self._gone = True
            self._task.cancel()


class Request(msgspec.Struct):
    """One request; its body is read only when a handler asks for it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; of a repeated header the values joined by a comma."""
    read_body: Callable[[int], Awaitable[bytes]]
    """Reads the whole body, at most that many bytes (raises BodyTooLargeError)."""
    presence: Presence
    """Whether the client is still there; to be asked once the body is read."""


class Answer(msgspec.Struct):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


class StreamAnswer(msgspec.Struct):
    """An answer that comes in pieces."""

    status: int
    headers: Headers
    chunks: AsyncGenerator[bytes, None]
    """Must be read to its end, client or no client: the end is where the call is charged."""
    abandon: Callable[[], None]
    """Says that the client is gone; the pieces then end soon."""


Handler = Callable[[Request], Awaitable[Answer | StreamAnswer]]


def json_answer(
    status: int,
    document: object,
    headers: Headers | None = None,
    *,
    content_type: str = "application/json",
) -> Answer:
    """A JSON answer."""
    return Answer(
        status, [("content-type", content_type), *(headers or [])], msgspec.json.encode(document)
    )
