"""Breaking off: whoever closes, cancels or goes away, the provider sees its connection end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamRequest,
)
from tests.support.provider_scenes import (
    REQUEST,
    against,
    drain,
    saying,
    wait_for_close,
)
from tests.support.scripted_server import (
    CHUNKED,
    PATIENCE_SECONDS,
    Connection,
    chunk,
)


async def test_close_shows_at_the_provider() -> None:
    """DED-14: a provider stops working when its stream is closed, so closing is a real close."""
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
    async with against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        chunks = response.chunks()
        assert await anext(chunks) == b"one"
        await response.close()
        await server.saw_close()
        with pytest.raises(UpstreamBrokenError):
            await anext(chunks)


async def test_close_before_reading_shows_at_the_provider() -> None:
    """An answer that nobody wants is closed, not drained."""
    async with against(saying(CHUNKED, then=wait_for_close)) as (upstream, server):
        await (await upstream.send(REQUEST)).close()
        await server.saw_close()


async def test_a_reader_that_goes_away_closes() -> None:
    """Leaving the iteration early is breaking off."""
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
    async with against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        async with contextlib.aclosing(response.chunks()) as chunks:
            async for _ in chunks:
                break
        await server.saw_close()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_cancelled_reader_closes(whole: bool) -> None:
    """Whoever is cancelled while it waits for more of a body closes the connection."""
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
    async with against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        way = response.read(1000) if whole else drain(response)
        reading: asyncio.Future[object] = asyncio.ensure_future(way)
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await server.saw_close()


async def test_a_cancelled_call_closes() -> None:
    """A caller that is cancelled while it waits for the head closes the connection."""
    arrived = asyncio.Event()

    async def wait(connection: Connection) -> None:
        arrived.set()
        await connection.closed()

    async with against(saying(then=wait)) as (upstream, server):
        call = asyncio.ensure_future(upstream.send(REQUEST))
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.saw_close()


async def test_a_cancelled_upload_never_arrives_whole() -> None:
    """The rest of a request that nobody waits for does not trickle out to be worked on."""
    size = 30_000_000
    connected, cancelled = asyncio.Event(), asyncio.Event()
    arrived = 0

    async def late(connection: Connection) -> None:
        nonlocal arrived
        connected.set()
        await cancelled.wait()
        with contextlib.suppress(ConnectionError):
            while data := await connection.reader.read(2**20):
                arrived += len(data)
        connection.server.closes.set()

    async with against(late) as (upstream, server):
        request = UpstreamRequest("/chat/completions", b"x" * size)
        call = asyncio.ensure_future(upstream.send(request))
        await asyncio.wait_for(connected.wait(), PATIENCE_SECONDS)
        await asyncio.sleep(0.05)  # let the kernel's buffers fill
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cancelled.set()
        await server.saw_close()
    assert arrived < size


async def test_closing_an_early_answer_stops_the_upload() -> None:
    """A provider that answers before it has read everything does not get the rest after a close."""
    size = 30_000_000
    closed = asyncio.Event()
    arrived = 0

    async def early(connection: Connection) -> None:
        nonlocal arrived
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(CHUNKED)
        await closed.wait()
        with contextlib.suppress(ConnectionError):
            while data := await connection.reader.read(2**20):
                arrived += len(data)
        connection.server.closes.set()

    async with against(early) as (upstream, server):
        response = await upstream.send(UpstreamRequest("/chat/completions", b"x" * size))
        await response.close()
        closed.set()
        await server.saw_close()
    assert arrived < size


async def test_closing_the_upstream_closes_running_calls() -> None:
    """Taking a provider out of use ends what runs there."""
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
    async with against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        chunks = response.chunks()
        assert await anext(chunks) == b"one"
        await upstream.aclose()
        await server.saw_close()
        with pytest.raises(UpstreamBrokenError):
            await anext(chunks)
