"""A TCP server that says exactly the bytes a test wants, to play broken and hostile providers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

PATIENCE_SECONDS = 10.0
"""Nothing in a test takes so long; a test that waits in vain fails instead of hanging."""


@dataclass
class Connection:
    """One client's connection, as the script of it sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: ScriptedServer

    async def request(self) -> bytes:
        """Read one whole request and keep it in the server's list."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        whole = head + await self.reader.readexactly(length)
        self.server.requests.append(whole)
        return whole

    async def send(self, data: bytes) -> None:
        """Send bytes now."""
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> None:
        """Wait until the client closes or resets the connection; then note it."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.server.closes.set()

    def reset(self) -> None:
        """Close with a reset instead of a farewell."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


@dataclass
class ScriptedServer:
    """A running one."""

    port: int = 0
    scheme: str = "http"
    requests: list[bytes] = field(default_factory=list)
    """Every request read, head and body."""
    connections: int = 0
    closes: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a script that waits for it saw its client close."""

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    async def saw_close(self) -> None:
        """Wait until a script saw its client close."""
        await asyncio.wait_for(self.closes.wait(), PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def scripted_server(
    *scripts: Script, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Serve each connection with its own script; the last one serves all that follow.

    A script that returns closes its connection in an orderly way.
    """
    running = ScriptedServer(scheme="http" if tls is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = scripts[min(running.connections, len(scripts) - 1)]
        running.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(Connection(reader, writer, running))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away first
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole answer with its length."""
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
