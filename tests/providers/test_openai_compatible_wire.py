"""The real upstream against broken, slow and hostile servers: every failure has its right name.

What a name means is money: not reached = nothing billed; broken or timed out = perhaps billed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.openai_compatible import (
    OpenAICompatibleUpstream,
    UpstreamTimeouts,
)
from tests.support.certificates import tls_contexts
from tests.support.scripted_server import (
    CHUNKED,
    LAST_CHUNK,
    PATIENCE_SECONDS,
    Connection,
    Script,
    ScriptedServer,
    answer,
    chunk,
    scripted_server,
)

# A test that waits in vain fails soon.
QUICK = UpstreamTimeouts(head_seconds=PATIENCE_SECONDS, idle_seconds=PATIENCE_SECONDS)
REQUEST = UpstreamRequest("/chat/completions", b'{"model":"gpt-5.4"}')


@asynccontextmanager
async def _against(
    *scripts: Script, timeouts: UpstreamTimeouts | None = None, **settings: Any
) -> AsyncIterator[tuple[OpenAICompatibleUpstream, ScriptedServer]]:
    async with scripted_server(*scripts) as server:
        upstream = OpenAICompatibleUpstream(
            server.base_url, "sk-x", timeouts=timeouts or QUICK, **settings
        )
        try:
            yield upstream, server
        finally:
            await upstream.aclose()


def _saying(*parts: bytes, then: Callable[[Connection], Awaitable[None]] | None = None) -> Script:
    """A script: read the request, say these parts, do something, close."""

    async def script(connection: Connection) -> None:
        await connection.request()
        for part in parts:
            await connection.send(part)
        if then is not None:
            await then(connection)

    return script


async def _wait_for_close(connection: Connection) -> None:
    await connection.closed()


# --- nothing was sent --------------------------------------------------------------------------


async def test_a_refused_connection_is_not_reached() -> None:
    """Nobody listens: the provider did no work."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        upstream = OpenAICompatibleUpstream(f"http://127.0.0.1:{taken.getsockname()[1]}", None)
        with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
            await upstream.send(REQUEST)
        await upstream.aclose()


