"""The connections to a provider: in order, never too many, none leaked, none used when dirty."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamRequest,
)
from farebox.providers.connections import Connections, Origin
from farebox.providers.openai_compatible import OpenAICompatibleUpstream, UpstreamTimeouts
from farebox.providers.wire import Wire
from tests.support.certificates import tls_contexts
from tests.support.provider_scenes import (
    QUICK,
    REQUEST,
    against,
    saying,
    until,
    wait_for_close,
)
from tests.support.scripted_server import (
    CHUNKED,
    PATIENCE_SECONDS,
    Connection,
    answer,
    scripted_server,
)


def connections_of(upstream: OpenAICompatibleUpstream) -> Connections:
    """Its connections."""
    return upstream._client.connections


def named(name: str) -> UpstreamRequest:
    """A call with a name, which the provider repeats."""
    return UpstreamRequest("/chat/completions", name.encode())


async def echo(connection: Connection) -> None:
    """A script: repeat the body of every request."""
    while True:
        whole = await connection.request()
        await connection.send(answer(whole.partition(b"\r\n\r\n")[2]))


async def call(upstream: OpenAICompatibleUpstream, name: str) -> str:
    """One call, read to its end."""
    return (await (await upstream.send(named(name))).read(1000)).decode()


# --- places ------------------------------------------------------------------------------------


async def test_who_asks_first_is_served_first() -> None:
    """With every connection taken, calls wait in order and nobody who comes later overtakes."""
    async with against(echo, connections_max=1) as (upstream, server):
        names = [f"call {n}" for n in range(20)]
        assert await asyncio.gather(*(call(upstream, name) for name in names)) == names
    assert server.connections == 1
    assert [whole.partition(b"\r\n\r\n")[2].decode() for whole in server.requests] == names


async def test_there_are_never_more_connections_than_allowed() -> None:
    """A hundred calls over three connections."""
    async with against(echo, connections_max=3) as (upstream, server):
        names = [f"call {n}" for n in range(100)]
        assert await asyncio.gather(*(call(upstream, name) for name in names)) == names
        assert connections_of(upstream).taken_count == 0
        assert connections_of(upstream).idle_count == 3
    assert server.connections == 3


async def test_a_cancelled_wait_gives_its_turn_to_the_next() -> None:
    """Who waits no more stands in nobody's way."""
    script = saying(CHUNKED, then=wait_for_close)
    async with against(script, echo, connections_max=1) as (upstream, _):
        first = await upstream.send(REQUEST)
        waiting = [asyncio.ensure_future(call(upstream, f"call {n}")) for n in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        await first.close()
        assert await waiting[1] == "call 1"
        assert await waiting[2] == "call 2"
        assert waiting[0].cancelled()


async def test_a_turn_that_comes_too_late_goes_on_to_the_next() -> None:
    """A place that comes in the very turn in which its waiter is cancelled is not lost."""
    script = saying(CHUNKED, then=wait_for_close)
    async with against(script, echo, connections_max=1) as (upstream, _):
        first = await upstream.send(REQUEST)
        waiting = [asyncio.ensure_future(call(upstream, f"call {n}")) for n in range(2)]
        await asyncio.sleep(0)
        await first.close()  # the place goes to the first who waits...
        waiting[0].cancel()  # ...who is gone before it knows
        assert await waiting[1] == "call 1"
        assert connections_of(upstream).taken_count == 0


async def test_a_place_that_fails_to_connect_is_free_again() -> None:
    """A provider that is down takes no places."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        upstream = OpenAICompatibleUpstream(base_url, None, connections_max=2)
        for _ in range(5):
            with pytest.raises(UpstreamNotReachedError):
                await upstream.send(REQUEST)
        assert connections_of(upstream).taken_count == 0
        await upstream.aclose()


# --- cancellation ------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_a_call_cancelled_anywhere_leaves_nothing(
    secure: bool, kept: bool, tmp_path: Path
) -> None:
    """However far a cancelled call came, its place is free and the next gets its own answer."""
    server_tls, client_tls = tls_contexts(tmp_path) if secure else (None, None)
    finished = False
    turns = 0
    async with scripted_server(echo, tls=server_tls) as server:
        upstream = OpenAICompatibleUpstream(
            server.base_url, None, tls=client_tls, timeouts=QUICK, connections_max=1
        )
        while not finished:
            if kept:
                assert await call(upstream, "before") == "before"
            else:
                for wire in list(connections_of(upstream)._wires):
                    wire.drop()
            cancelled = asyncio.ensure_future(call(upstream, "cancelled"))
            for _ in range(turns):
                await asyncio.sleep(0)
            finished = cancelled.done()
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert connections_of(upstream).taken_count == 0
            assert await call(upstream, "after") == "after"
            await until(lambda: len(connections_of(upstream)._wires) == 1)
            turns += 1
        await upstream.aclose()
    assert turns > 2


async def test_a_call_cancelled_while_it_connects_hangs_up() -> None:
    """A server that never answers the TLS greeting sees the connection end."""
    async with scripted_server(wait_for_close) as server:
        upstream = OpenAICompatibleUpstream(server.base_url.replace("http:", "https:"), None)
        connecting = asyncio.ensure_future(upstream.send(REQUEST))
        await until(lambda: server.connections == 1)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await server.saw_close()
        assert connections_of(upstream).taken_count == 0
        await upstream.aclose()


# --- keeping -----------------------------------------------------------------------------------


async def test_an_idle_connection_is_dropped_in_time() -> None:
    """Sooner than providers drop theirs, so that a call seldom meets a closed one."""

    async def once(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"{}"))
        await connection.closed()

    async with against(once, keepalive_seconds=0.02) as (upstream, server):
        assert await (await upstream.send(REQUEST)).read(10) == b"{}"
        assert connections_of(upstream).idle_count == 1
        await server.saw_close()
        assert connections_of(upstream).idle_count == 0


async def test_the_connection_used_last_is_used_first() -> None:
    """So the others grow old together, and a quiet provider keeps few."""
    async with against(echo) as (upstream, server):
        await asyncio.gather(*(call(upstream, f"call {n}") for n in range(4)))
        used = set()
        for n in range(5):
            response = await upstream.send(named(f"again {n}"))
            used |= set(connections_of(upstream)._idle)
            await response.read(100)
        assert len(list(connections_of(upstream)._idle)) == 4
        last = list(connections_of(upstream)._idle)[-1]
        await call(upstream, "once more")
        assert list(connections_of(upstream)._idle)[-1] is last
    assert server.connections == 4


async def test_a_connection_that_closes_as_it_is_taken_is_replaced() -> None:
    """A kept connection that is known to be closing is given nothing; a new one takes over."""
    async with against(echo) as (upstream, server):
        await call(upstream, "first")
        (wire,) = connections_of(upstream)._idle
        assert wire._transport is not None
        wire._transport.close()
        assert await call(upstream, "second") == "second"
    assert server.connections == 2
    assert len(server.requests) == 2


async def test_a_new_connection_that_is_closed_already_got_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found closed before the first byte: proof of no work."""
    make = Connections._connect

    async def made_in_vain(self: Connections) -> Wire:
        wire = await make(self)
        assert wire._transport is not None
        wire._transport.close()
        return wire

    async with against(echo) as (upstream, server):
        monkeypatch.setattr(Connections, "_connect", made_in_vain)
        with pytest.raises(UpstreamNotReachedError, match="nothing was sent"):
            await upstream.send(REQUEST)
        assert connections_of(upstream).taken_count == 0
        monkeypatch.setattr(Connections, "_connect", make)
        assert await call(upstream, "next") == "next"
    assert len(server.requests) == 1


async def test_small_packets_leave_at_once() -> None:
    """Nothing waits for an acknowledgement of what was sent before."""
    async with against(echo) as (upstream, _):
        await call(upstream, "first")
        (wire,) = connections_of(upstream)._idle
        assert wire._transport is not None
        sock = wire._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
async def test_closing_ends_everybodys_waiting(secure: bool) -> None:
    """Who waits for a place, or for the other side's greeting, hears that nothing was sent."""
    async with scripted_server(wait_for_close) as server:
        base_url = server.base_url.replace("http:", "https:") if secure else server.base_url
        upstream = OpenAICompatibleUpstream(base_url, None, timeouts=QUICK, connections_max=1)
        calls = [asyncio.ensure_future(upstream.send(REQUEST)) for _ in range(3)]
        await until(lambda: server.connections == 1)
        calls[1].cancel()  # in the same turn
        await upstream.aclose()
        found = await asyncio.wait_for(
            asyncio.gather(*calls, return_exceptions=True), PATIENCE_SECONDS
        )
        kinds = [type(each) for each in found]
        first = UpstreamNotReachedError if secure else UpstreamBrokenError
        assert kinds == [first, asyncio.CancelledError, UpstreamNotReachedError]
        assert connections_of(upstream).taken_count == 0
    assert server.connections == 1


async def test_a_connection_that_comes_about_after_the_end_is_dropped() -> None:
    """Taken out of use while it connects: the request is not sent any more."""
    async with against(echo) as (upstream, server):
        connecting = asyncio.ensure_future(upstream.send(REQUEST))
        await asyncio.sleep(0)
        await upstream.aclose()
        with pytest.raises(UpstreamNotReachedError, match="out of use"):
            await connecting
        await until(lambda: not connections_of(upstream)._wires)
    assert server.requests == []


# --- where -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "host", "port", "header"),
    [
        ("http://provider.example/v1", "provider.example", 80, "provider.example"),
        ("https://provider.example/v1", "provider.example", 443, "provider.example"),
        ("https://provider.example:443", "provider.example", 443, "provider.example"),
        ("https://provider.example:80", "provider.example", 80, "provider.example:80"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8000, "127.0.0.1:8000"),
        ("http://[::1]:8000/v1", "::1", 8000, "[::1]:8000"),
        ("https://[2001:db8::1]/v1", "2001:db8::1", 443, "[2001:db8::1]"),
        ("http://[fe80::1%25eth0]:80/v1", "fe80::1%eth0", 80, "[fe80::1]"),
    ],
)
def test_where_a_base_url_leads(base: str, host: str, port: int, header: str) -> None:
    """Host has the port where it is not the usual one, and no zone of this machine."""
    origin = Origin.of(base)
    assert (origin.host, origin.port, origin.host_header) == (host, port, header)


