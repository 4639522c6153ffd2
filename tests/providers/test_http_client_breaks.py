"""Calls that break after something was sent: the provider may bill them, and nothing is resent."""

from __future__ import annotations

import asyncio

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamTimeoutError,
)
from farebox.providers.openai_compatible import UpstreamTimeouts
from tests.support.provider_scenes import (
    REQUEST,
    against,
    drain,
    saying,
    until,
    wait_for_close,
)
from tests.support.scripted_server import (
    CHUNKED,
    Connection,
    answer,
    chunk,
)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    ],
)
async def test_no_proper_head_is_broken(said: bytes) -> None:
    """A provider that had the request and gives no head may have worked: the call is broken."""
    async with against(saying(said)) as (upstream, server):
        with pytest.raises(UpstreamBrokenError) as broken:
            await upstream.send(REQUEST)
    assert type(broken.value) is UpstreamBrokenError
    assert len(server.requests) == 1


async def test_a_stale_connection_is_broken_and_never_sent_twice() -> None:
    """A reused connection that closes without a byte may have done the work: no second attempt."""

    async def once(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"{}"))
        await connection.request()  # and close without a word

    async with against(once) as (upstream, server):
        assert await (await upstream.send(REQUEST)).read(10) == b"{}"
        with pytest.raises(UpstreamBrokenError) as broken:
            await upstream.send(REQUEST)
    assert type(broken.value) is UpstreamBrokenError
    assert server.connections == 1
    assert len(server.requests) == 2


async def test_a_reset_before_the_head_is_broken() -> None:
    """A reset after the request was read is no proof of anything."""

    async def reset(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    async with against(reset) as (upstream, _):
        with pytest.raises(UpstreamBrokenError) as broken:
            await upstream.send(REQUEST)
    assert type(broken.value) is UpstreamBrokenError


async def test_no_head_in_time_is_a_timeout_and_closes() -> None:
    """The provider sees the connection close when the wait for its head is over."""
    timeouts = UpstreamTimeouts(head_seconds=0.1)
    async with against(saying(then=wait_for_close), timeouts=timeouts) as (upstream, server):
        with pytest.raises(UpstreamTimeoutError, match="no answer in"):
            await upstream.send(REQUEST)
        await server.saw_close()


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
        CHUNKED,
        CHUNKED + b"64\r\n",
    ],
)
@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_body_that_ends_early_is_broken_and_its_bytes_are_kept(
    start: bytes, abrupt: bool
) -> None:
    """DED-14: what arrived before a break is handed out, then the break is told."""

    async def end(connection: Connection) -> None:
        if abrupt:
            await said.wait()
            connection.reset()

    said = asyncio.Event()
    arrived = b"data: {}\n\n" * 3
    framed = chunk(arrived) if start == CHUNKED else arrived
    async with against(saying(start, framed, then=end)) as (upstream, _):
        response = await upstream.send(REQUEST)
        got, error = await drain(response, received=said)
        assert type(error) is UpstreamBrokenError
        assert got == arrived
        again = await upstream.send(REQUEST)
        said.set()
        with pytest.raises(UpstreamBrokenError):
            await again.read(1000)


async def test_bytes_that_wait_unread_survive_a_break() -> None:
    """A slow reader still gets the usage that arrived before the provider broke off."""
    usage = b'data: {"usage":{"prompt_tokens":7}}\n\n'
    async with against(saying(CHUNKED + chunk(usage) + b"ff\r\n")) as (upstream, _):
        response = await upstream.send(REQUEST)
        await until(lambda: response.fault is not None)
        got, error = await drain(response)
    assert type(error) is UpstreamBrokenError
    assert got == usage


async def test_a_broken_chunk_size_is_broken() -> None:
    """A body that is no HTTP any more ends the call as broken."""
    received = asyncio.Event()

    async def junk(connection: Connection) -> None:
        await received.wait()
        await connection.send(b"zz\r\nsecret answer\r\n")

    async with against(saying(CHUNKED + chunk(b"abc"), then=junk)) as (upstream, _):
        response = await upstream.send(REQUEST)
        got, error = await drain(response, received=received)
    assert type(error) is UpstreamBrokenError
    assert "secret" not in str(error)
    assert got == b"abc"


async def test_silence_between_chunks_is_a_timeout_and_closes() -> None:
    """A half-open connection does not hold a call for ever; the provider sees it close."""
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
    timeouts = UpstreamTimeouts(idle_seconds=0.1)
    async with against(script, timeouts=timeouts) as (upstream, server):
        response = await upstream.send(REQUEST)
        got, error = await drain(response)
        assert type(error) is UpstreamTimeoutError
        assert got == b"one"
        await server.saw_close()
