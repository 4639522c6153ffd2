"""The gateway's handler as an ASGI application: the one file that knows the server's protocol.

While a stream is sent, the client is watched: when it goes, the stream is told, charges what was
used, and ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, Self

from farebox.gateway.http import (
    Answer,
    BodyTooLargeError,
    ClientGoneError,
    Handler,
    Headers,
    Presence,
    Request,
    StreamAnswer,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]


SEND_SECONDS_MAX: Final = 120.0
"""How long a client may leave a piece of its stream unread."""


class AsgiGateway:
    """An ASGI application around a handler."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._senders: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; lifespan and other scopes are none of ours."""
        if scope["type"] != "http":
            return
        presence = Presence(lambda: _until_gone(receive))
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers=_headers(scope["headers"]),
            read_body=_BodyReader(receive, scope["headers"]).read,
            presence=presence,
        )
        try:
            answer = await self._handler(request)
            if isinstance(answer, Answer):
                await _send_whole(send, answer)
            else:
                await self._send_stream(presence, send, answer)
        except ClientGoneError:
            return
        finally:
            presence.close()

    async def _send_stream(self, presence: Presence, send: Send, answer: StreamAnswer) -> None:
        """Send pieces until the end; a stream that is told of its client's going ends by itself."""
        sender = asyncio.create_task(_pump(send, answer))
        # Whatever becomes of this task, the stream runs to its end and is charged.
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)
        try:
            await asyncio.wait({sender, presence.watch()}, return_when=asyncio.FIRST_COMPLETED)
            if not sender.done():
                answer.abandon()
                await asyncio.wait({sender})
        except BaseException:
            answer.abandon()
            raise


class _BodyReader:
    """Reads a body up to a limit."""

    def __init__(self, receive: Receive, raw_headers: list[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        self._declared = next((v for k, v in raw_headers if k == b"content-length"), None)

    async def read(self, limit_bytes: int) -> bytes:
        if self._declared is not None and int(self._declared) > limit_bytes:
            raise BodyTooLargeError
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise BodyTooLargeError
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name, value = name_bytes.decode("latin-1"), _text(value_bytes)
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _text(value: bytes) -> str:
    """A header's text: UTF-8 where it is, as labels in people's own languages are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _raw(headers: Headers, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers] + [*more]


async def _send_whole(send: Send, answer: Answer) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": _raw(answer.headers, length),
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


async def _pump(send: Send, answer: StreamAnswer) -> None:
    """Send every piece; should sending fail, read on all the same, so that the call has an end."""
    try:
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": _raw(answer.headers),
            }
        )
        # A client that reads no more must not keep its call, and the upstream, for ever.
        async with _Patience(SEND_SECONDS_MAX) as patience:
            async for chunk in answer.chunks:
                patience.begin()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                patience.end()
        await send({"type": "http.response.body", "body": b""})
    except Exception:  # noqa: BLE001 - whatever the server raises for a connection that is gone
        answer.abandon()
        async for _ in answer.chunks:
            pass


class _Patience:
    """Ends a block with TimeoutError when a part of it, between begin and end, lasts too long.

    One timer for all parts: a timeout for each piece of a stream costs more than the piece.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._over = False

    def begin(self) -> None:
        self._since = self._loop.time()

    def end(self) -> None:
        self._since = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # As asyncio.timeout does it: only a cancellation that is ours becomes another error.
        ours = self._over and self._task is not None and self._task.uncancel() <= 0
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _look(self) -> None:
        now = self._loop.time()
        due = (now if self._since is None else self._since) + self._seconds
        if due <= now and self._task is not None:
            self._over = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_at(due, self._look)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