async def test_an_unknown_host_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address: the provider did no work."""

    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    upstream = OpenAICompatibleUpstream("http://provider.invalid/v1", None)
    with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
        await upstream.send(REQUEST)
    await upstream.aclose()


async def test_a_server_without_tls_is_not_reached() -> None:
    """TLS that cannot be agreed on comes before the first byte of a request."""

    async def plain(connection: Connection) -> None:
        await connection.reader.read(1000)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with scripted_server(plain) as server:
        base_url = server.base_url.replace("http:", "https:")
        upstream = OpenAICompatibleUpstream(base_url, None)
        with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
            await upstream.send(REQUEST)
        await upstream.aclose()


async def test_an_unknown_certificate_is_not_reached(tmp_path: Path) -> None:
    """The key is not given to a server that cannot show who it is."""
    server_tls, _ = tls_contexts(tmp_path)
    async with scripted_server(_wait_for_close, tls=server_tls) as server:
        upstream = OpenAICompatibleUpstream(server.base_url, "sk-x")
        with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
            await upstream.send(REQUEST)
        await upstream.aclose()
    assert server.requests == []


async def test_over_tls_closing_is_a_close_too(tmp_path: Path) -> None:
    """DED-14: with TLS the provider sees at once that its stream is not wanted any more."""
    server_tls, client_tls = tls_contexts(tmp_path)
    script = _saying(CHUNKED + chunk(b"one"), then=_wait_for_close)
    async with scripted_server(script, tls=server_tls) as server:
        upstream = OpenAICompatibleUpstream(server.base_url, "sk-x", tls=client_tls)
        response = await upstream.send(REQUEST)
        chunks = response.chunks()
        assert await anext(chunks) == b"one"
        await response.close()
        await server.saw_close()
        await upstream.aclose()


async def test_a_connection_that_takes_too_long_is_not_reached() -> None:
    """The limit on connecting covers TLS: a server that never answers the greeting got nothing."""
    async with scripted_server(_wait_for_close) as server:
        upstream = OpenAICompatibleUpstream(
            server.base_url.replace("http:", "https:"),
            None,
            timeouts=UpstreamTimeouts(connect_seconds=0.05),
        )
        with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
            await upstream.send(REQUEST)
        await upstream.aclose()


async def test_no_free_connection_is_not_reached() -> None:
    """With every connection taken a call gives up as if it could not connect; nothing was sent."""
    script = _saying(CHUNKED, then=_wait_for_close)
    timeouts = UpstreamTimeouts(connect_seconds=0.05)
    async with _against(script, timeouts=timeouts, connections_max=1) as (upstream, server):
        first = await upstream.send(REQUEST)
        with pytest.raises(UpstreamNotReachedError):
            await upstream.send(REQUEST)
        await first.close()
        second = await upstream.send(REQUEST)  # the place is free again
        await second.close()
    assert len(server.requests) == 2


async def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    """A provider that dropped an idle connection is called on a new one, unseen by the caller."""
    scripts = _saying(answer(b"{}")), _saying(answer(b"[]"))
    async with _against(*scripts) as (upstream, server):
        assert await (await upstream.send(REQUEST)).read(10) == b"{}"
        await _until(lambda: _idle_connections(upstream) == 0)
        assert await (await upstream.send(REQUEST)).read(10) == b"[]"
    assert server.connections == 2




# --- something was sent ------------------------------------------------------------------------


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
    async with _against(_saying(said)) as (upstream, server):
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

    async with _against(once) as (upstream, server):
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

    async with _against(reset) as (upstream, _):
        with pytest.raises(UpstreamBrokenError) as broken:
            await upstream.send(REQUEST)
    assert type(broken.value) is UpstreamBrokenError


async def test_no_head_in_time_is_a_timeout_and_closes() -> None:
    """The provider sees the connection close when the wait for its head is over."""
    timeouts = UpstreamTimeouts(head_seconds=0.1)
    async with _against(_saying(then=_wait_for_close), timeouts=timeouts) as (upstream, server):
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
    async with _against(_saying(start, framed, then=end)) as (upstream, _):
        response = await upstream.send(REQUEST)
        got, error = await _drain(response, received=said)
        assert type(error) is UpstreamBrokenError
        assert got == arrived
        again = await upstream.send(REQUEST)
        said.set()
        with pytest.raises(UpstreamBrokenError):
            await again.read(1000)


async def test_bytes_that_wait_unread_survive_a_break() -> None:
    """A slow reader still gets the usage that arrived before the provider broke off."""
    usage = b'data: {"usage":{"prompt_tokens":7}}\n\n'
    async with _against(_saying(CHUNKED + chunk(usage) + b"ff\r\n")) as (upstream, _):
        response = await upstream.send(REQUEST)
        await _until(lambda: response.fault is not None)
        got, error = await _drain(response)
    assert type(error) is UpstreamBrokenError
    assert got == usage


async def test_a_broken_chunk_size_is_broken() -> None:
    """A body that is no HTTP any more ends the call as broken."""
    received = asyncio.Event()

    async def junk(connection: Connection) -> None:
        await received.wait()
        await connection.send(b"zz\r\nsecret answer\r\n")

    async with _against(_saying(CHUNKED + chunk(b"abc"), then=junk)) as (upstream, _):
        response = await upstream.send(REQUEST)
        got, error = await _drain(response, received=received)
    assert type(error) is UpstreamBrokenError
    assert "secret" not in str(error)
    assert got == b"abc"


async def test_silence_between_chunks_is_a_timeout_and_closes() -> None:
    """A half-open connection does not hold a call for ever; the provider sees it close."""
    script = _saying(CHUNKED + chunk(b"one"), then=_wait_for_close)
    timeouts = UpstreamTimeouts(idle_seconds=0.1)
    async with _against(script, timeouts=timeouts) as (upstream, server):
        response = await upstream.send(REQUEST)
        got, error = await _drain(response)
        assert type(error) is UpstreamTimeoutError
        assert got == b"one"
        await server.saw_close()


# --- answers -----------------------------------------------------------------------------------


async def test_events_come_as_they_arrive() -> None:
    """The second event is sent only after the first was received: nothing is held back."""
    received = asyncio.Event()

    async def second(connection: Connection) -> None:
        await asyncio.wait_for(received.wait(), PATIENCE_SECONDS)
        await connection.send(chunk(b"data: two\n\n") + LAST_CHUNK)

    script = _saying(CHUNKED + chunk(b"data: one\n\n"), then=second)
    async with _against(script) as (upstream, _):
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

    async with _against(drip) as (upstream, server):
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
    async with _against(_saying(CHUNKED, poured)) as (upstream, _):
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


async def test_a_body_over_the_limit_is_refused_and_closed() -> None:
    """A body may not fill the memory; the provider sees that we stopped reading."""
    script = _saying(CHUNKED + chunk(b"x" * 2000), then=_wait_for_close)
    async with _against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        with pytest.raises(UpstreamTooLargeError):
            await response.read(1999)
        await server.saw_close()


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    async with _against(_saying(answer(b"x" * 2000))) as (upstream, _):
        assert len(await (await upstream.send(REQUEST)).read(2000)) == 2000


async def test_a_redirect_is_an_answer() -> None:
    """A redirect is not followed: it would take the key to another host."""

    async def elsewhere(connection: Connection) -> None:
        await connection.request()
        other = f"location: http://127.0.0.1:{connection.server.port}/other\r\n"
        await connection.send(answer(b"", status="307 Temporary Redirect", headers=other))

    async with _against(elsewhere) as (upstream, server):
        response = await upstream.send(REQUEST)
        assert response.status == 307
        assert await response.read(10) == b""
    assert len(server.requests) == 1


async def test_an_answer_that_was_compressed_all_the_same_is_unwrapped() -> None:
    """A proxy that ignores accept-encoding must not hide the usage."""
    packed = gzip.compress(b'{"usage":1}')
    headers = "content-encoding: gzip\r\n"
    async with _against(_saying(answer(packed, headers=headers))) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert await response.read(1000) == b'{"usage":1}'
        assert dict(response.headers).keys() == set()


async def test_interim_answers_are_skipped() -> None:
    """An early hint is not the answer."""
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with _against(_saying(hint + answer(b"{}"))) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert (response.status, await response.read(10)) == (200, b"{}")


async def test_an_error_status_is_an_answer() -> None:
    """A provider's refusal comes back as it is, with its headers."""
    body = b'{"error":{"message":"slow down"}}'
    refusal = answer(body, status="429 Too Many Requests", headers="Retry-After: 2\r\n")
    async with _against(_saying(refusal)) as (upstream, _):
        response = await upstream.send(REQUEST)
        assert response.status == 429
        assert response.headers == (("retry-after", "2"),)
        assert await response.read(1000) == body


