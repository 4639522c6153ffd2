"""The server: time for everything, room for so many, and an end that leaves no half answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest

from farebox.gateway.http import Answer, Request, json_answer
from tests.support.scripted_upstream import ScriptedResponse
from tests.support.small_gateway import KEY, SmallGateway
from tests.support.wires import MemoryClient, Stream, echo, new_server, request, serving, until

LONG = 60.0


# The gateway behind it.


async def test_the_gateways_own_shape() -> None:
    """ERR-01, ERR-07: what is wrong on the wire is told as every other error is, with an id."""
    chat, key = "/v1/chat/completions", f"authorization: Bearer {KEY}"
    cases = [
        (b"rubbish\r\n\r\n", 400, "malformed_request"),
        (request("GET", "/healthz", None, "x: " + "y" * 70_000), 431, "headers_too_large"),
        (
            request("POST", chat, None, "transfer-encoding: chunked", key) + b"zz\r\n",
            400,
            "malformed_request",
        ),
        (
            request("POST", chat, None, "content-length: 99999999", key),
            413,
            "body_too_large",
        ),
    ]
    for raw, status, code in cases:
        async with SmallGateway(lambda _: ScriptedResponse([])) as small:
            client = MemoryClient(small.server()).send(raw)
            await until(client.has_received)
            head, _, body = client.received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\nx-request-id: req_" in head
            assert json.loads(body)["error"]["code"] == code
            assert small.upstream.requests == []
            await small.settled()


# Time.


async def test_idle_connections_are_closed() -> None:
    """A connection without a request is closed after a while, in silence."""
    async with serving(echo, idle_seconds=0.05) as served:
        client = await served.connect()
        assert await client.ended() == b""
        client = await served.connect()
        assert (await client.ask(request())).status == 200
        assert await client.ended() == b""
        await until(lambda: served.connections == 0)


@pytest.mark.parametrize("sent", [b"G", request()[:-2], b"\r\nPOST /"])
async def test_a_head_that_does_not_come(sent: bytes) -> None:
    """Who begins a head and does not end it gets 408, however many bytes come meanwhile."""
    async with serving(echo, head_seconds=0.05, idle_seconds=LONG) as served:
        client = await served.connect()
        assert (await client.ask(request())).status == 200
        answer = await client.ask(sent)
        assert (answer.status, answer.code) == (408, "too_slow")
        assert answer.headers["connection"] == "close"
        assert await client.ended() == b""


async def test_a_head_that_drips() -> None:
    """Its bytes do not buy it time."""
    async with serving(echo, head_seconds=0.05, idle_seconds=LONG) as served:
        client = await served.connect()

        async def drip() -> None:
            while True:
                await client.send(b"GET / HTTP/1.1\r\nx: "[:1])
                await asyncio.sleep(0.01)

        await client.send(b"GET /")
        dripping = asyncio.create_task(drip())
        assert (await client.answer()).status == 408
        dripping.cancel()


@pytest.mark.parametrize(
    "limits", [{"body_pause_seconds": 0.05}, {"body_seconds": 0.05}], ids=["pause", "whole"]
)
async def test_a_body_that_does_not_come(limits: dict[str, Any]) -> None:
    """Who begins a body and does not end it gets 408; the handler that waits for it is told."""
    async with serving(echo, **limits) as served:
        client = await served.connect()
        await client.send(request("POST", "/", None, "content-length: 9") + b"abc")
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "too_slow")
        assert await client.ended() == b""


async def test_a_handler_may_take_its_time() -> None:
    """No limit of the wire is for what a handler does, or for a client that waits for it."""
    short: dict[str, Any] = dict.fromkeys(
        ["idle_seconds", "head_seconds", "body_pause_seconds", "body_seconds", "send_seconds"], 0.02
    )

    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.2)
        return await echo(request)

    async with serving(slow, **short) as served:
        client = await served.connect()
        assert (await client.ask(request("POST", "/", b"abc"))).json["body"] == "abc"


async def test_a_client_that_takes_nothing() -> None:
    """Who leaves what we send unread is cut off after a while: a stream, or a whole answer."""
    stream = Stream([b"x" * 1_000_000] * 30)

    async def whole(_: Request) -> Answer:
        return Answer(200, [], b"x" * 30_000_000)

    for handler in (stream.handler, whole):
        async with serving(handler, send_seconds=0.1, idle_seconds=LONG) as served:
            client = await served.connect()
            await client.send(request())
            await client.head()
            client.stop_reading()
            await until(lambda: served.connections == 0)
    await stream.ended.wait()
    assert stream.abandoned.is_set()
    assert stream.read == 30


def test_a_client_that_takes_little() -> None:
    """Slow is not gone: whoever takes something gets more time, and then his next request."""

    async def scenario() -> None:
        server = new_server(echo, send_seconds=10.0, idle_seconds=10.0, tick_seconds=LONG)
        client = MemoryClient(server)
        shared = server.shared
        assert shared is not None
        now = shared.now
        client.transport.unsent = 1_000
        client.connection.pause_writing()
        for step in range(1, 5):
            client.transport.unsent -= 100
            client.connection.look(now + 9 * step)
            assert not client.transport.is_closed
        client.connection.look(now + 9 * 4 + 11)
        assert client.transport.is_closed

    asyncio.run(scenario())


async def test_a_client_that_does_not_say_goodbye() -> None:
    """After a refusal the client has a moment to read it and to close."""
    async with serving(echo, linger_seconds=0.05) as served:
        client = await served.connect()
        assert (await client.ask(b"rubbish\r\n\r\n")).status == 400
        await until(lambda: served.connections == 0)


# Room.


async def test_connections_are_counted() -> None:
    """One too many is told so in OpenAI's shape and closed; when one goes there is room again."""
    async with serving(echo, connections=2, linger_seconds=0.05) as served:
        first, second = await served.connect(), await served.connect()
        assert (await first.ask(request())).status == 200
        assert (await second.ask(request())).status == 200
        third = await served.connect()
        answer = await third.answer()
        assert (answer.status, answer.code) == (503, "too_many_connections")
        assert answer.headers["retry-after"] == "1"
        assert await third.ended() == b""
        await second.go("close")
        await until(lambda: served.connections == 1)
        assert (await (await served.connect()).ask(request())).status == 200


