"""Clients of the gateway's own server: over a socket, or in memory, turn by turn of the loop."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, cast

from typing_extensions import override

from farebox.assembly.serving import bind
from farebox.gateway.http import Answer, Handler, Request, StreamAnswer, json_answer
from farebox.gateway.server import HttpServer
from farebox.gateway.server_shared import Limits

HOST = b"host: gateway\r\n"
WAIT_SECONDS = 20.0
REQUEST_ID = "req_test"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing resets."""


def request(
    method: str = "GET",
    path: str = "/",
    body: bytes | None = None,
    *lines: str,
    version: str = "1.1",
) -> bytes:
    """A request's bytes."""
    more = [] if body is None else [f"content-length: {len(body)}"]
    fields = "".join(f"{line}\r\n" for line in [*lines, *more])
    head = f"{method} {path} HTTP/{version}\r\n".encode() + HOST + fields.encode("latin-1")
    return head + b"\r\n" + (body or b"")


def chunked(*parts: bytes) -> bytes:
    """A whole body in chunked coding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# The server.


def new_server(handler: Handler, **limits: Any) -> HttpServer:
    """A server that listens nowhere yet."""
    return HttpServer(
        handler,
        refuse=lambda error: error.answer(REQUEST_ID),
        unix_seconds=lambda: 1_790_000_000.0,
        limits=Limits(**({"tick_seconds": 0.01} | limits)),
    )


async def echo(request: Request) -> Answer:
    """Tells what it was asked."""
    body = await request.read_body(1_000_000)
    return json_answer(
        200,
        {
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "body": body.decode("latin-1"),
        },
    )


class Stream:
    """Answers with a stream, and notes how it was read."""

    def __init__(self, parts: Iterable[bytes] = (b"one", b"two"), **answer: Any) -> None:
        self.parts = list(parts)
        self.answer: dict[str, Any] = {"status": 200, "headers": [("a", "b")], **answer}
        self.read = 0
        self.abandoned = asyncio.Event()
        self.ended = asyncio.Event()
        self.pause: asyncio.Event | None = None
        """Waited for at the end, unless it is abandoned before."""

    async def handler(self, request: Request) -> StreamAnswer:
        """The handler."""
        await request.read_body(1_000_000)
        return StreamAnswer(**self.answer, chunks=self._chunks(), abandon=self.abandoned.set)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for part in self.parts:
                await asyncio.sleep(0)
                self.read += 1
                yield part
            if self.pause is not None:
                waiting = [self.pause.wait(), self.abandoned.wait()]
                tasks = [asyncio.ensure_future(one) for one in waiting]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
            yield b""
        finally:
            self.ended.set()


# Over a socket.


@dataclass
class Received:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    pieces: list[bytes] = field(default_factory=list)
    """Of chunked coding."""

    @property
    def json(self) -> Any:
        """Its document."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error in OpenAI's shape."""
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        assert self.headers["x-request-id"] == REQUEST_ID
        return str(self.json["error"]["code"])


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, **how: Any) -> Received:
        """Send bytes and read an answer."""
        await self.send(data)
        return await self.answer(**how)

    async def head(self) -> tuple[int, dict[str, str]]:
        """The next head."""
        async with asyncio.timeout(WAIT_SECONDS):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        protocol, status, _ = first.split(b" ", 2)
        assert protocol == b"HTTP/1.1"
        pairs = [line.decode("latin-1").split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs)
        return int(status), headers

    async def answer(self, *, to_head: bool = False) -> Received:
        """The next answer; one to a HEAD has no body."""
        status, headers = await self.head()
        async with asyncio.timeout(WAIT_SECONDS):
            if to_head or status in {204, 304}:
                return Received(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                assert "content-length" not in headers
                pieces = [piece async for piece in self.pieces()]
                return Received(status, headers, b"".join(pieces), pieces)
            if "content-length" in headers:
                length = int(headers["content-length"])
                return Received(status, headers, await self.reader.readexactly(length))
            assert headers["connection"] == "close"
            return Received(status, headers, await self.reader.read())

    async def pieces(self) -> AsyncIterator[bytes]:
        """Pieces of a chunked body, to its end."""
        while True:
            length = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = await self.reader.readexactly(length + 2)
            assert data[-2:] == b"\r\n"
            if length == 0:
                return
            yield data[:-2]

    async def ended(self) -> bytes:
        """What comes until the server closes, however it does."""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def stop_reading(self) -> None:
        """Leave unread what comes from now on."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    async def go(self, way: str) -> None:
        """Go: with a farewell, a reset, or a farewell in one direction."""
        if way == "half":
            self.writer.write_eof()
            return
        if way == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


@dataclass
class Served:
    """A server on a socket."""

    server: HttpServer
    address: tuple[str, int]
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        """A new connection."""
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    @property
    def connections(self) -> int:
        """How many the server has."""
        return 0 if self.server.shared is None else len(self.server.shared.connections)

    @property
    def running(self) -> int:
        """How many requests it is busy with."""
        return 0 if self.server.shared is None else len(self.server.shared.running)


@asynccontextmanager
async def serving(
    handler: Handler, *, host: str = "127.0.0.1", **limits: Any
) -> AsyncIterator[Served]:
    """Serve a handler on a free port, with these limits."""
    sock = bind(host, 0, variable="port")
    served = Served(new_server(handler, **limits), sock.getsockname()[:2])
    await served.server.start(sock, backlog=100)
    try:
        yield served
    finally:
        for client in served.clients:
            client.writer.transport.abort()
        await served.server.aclose(WAIT_SECONDS)


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not true():  # noqa: ASYNC110 - what is looked at knows no event
            await asyncio.sleep(0.001)


# In memory.


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is written, and can be made stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_reading_paused = False
        self.is_closed = False
        self.has_ended = False
        self.unsent = 0

    @override
    def write(self, data: Any) -> None:
        assert not self.is_closed
        assert not self.has_ended
        self.writes.append(bytes(data))

    @override
    def write_eof(self) -> None:
        self.has_ended = True

    @override
    def pause_reading(self) -> None:
        assert not self.is_reading_paused
        self.is_reading_paused = True

    @override
    def resume_reading(self) -> None:
        assert self.is_reading_paused
        self.is_reading_paused = False

    @override
    def get_write_buffer_size(self) -> int:
        return self.unsent

    @override
    def close(self) -> None:
        self.is_closed = True

    @override
    def abort(self) -> None:
        self.is_closed = True


class MemoryClient:
    """A connection without a socket: nothing happens but in turns of the loop."""

    def __init__(self, server: HttpServer) -> None:
        self.transport = MemoryTransport()
        self.connection = server.connection()
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> Self:
        """Have bytes arrive."""
        self.connection.data_received(data)
        return self

    def hang_up(self) -> None:
        """Go."""
        self.connection.connection_lost(None)

    def is_held_back(self) -> bool:
        """Nothing is read from it for now."""
        return self.transport.is_reading_paused

    def has_received(self) -> bool:
        """Something was sent to it."""
        return bool(self.transport.writes)

    @property
    def received(self) -> bytes:
        """All that was sent to it."""
        return b"".join(self.transport.writes)

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What handles its request."""
        current = self.connection.current
        return None if current is None else current.task