# --- breaking off ------------------------------------------------------------------------------


async def test_close_shows_at_the_provider() -> None:
    """DED-14: a provider stops working when its stream is closed, so closing is a real close."""
    script = _saying(CHUNKED + chunk(b"one"), then=_wait_for_close)
    async with _against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        chunks = response.chunks()
        assert await anext(chunks) == b"one"
        await response.close()
        await server.saw_close()
        with pytest.raises(UpstreamBrokenError):
            await anext(chunks)


async def test_close_before_reading_shows_at_the_provider() -> None:
    """An answer that nobody wants is closed, not drained."""
    async with _against(_saying(CHUNKED, then=_wait_for_close)) as (upstream, server):
        await (await upstream.send(REQUEST)).close()
        await server.saw_close()


async def test_a_reader_that_goes_away_closes() -> None:
    """Leaving the iteration early is breaking off."""
    script = _saying(CHUNKED + chunk(b"one"), then=_wait_for_close)
    async with _against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        async with contextlib.aclosing(response.chunks()) as chunks:
            async for _ in chunks:
                break
        await server.saw_close()


async def test_a_cancelled_call_closes() -> None:
    """A caller that is cancelled while it waits for the head closes the connection."""
    arrived = asyncio.Event()

    async def wait(connection: Connection) -> None:
        arrived.set()
        await connection.closed()

    async with _against(_saying(then=wait)) as (upstream, server):
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

    async with _against(late) as (upstream, server):
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

    async with _against(early) as (upstream, server):
        response = await upstream.send(UpstreamRequest("/chat/completions", b"x" * size))
        await response.close()
        closed.set()
        await server.saw_close()
    assert arrived < size


async def test_closing_the_upstream_closes_running_calls() -> None:
    """Taking a provider out of use ends what runs there."""
    script = _saying(CHUNKED + chunk(b"one"), then=_wait_for_close)
    async with _against(script) as (upstream, server):
        response = await upstream.send(REQUEST)
        chunks = response.chunks()
        assert await anext(chunks) == b"one"
        await upstream.aclose()
        await server.saw_close()
        with pytest.raises(UpstreamBrokenError):
            await anext(chunks)


async def _drain(
    response: UpstreamResponse, *, received: asyncio.Event | None = None
) -> tuple[bytes, UpstreamBrokenError | None]:
    """Everything that a response gives before it ends or breaks, and how it broke."""
    got = b""
    try:
        async for piece in response.chunks():
            got += piece
            if received is not None:
                received.set()
    except UpstreamBrokenError as error:
        return got, error
    return got, None


async def _until(true: Callable[[], bool]) -> None:
    """Let the event loop run until something is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def _idle_connections(upstream: OpenAICompatibleUpstream) -> int:
    """Idle connections that are still open."""
    return upstream._client.connections.idle_count
