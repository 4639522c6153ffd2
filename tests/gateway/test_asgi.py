"""The handler as an ASGI application: bodies to a limit, streams to their end, clients that go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import suppress
from typing import Any

import pytest

from farebox.gateway.asgi import AsgiGateway
from farebox.gateway.http import (
    Answer,
    BodyTooLargeError,
    ClientGoneError,
    Request,
    StreamAnswer,
)

Message = MutableMapping[str, Any]


class Wire:
    """A server's two ends."""

    def __init__(
        self, *messages: Message, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self.scope: Message = {
            "type": "http",
            "method": "POST",
            "path": "/x",
            "headers": headers or [],
        }
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.fails_after: int | None = None
        self._messages = list(messages)

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.fails_after is not None and len(self.sent) >= self.fails_after:
            raise OSError("the connection is gone")
        self.sent.append(message)


def part(body: bytes, *, more: bool = False) -> Message:
    """A piece of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


async def body_of(wire: Wire, limit_bytes: int = 10) -> bytes | type[Exception]:
    """What a handler reads, or the error it meets."""
    read: list[bytes | type[Exception]] = []

    async def handler(request: Request) -> Answer:
        try:
            read.append(await request.read_body(limit_bytes))
        except (BodyTooLargeError, ClientGoneError) as error:
            read.append(type(error))
            raise
        return Answer(200, [], b"")

    with suppress(BodyTooLargeError):
        await AsgiGateway(handler)(wire.scope, wire.receive, wire.send)
    return read[0]


@pytest.mark.parametrize(
    ("messages", "declared", "read"),
    [
        ([part(b"")], None, b""),
        ([part(b"ab", more=True), part(b"cd")], b"4", b"abcd"),
        ([part(b"0123456789")], b"10", b"0123456789"),
        ([part(b"01234", more=True), part(b"567890")], None, BodyTooLargeError),
        ([part(b"0123456789x")], None, BodyTooLargeError),
        ([], b"11", BodyTooLargeError),
        ([part(b"a", more=True), {"type": "http.disconnect"}], None, ClientGoneError),
        ([{"type": "http.request"}], None, b""),
    ],
    ids=range(8),
)
async def test_bodies(messages: list[Message], declared: bytes | None, read: object) -> None:
    """Read whole up to the limit; refused unread where the length is told."""
    headers = [(b"content-length", declared)] if declared else None
    assert await body_of(Wire(*messages, headers=headers)) == read


async def test_headers() -> None:
    """Repeated headers are joined, and letters of any kind arrive as what they are."""
    seen: list[Request] = []

    async def handler(request: Request) -> Answer:
        seen.append(request)
        return Answer(201, [("x-note", "caf\u00e9 \u20ac")], b"body")

    raw = [(b"a", b"1"), (b"b", "\u00e9\u20ac".encode()), (b"a", b"2"), (b"c", b"\xe9")]
    wire = Wire(headers=raw)
    await AsgiGateway(handler)(wire.scope, wire.receive, wire.send)
    assert seen[0].headers == {"a": "1,2", "b": "\u00e9\u20ac", "c": "\u00e9"}
    start, body = wire.sent
    assert start["status"] == 201
    assert start["headers"] == [(b"x-note", b"caf\xe9 ?"), (b"content-length", b"4")]
    assert body["body"] == b"body"


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes(kind: str) -> None:
    """They are none of ours."""

    async def handler(_: Request) -> Answer:
        raise AssertionError

    wire = Wire()
    wire.scope["type"] = kind
    await AsgiGateway(handler)(wire.scope, wire.receive, wire.send)
    assert wire.sent == []


class Stream:
    """A stream that notes how it was read."""

    def __init__(self, pieces: int = 5) -> None:
        self.abandoned = asyncio.Event()
        self.read = 0
        self.ended = False
        self._pieces = pieces

    async def handler(self, _: Request) -> StreamAnswer:
        return StreamAnswer(200, [("a", "b")], self._chunks(), self.abandoned.set)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self._pieces):
                await asyncio.sleep(0)
                self.read += 1
                yield b"%d" % number
            if self._pieces > 100:
                await self.abandoned.wait()
        finally:
            self.ended = True


async def test_a_stream_is_sent_to_its_end() -> None:
    """Head, pieces, end; the client is not said to be gone."""
    stream, wire = Stream(), Wire()
    await AsgiGateway(stream.handler)(wire.scope, wire.receive, wire.send)
    assert [m.get("body") for m in wire.sent] == [None, b"0", b"1", b"2", b"3", b"4", b""]
    assert [m.get("more_body", False) for m in wire.sent[1:]] == [True] * 5 + [False]
    assert stream.ended
    assert not stream.abandoned.is_set()


@pytest.mark.parametrize("after", range(8))
async def test_sending_fails(after: int) -> None:
    """Wherever the connection breaks, the stream is told and read to its end all the same."""
    stream, wire = Stream(), Wire()
    wire.fails_after = after
    await AsgiGateway(stream.handler)(wire.scope, wire.receive, wire.send)
    assert stream.ended
    assert stream.read == 5
    assert stream.abandoned.is_set() == (after < 7)


async def test_the_client_goes() -> None:
    """The stream is told once, and ends by itself."""
    stream, wire = Stream(10_000), Wire()
    task = asyncio.create_task(AsgiGateway(stream.handler)(wire.scope, wire.receive, wire.send))
    await asyncio.sleep(0.01)
    wire.gone.set()
    await task
    assert stream.abandoned.is_set()
    assert stream.ended


async def test_the_server_stops() -> None:
    """A cancelled task tells its stream, which still runs to its end."""
    stream, wire = Stream(1_000), Wire()
    task = asyncio.create_task(AsgiGateway(stream.handler)(wire.scope, wire.receive, wire.send))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.abandoned.is_set()
    for _ in range(10_000):
        if stream.ended:
            break
        await asyncio.sleep(0)
    assert stream.ended


async def test_a_client_that_reads_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that nobody takes is given up after a while, and the stream ends and is told."""
    monkeypatch.setattr("farebox.gateway.asgi.SEND_SECONDS_MAX", 0.05)
    stream, wire = Stream(), Wire()

    async def send(message: Message) -> None:
        if message.get("body") == b"2":
            await asyncio.sleep(10)
        wire.sent.append(message)

    await AsgiGateway(stream.handler)(wire.scope, wire.receive, send)
    assert stream.abandoned.is_set()
    assert stream.ended
    assert wire.sent[-1]["body"] == b"1"