async def test_any_address() -> None:
    """A bound socket of either family will do."""
    for host in ("127.0.0.1", "::1"):
        async with serving(echo, host=host) as served:
            assert (await (await served.connect()).ask(request())).status == 200


# The end.


async def test_stopping() -> None:
    """Idle connections close at once, running requests are finished and say that it was the last,

    and nobody else gets in.
    """
    go_on = asyncio.Event()

    async def waits(request: Request) -> Answer:
        if request.path == "/wait":
            await go_on.wait()
        return json_answer(200, request.path)

    stream = Stream()
    stream.pause = asyncio.Event()
    async with serving(waits) as served, serving(stream.handler) as streaming:
        idle, silent, running, piped, half = [await served.connect() for _ in range(5)]
        assert (await idle.ask(request())).status == 200
        await running.send(request("GET", "/wait"))
        await piped.send(request("GET", "/wait") + request("GET", "/second"))
        await half.send(request()[:-2])
        listener = await streaming.connect()
        await listener.send(request())
        await listener.head()
        await until(lambda: served.connections == 5)
        closing = [asyncio.create_task(one.server.aclose(LONG)) for one in (served, streaming)]
        assert await idle.ended() == b""
        assert await silent.ended() == b""
        with pytest.raises(OSError):  # noqa: PT012 - a backlog may take it and then reset it
            late = await served.connect()
            await late.ask(request())
        await half.send(b"\r\n")
        go_on.set()
        for client in (running, piped, half):
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.ended() == b""
        stream.pause.set()
        assert [piece async for piece in listener.pieces()] == [b"one", b"two"]
        assert await listener.ended() == b""
        await asyncio.gather(*closing)


async def test_stopping_what_does_not_end() -> None:
    """When the time is up, a stream is told as if its client had gone; the rest is cancelled."""
    stream, cancelled = Stream([b"one"]), asyncio.Event()
    stream.pause = asyncio.Event()

    async def endless(_: Request) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    for handler in (stream.handler, endless):
        async with serving(handler) as served:
            client = await served.connect()
            await client.send(request())
            await until(lambda: served.running)
            await served.server.aclose(0.05)
            assert (served.connections, served.running) == (0, 0)
    assert stream.abandoned.is_set()
    assert stream.ended.is_set()
    assert cancelled.is_set()


async def test_stopping_what_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that does not let itself be cancelled is said to be left behind, and left."""
    monkeypatch.setattr("farebox.gateway.server.LAST_SECONDS", 0.01)
    logger = Mock()
    monkeypatch.setattr("farebox.gateway.server.logger", logger)
    go_on = asyncio.Event()

    async def stubborn(_: Request) -> Answer:
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()
        return json_answer(200, {})

    async with serving(stubborn) as served:
        client = await served.connect()
        await client.send(request())
        await until(lambda: served.running)
        await served.server.aclose(0.01)
        assert logger.error.call_args.args == ("requests_left_behind",)
        assert (served.connections, served.running) == (0, 1)
        go_on.set()
        await until(lambda: not served.running)


async def test_stopping_what_never_began() -> None:
    """A server that nobody called stops at once."""
    async with serving(echo):
        pass
    await new_server(echo).aclose(LONG)