async def test_a_host_that_cannot_be_is_not_reached() -> None:
    """A name that DNS cannot hold is an error of the call, not of the program."""
    upstream = OpenAICompatibleUpstream(f"http://{'x' * 70}.example/v1", None)
    with pytest.raises(UpstreamNotReachedError, match="cannot connect"):
        await upstream.send(REQUEST)
    await upstream.aclose()


async def test_another_hosts_certificate_is_not_reached(tmp_path: Path) -> None:
    """The name is told to the server (SNI) and compared with its certificate."""
    server_tls, client_tls = tls_contexts(tmp_path)
    asked: list[str | None] = []

    def note(_: object, name: str | None, __: object) -> None:
        asked.append(name)

    server_tls.sni_callback = note
    async with scripted_server(wait_for_close, tls=server_tls) as server:
        base_url = server.base_url.replace("127.0.0.1", "localhost")
        upstream = OpenAICompatibleUpstream(base_url, "sk-x", tls=client_tls)
        with pytest.raises(UpstreamNotReachedError, match="SSLCertVerificationError"):
            await upstream.send(REQUEST)
        await upstream.aclose()
    assert asked == ["localhost"]
    assert server.requests == []


# --- what remains of a call --------------------------------------------------------------------


async def nothing(upstream: OpenAICompatibleUpstream) -> None:
    """A call on a kept connection, read to its end."""
    response = await upstream.send(REQUEST)
    await response.read(100)
    await response.close()


async def broken_off(upstream: OpenAICompatibleUpstream) -> None:
    """A call that is closed before its end, on a connection of its own."""
    await (await upstream.send(REQUEST)).close()


@pytest.mark.parametrize("way", [nothing, broken_off])
async def test_calls_leave_no_circles(
    way: Callable[[OpenAICompatibleUpstream], Awaitable[Any]],
) -> None:
    """What a call made is freed as it ends: the collector of circles finds nothing."""
    async with against(echo, timeouts=UpstreamTimeouts()) as (upstream, _):
        await way(upstream)
        await asyncio.sleep(0.01)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await way(upstream)
            await asyncio.sleep(0.01)
            ours = [each for each in _circles() if type(each).__module__.startswith("farebox")]
        finally:
            gc.enable()
    assert ours == []


def _circles() -> list[Any]:
    """Everything that only the collector can free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
