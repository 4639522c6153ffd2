"""Clients that go, at every phase and in every way: their streams are told and read to the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from farebox.gateway.http import Answer, ClientGoneError, Request, StreamAnswer, json_answer
from tests.support.wires import (
    Client,
    MemoryClient,
    Served,
    Stream,
    chunked,
    echo,
    new_server,
    request,
    serving,
    until,
)

WAYS = pytest.mark.parametrize("way", ["close", "reset", "half"])
CALLS = 20


class Watching:
    """A handler that notes what it saw of its client's going."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.began = asyncio.Event()

    async def handler(self, request: Request) -> Answer:
        """The handler."""
        try:
            await request.read_body(1_000)
            self.seen.append("body")
            self.began.set()
            async with request.presence.needed():
                await asyncio.Event().wait()
        except ClientGoneError:
            self.seen.append("gone")
            raise
        raise AssertionError


@WAYS
@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"", []),
        (b"POST / HT", []),
        (request("POST", "/", None, "content-length: 5"), ["gone"]),
        (request("POST", "/", None, "content-length: 5") + b"abc", ["gone"]),
        (request("POST", "/", None, "transfer-encoding: chunked") + b"3\r\nabc\r\n", ["gone"]),
        (request("POST", "/", b"abc"), ["body", "gone"]),
        (request("POST", "/", b"abc") + b"GET", ["body", "gone"]),
        (request("POST", "/", b"abc") + request(), ["body", "gone"]),
        (request("GET", "/", None, "connection: close"), ["body", "gone"]),
    ],
    ids=range(9),
)
async def test_before_the_answer(way: str, sent: bytes, seen: list[str]) -> None:
    """Whoever waits for a client that has gone is told; nobody else is bothered."""
    watching = Watching()
    async with serving(watching.handler) as served:
        client = await served.connect()
        await client.send(sent)
        await until(lambda: served.connections == 1)
        if "body" in seen:
            await watching.began.wait()
        await client.go(way)
        await until(lambda: served.connections == 0)
        await until(lambda: watching.seen == seen)
        await until(lambda: not served.running)


async def begun(stream: Stream, served: Served) -> Client:
    """A client in the middle of a stream that goes on."""
    stream.pause = asyncio.Event()
    client = await served.connect()
    await client.send(request())
    await client.head()
    return client


@WAYS
async def test_in_a_stream(way: str) -> None:
    """DED-15: the stream is told that its client has gone, and is read to its end."""
    stream = Stream([b"one"] * 3)
    async with serving(stream.handler) as served:
        client = await begun(stream, served)
        await until(lambda: stream.read == 3)
        assert not stream.abandoned.is_set()
        await client.go(way)
        await stream.ended.wait()
        assert stream.abandoned.is_set()
        await until(lambda: served.connections == 0)


@WAYS
async def test_in_a_stream_that_nobody_reads(way: str) -> None:
    """The same where the stream waited for its client to read."""
    stream = Stream([b"x" * 1_000_000] * 30)
    async with serving(stream.handler, send_seconds=0.2) as served:
        client = await begun(stream, served)
        client.stop_reading()
        before = -1
        while stream.read != before:
            before = stream.read
            await asyncio.sleep(0.02)
        assert stream.read < 30
        await client.go(way)
        await stream.ended.wait()
        assert stream.abandoned.is_set()
        assert stream.read == 30
        await until(lambda: served.connections == 0)


async def test_a_goodbye_before_all_was_sent() -> None:
    """A client that says goodbye has gone, though what is unsent keeps its connection open."""
    stream = Stream([b"one"] * 3)
    client = MemoryClient(new_server(stream.handler)).send(request())
    client.connection.pause_writing()
    await until(client.has_received)
    client.connection.eof_received()
    assert stream.abandoned.is_set()
    await until(lambda: client.task is None)
    assert stream.read == 3
    client.connection.look(client.connection.shared.now + 1_000)
    assert client.transport.is_closed


async def test_before_the_stream_begins() -> None:
    """A stream that begins when its client has gone is told at once, and read to its end."""
    stream = Stream()
    client = MemoryClient(new_server(stream.handler)).send(request())
    task = client.task
    client.hang_up()
    assert task is not None
    await task
    assert stream.abandoned.is_set()
    assert stream.read == 2
    assert client.received == b""


async def test_a_handler_that_is_cancelled() -> None:
    """No answer is made up for it: the connection closes."""

    async def cancelled(_: Request) -> Answer:
        raise asyncio.CancelledError

    async with serving(cancelled) as served:
        client = await served.connect()
        await client.send(request())
        assert await client.ended() == b""


