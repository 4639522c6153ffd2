"""Scenes for tests of the real upstream: a provider that says exactly these bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from farebox.operations.upstream import UpstreamBrokenError, UpstreamRequest, UpstreamResponse
from farebox.providers.openai_compatible import OpenAICompatibleUpstream, UpstreamTimeouts
from tests.support.scripted_server import (
    PATIENCE_SECONDS,
    Connection,
    Script,
    ScriptedServer,
    scripted_server,
)

# A test that waits in vain fails soon.
QUICK = UpstreamTimeouts(head_seconds=PATIENCE_SECONDS, idle_seconds=PATIENCE_SECONDS)
REQUEST = UpstreamRequest("/chat/completions", b'{"model":"gpt-5.4"}')


@asynccontextmanager
async def against(
    *scripts: Script, timeouts: UpstreamTimeouts | None = None, **settings: Any
) -> AsyncIterator[tuple[OpenAICompatibleUpstream, ScriptedServer]]:
    """The upstream and its provider, which follows these scripts."""
    async with scripted_server(*scripts) as server:
        upstream = OpenAICompatibleUpstream(
            server.base_url, "sk-x", timeouts=timeouts or QUICK, **settings
        )
        try:
            yield upstream, server
        finally:
            await upstream.aclose()


def saying(*parts: bytes, then: Callable[[Connection], Awaitable[None]] | None = None) -> Script:
    """A script: read the request, say these parts, do something, close."""

    async def script(connection: Connection) -> None:
        await connection.request()
        for part in parts:
            await connection.send(part)
        if then is not None:
            await then(connection)

    return script


async def wait_for_close(connection: Connection) -> None:
    """A script: see the client go."""
    await connection.closed()


async def drain(
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


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop run until something is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def idle_connections(upstream: OpenAICompatibleUpstream) -> int:
    """Idle connections that are still open."""
    return upstream._client.connections.idle_count
