"""Calls that never reach the provider: it got nothing, so it bills nothing, and we can prove it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from farebox.operations.upstream import (
    UpstreamNotReachedError,
)
from farebox.providers.openai_compatible import OpenAICompatibleUpstream, UpstreamTimeouts
from tests.support.certificates import tls_contexts
from tests.support.provider_scenes import (
    REQUEST,
    against,
    idle_connections,
    saying,
    until,
    wait_for_close,
)
from tests.support.scripted_server import (
    CHUNKED,
    Connection,
    answer,
    chunk,
    scripted_server,
)


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
    async with scripted_server(wait_for_close, tls=server_tls) as server:
        upstream = OpenAICompatibleUpstream(server.base_url, "sk-x")
        with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
            await upstream.send(REQUEST)
        await upstream.aclose()
    assert server.requests == []


async def test_over_tls_closing_is_a_close_too(tmp_path: Path) -> None:
    """DED-14: with TLS the provider sees at once that its stream is not wanted any more."""
    server_tls, client_tls = tls_contexts(tmp_path)
    script = saying(CHUNKED + chunk(b"one"), then=wait_for_close)
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
    async with scripted_server(wait_for_close) as server:
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
    script = saying(CHUNKED, then=wait_for_close)
    timeouts = UpstreamTimeouts(connect_seconds=0.05)
    async with against(script, timeouts=timeouts, connections_max=1) as (upstream, server):
        first = await upstream.send(REQUEST)
        with pytest.raises(UpstreamNotReachedError):
            await upstream.send(REQUEST)
        await first.close()
        second = await upstream.send(REQUEST)  # the place is free again
        await second.close()
    assert len(server.requests) == 2


async def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    """A provider that dropped an idle connection is called on a new one, unseen by the caller."""
    scripts = saying(answer(b"{}")), saying(answer(b"[]"))
    async with against(*scripts) as (upstream, server):
        assert await (await upstream.send(REQUEST)).read(10) == b"{}"
        await until(lambda: idle_connections(upstream) == 0)
        assert await (await upstream.send(REQUEST)).read(10) == b"[]"
    assert server.connections == 2