async def test_an_answer_that_nobody_waits_for() -> None:
    """A whole answer for a client that has gone is not written; the next client is served."""
    go_on, answered = asyncio.Event(), asyncio.Event()

    async def handler(_: Request) -> Answer:
        await go_on.wait()
        answered.set()
        return json_answer(200, {})

    async with serving(handler) as served:
        client = await served.connect()
        await client.send(request())
        await until(lambda: served.connections)
        await client.go("close")
        await until(lambda: not served.connections)
        go_on.set()
        await answered.wait()
        assert (await (await served.connect()).ask(request())).status == 200


# What is left behind.


async def one_answer(served: Served) -> None:
    """One call on a connection."""
    await (await served.connect()).ask(request("POST", "/", b"abc"))


async def kept_connection(served: Served) -> None:
    """Several."""
    client = await served.connect()
    for _ in range(3):
        await client.ask(request("POST", "/", b"abc"))


async def slow_body(served: Served) -> None:
    """A body that comes after its head."""
    client = await served.connect()
    await client.send(request("POST", "/", None, "transfer-encoding: chunked"))
    await asyncio.sleep(0.001)
    await client.ask(chunked(b"abc", b"def"))


async def watched(served: Served) -> None:
    """Calls on one connection that are watched and end."""
    client = await served.connect()
    for _ in range(2):
        await client.ask(request("POST", "/watched"))


async def refused(served: Served) -> None:
    """Bytes that are no request."""
    await (await served.connect()).ask(b"rubbish\r\n\r\n")


async def refused_body(served: Served) -> None:
    """A body that is none."""
    client = await served.connect()
    await client.send(request("POST", "/", None, "transfer-encoding: chunked"))
    await asyncio.sleep(0.001)
    await client.ask(b"zz\r\n")


async def failed(served: Served) -> None:
    """A handler that fails."""
    await (await served.connect()).ask(request("GET", "/fails"))


async def upgraded(served: Served) -> None:
    """A client that would rather speak another protocol."""
    client = await served.connect()
    await client.ask(request("POST", "/", b"abc", "connection: upgrade", "upgrade: h2c"))


async def pipelined(served: Served) -> None:
    """Requests before their turn, and rubbish after them."""
    client = await served.connect()
    await client.send(request("POST", "/", b"abc") * 3 + b"rubbish\r\n\r\n")
    for _ in range(4):
        await client.answer()


async def gone(served: Served) -> None:
    """A client that goes in its body."""
    client = await served.connect()
    await client.send(request("POST", "/", None, "content-length: 5"))
    await until(lambda: served.connections)
    await client.go("reset")


async def gone_while_watched(served: Served) -> None:
    """A client that goes while it is watched, and another request of it waits."""
    client = await served.connect()
    await client.send(request("POST", "/watched/long") + request())
    await asyncio.sleep(0.005)
    await client.go("reset")


async def streamed(served: Served) -> None:
    """Streams, read to their end."""
    client = await served.connect()
    for _ in range(2):
        assert (await client.ask(request("GET", "/stream"))).body == b"onetwo"


async def gone_from_a_stream(served: Served) -> None:
    """A client that goes in a stream."""
    client = await served.connect()
    await client.send(request("GET", "/stream/long"))
    await client.head()
    await client.go("reset")


async def leaving_nothing(request: Request) -> Answer | StreamAnswer:
    """Every kind of answer."""
    if request.path.startswith("/stream"):
        stream = Stream()
        stream.pause = asyncio.Event() if request.path.endswith("long") else None
        return await stream.handler(request)
    if request.path.startswith("/watched"):
        async with request.presence.needed():
            await asyncio.sleep(100.0 if request.path.endswith("long") else 0.002)
    if request.path == "/fails":
        raise RuntimeError
    return await echo(request)


@pytest.mark.parametrize(
    "visit",
    [
        one_answer,
        kept_connection,
        slow_body,
        watched,
        refused,
        refused_body,
        failed,
        upgraded,
        pipelined,
        gone,
        gone_while_watched,
        streamed,
        gone_from_a_stream,
    ],
)
async def test_nothing_is_left_in_circles(
    visit: Callable[[Served], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 3, memory: whatever a call was, no collector has to look for what it leaves."""
    monkeypatch.setattr("farebox.gateway.http.WATCH_AFTER_SECONDS", 0.0)
    # structlog's pages for people at a terminal, which tests get and servers do not, keep frames.
    monkeypatch.setattr("farebox.gateway.server_connection.logger", Mock())
    async with serving(leaving_nothing) as served:

        async def visits(count: int) -> None:
            for _ in range(count):
                await visit(served)
                for client in served.clients:
                    client.writer.transport.abort()
                served.clients.clear()
                await until(lambda: not served.connections)
                await until(lambda: not served.running)

        await visits(2)
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            await visits(CALLS)
            # A task for ever pending is a circle too, of a kind that ends itself when found.
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
            gc.collect()
            ours = [
                type(one).__qualname__
                for one in gc.garbage
                if type(one).__module__.startswith("farebox")
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert ours == []
