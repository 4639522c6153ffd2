"""A TCP proxy in front of PostgreSQL that breaks connections in every way a network does.

Seeded: the same seed makes the same choices, in the order that they are asked for. Everything it
does to a connection it does to bytes on their way; it understands one thing about them, the tag by
which the server says that a transaction has been committed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg

CHUNK_BYTES = 64 * 1024

COMMITTED = b"COMMIT\x00"
"""The end of the server's message that a transaction is durable."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends a reset instead of a farewell."""


class Link:
    """One client's connection, and ours to the server."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.flows = asyncio.Event()
        self.flows.set()
        self.is_dead = False
        """A black hole: nothing arrives any more, and nobody is told."""

    def reset(self) -> None:
        """Break it so that both ends notice."""
        for writer in (self.near, self.far):
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own and passes everything on to a server's UNIX socket."""

    def __init__(self, server_socket: str, *, seed: int) -> None:
        """Choose the server; every fault is off."""
        self.links: list[Link] = []
        self.resets = 0
        self.lost_commits = 0
        self.latency_seconds = 0.0
        """Of every piece, in each direction, at most."""
        self.dribble_bytes = 0
        """How many bytes travel at once; zero for all that are there."""
        self.lose_commits = 0.0
        """Share of commits whose acknowledgement is swallowed, with a reset after it."""
        self.refuses = False
        """New connections are reset."""
        self.swallows = False
        """New connections are black holes from the start."""
        self._server_socket = server_socket
        self._chance = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in self.links:
            link.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    # Faults.

    def reset(self, share: float = 1.0) -> None:
        """Break this share of the connections."""
        for link in self._some(share):
            self.resets += 1
            link.reset()

    async def stall(self, seconds: float, share: float = 1.0) -> None:
        """Let nothing through for a while, then go on as if nothing had been."""
        stalled = self._some(share)
        for link in stalled:
            link.flows.clear()
        await asyncio.sleep(seconds)
        for link in stalled:
            link.flows.set()

    def swallow(self, share: float = 1.0) -> None:
        """Turn connections into black holes: open for both ends, and silent for ever."""
        for link in self._some(share):
            link.is_dead = True

    def heal(self) -> None:
        """Turn every fault off; black holes are broken so that both ends notice."""
        self.latency_seconds = self.lose_commits = 0.0
        self.dribble_bytes = 0
        self.refuses = self.swallows = False
        for link in self.links:
            link.flows.set()
            if link.is_dead:
                link.reset()

    def _some(self, share: float) -> list[Link]:
        return [link for link in self.links if self._chance.random() < share]

    # Traffic.

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, server_writer)
        link.is_dead = self.swallows
        self.links.append(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, server_writer))
                pumps.create_task(self._pump(link, server_reader, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            link.reset()
            self.links.remove(link)

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await link.flows.wait()
            if self.latency_seconds:
                await asyncio.sleep(self._chance.uniform(0, self.latency_seconds))
            if link.is_dead:
                continue
            if writer is link.near and COMMITTED in data and self._loses():
                self.lost_commits += 1
                raise ConnectionResetError
            await self._write(writer, data)
        # One end has said goodbye: so does the other.
        raise ConnectionResetError

    def _loses(self) -> bool:
        return self.lose_commits > 0 and self._chance.random() < self.lose_commits

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        step = self.dribble_bytes or len(data)
        for begin in range(0, len(data), step):
            writer.write(data[begin : begin + step])
            await writer.drain()
            if self.dribble_bytes:
                await asyncio.sleep(0)


def url_through(proxy: Proxy, dsn: str) -> str:
    """The URL of a database as seen through the proxy."""
    named = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"postgresql://{named['user']}@127.0.0.1:{proxy.port}/{named['dbname']}?sslmode=disable"


def socket_of(dsn: str) -> str:
    """The path of a server's socket."""
    named = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{named['host']}/.s.PGSQL.{named['port']}"
