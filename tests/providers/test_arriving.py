"""Answers: whole, in pieces, slow, compressed, of any status; all that arrived is handed out."""

from __future__ import annotations

import asyncio
import gzip
import socket
from pathlib import Path

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamTooLargeError,
)
from farebox.providers.openai_compatible import OpenAICompatibleUpstream
from tests.support.certificates import tls_contexts
from tests.support.provider_scenes import (
    QUICK,
    REQUEST,
    against,
    drain,
    saying,
    wait_for_close,
)
from tests.support.scripted_server import (
    CHUNKED,
    LAST_CHUNK,
    PATIENCE_SECONDS,
    Connection,
    answer,
    chunk,
    scripted_server,
)


async def test_events_come_as_they_arrive() -> None:
    """The second event is sent only after the first was received: nothing is held back."""
    received = asyncio.Event()

    async def second(connection: Connection) -> None:
        await asyncio.wait_for(received.wait(), PATIENCE_SECONDS)
        await connection.send(chunk(b"data: two\n\n") + LAST_CHUNK)

    script = saying(CHUNKED + chunk(b"data: one\n\n"), then=second)
    async with against(script) as (upstream, _):
        response = await upstream.send(REQUEST)
        got = []
        async for piece in response.chunks():
            got.append(piece)
            received.set()
    assert got == [b"data: one\n\n", b"data: two\n\n"]


async def test_any_split_of_the_wire_gives_the_same_answer() -> None:
    """An answer that arrives byte by byte is the answer."""
    body = 'data: {"é":1}\n\ndata: [DONE]\n\n'.encode()
    wire = CHUNKED + chunk(body[:9]) + chunk(body[9:]) + LAST_CHUNK

    async def drip(connection: Connection) -> None:
        sock = connection.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await connection.request()
        for at in range(len(wire)):
            await connection.send(wire[at : at + 1])
            await asyncio.sleep(0)
        await connection.request()
        await connection.send(answer(b"{}"))

    async with against(drip) as (upstream, server):
        response = await upstream.send(REQUEST)
        assert b"".join([piece async for piece in response.chunks()]) == body
        assert await (await upstream.send(REQUEST)).read(10) == b"{}"
    assert server.connections == 1


@pytest.mark.parametrize("end", [LAST_CHUNK, b""])
async def test_a_slow_reader_loses_nothing_and_slows_the_provider(end: bytes) -> None:
    """Five megabytes through a reader that dawdles arrive whole, before a break too; no pile-up."""
    total = 5_000_000
    largest = size = 0
    poured = b"".join([chunk(b"x" * 50_000)] * (total // 50_000)) + end
    async with against(saying(CHUNKED, poured)) as (upstream, _):
        response = await upstream.send(REQUEST)
        error = None
        try:
            async for piece in response.chunks():
                size += len(piece)
                largest = max(largest, len(piece))
                for _ in range(20):
                    await asyncio.sleep(0)
        except UpstreamBrokenError as broken:
            error = broken
    assert size == total
    assert largest < total // 2
    assert (error is None) == bool(end)


async def test_a_slow_reader_over_tls_loses_nothing(tmp_path: Path) -> None:
    """Back-pressure goes through TLS too."""
    server_tls, client_tls = tls_contexts(tmp_path)
    total, size, largest = 5_000_000, 0, 0
    poured = b"".join([chunk(b"x" * 50_000)] * (total // 50_000)) + LAST_CHUNK
    async with scripted_server(saying(CHUNKED, poured), tls=server_tls) as server:
        upstream = OpenAICompatibleUpstream(server.base_url, None, tls=client_tls, timeouts=QUICK)
        response = await upstream.send(REQUEST)
        async for piece in response.chunks():
            size += len(piece)
            largest = max(largest, len(piece))
            for _ in range(20):
                await asyncio.sleep(0)
        await upstream.aclose()
    assert size == total
    assert largest < total // 2


async def test_a_body_over_the_limit_is_refused_and_closed() -> None:
    """A body may not fill the memory; the provider sees that we stopped reading."""
    script = saying(CHUNKED + chunk(b"x" * 2000), then=wait_for_close)
    async with against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        with pytest.raises(UpstreamTooLargeError):
            await response.read(1999)
        await server.saw_close()


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    async with against(saying(answer(b"x" * 2000))) as (upstream, _):
        assert len(await (await upstream.send(REQUEST)).read(2000)) == 2000


async def test_a_redirect_is_an_answer() -> None:
    """A redirect is not followed: it would take the key to another host."""

    async def elsewhere(connection: Connection) -> None:
        await connection.request()
        other = f"location: http://127.0.0.1:{connection.server.port}/other\r\n"
        await connection.send(answer(b"", status="307 Temporary Redirect", headers=other))

    async with against(elsewhere) as (upstream, server):
        response = await upstream.send(REQUEST)
        assert response.status == 307
        assert await response.read(10) == b""
    assert len(server.requests) == 1


async def test_an_answer_that_was_compressed_all_the_same_is_unwrapped() -> None:
    """A proxy that ignores accept-encoding must not hide the usage."""
    packed = gzip.compress(b'{"usage":1}')
    headers = "content-encoding: gzip\r\n"
    async with against(saying(answer(packed, headers=headers))) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert await response.read(1000) == b'{"usage":1}'
        assert dict(response.headers).keys() == set()


async def test_interim_answers_are_skipped() -> None:
    """An early hint is not the answer."""
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with against(saying(hint + answer(b"{}"))) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert (response.status, await response.read(10)) == (200, b"{}")


async def test_an_error_status_is_an_answer() -> None:
    """A provider's refusal comes back as it is, with its headers."""
    body = b'{"error":{"message":"slow down"}}'
    refusal = answer(body, status="429 Too Many Requests", headers="Retry-After: 2\r\n")
    async with against(saying(refusal)) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert response.status == 429
        assert response.headers == (("retry-after", "2"),)
        assert await response.read(1000) == body


@pytest.mark.parametrize("coding", ["br", "gzip, gzip"])
async def test_a_coding_that_nobody_knows_is_broken(coding: str) -> None:
    """What cannot be unwrapped cannot be charged by; the provider may bill it all the same."""
    headers = f"content-encoding: {coding}\r\n"
    async with against(saying(answer(b"?", headers=headers))) as (upstream, _):
        with pytest.raises(UpstreamBrokenError, match="not asked for"):
            await upstream.send(REQUEST)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_compressed_body_that_is_cut_is_broken(whole: bool) -> None:
    """DED-14: whole by its length or not, a compressed body without its end is told as a break."""
    packed = gzip.compress(b'{"usage":1}', mtime=0)[:-8]
    length = len(packed) if whole else len(packed) + 8
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n"
    async with against(saying(head.encode() + packed)) as (upstream, _):
        response = await upstream.send(REQUEST)
        got, error = await drain(response)
    assert type(error) is UpstreamBrokenError
    assert got == b'{"usage":1}'
