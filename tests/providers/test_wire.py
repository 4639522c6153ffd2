"""A wire: when an answer is whole, when it is broken, and when its connection may be used again."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.operations.upstream import UpstreamBrokenError, UpstreamTimeoutError
from farebox.providers.wire import HEAD_BYTES_MAX, UNREAD_BYTES_MAX, WireClosedError
from tests.support.scripted_server import CHUNKED, LAST_CHUNK, answer, chunk
from tests.support.wire_bench import REQUEST, WireBench, cut

T = TypeVar("T")

HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"


class Told(NamedTuple):
    """What became of an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_whole: bool
    is_reusable: bool


async def told(pieces: list[bytes], *, ends: bool = False) -> Told:
    """Hear an answer in these pieces, and perhaps the end of the connection."""
    bench = WireBench()
    arriving = bench.call()
    bench.hear(*pieces)
    if ends and not bench.transport.is_aborted:
        bench.wire.eof_received()
    body, is_whole = b"", True
    try:
        await arriving.head(1)
        async for piece in arriving.chunks():
            body += piece
    except UpstreamBrokenError:
        is_whole = False
    assert len(bench.owner.freed_as) == 1
    assert bench.owner.freed_as[0] == (not bench.transport.is_aborted)
    assert bench.owner.is_lost == bench.transport.is_aborted
    return Told(arriving.status, arriving.headers, body, is_whole, bench.owner.freed_as[0])


def finished(work: Awaitable[T]) -> T:
    """The result of work in an event loop of its own that never waits in vain."""

    async def patiently() -> T:
        return await asyncio.wait_for(work, 10)

    return asyncio.run(patiently())


# --- framing -----------------------------------------------------------------------------------

BODIES = st.binary(max_size=200)
PLACES = st.lists(st.integers(0, 2000), max_size=12)
TRAILERS = st.sampled_from([b"", b"x-checksum: 1\r\n", b"x-a: 1\r\nx-b: 2\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes, bool]:
    """A valid answer, its body, and whether it ends with its connection."""
    body = draw(BODIES)
    head = b"HTTP/1.1 200 OK\r\nX-Request-Id:  req_1 \r\n"
    framing = draw(st.sampled_from(["length", "chunks", "close", "gzip"]))
    hints = HINT * draw(st.integers(0, 2))
    if framing == "length":
        wire = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    elif framing == "gzip":
        packed = gzip.compress(body[:50]) + gzip.compress(body[50:])
        wire = head + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed
    elif framing == "close":
        wire = head + b"\r\n" + body
    else:
        pieces = [piece for piece in cut(body, draw(PLACES)) if piece]
        coded = b"".join(
            b"%x%b\r\n%b\r\n" % (len(piece), draw(st.sampled_from([b"", b";x=1", b"  "])), piece)
            for piece in pieces
        )
        last = b"0\r\n" + draw(TRAILERS) + b"\r\n"
        wire = head + b"Transfer-Encoding: Chunked\r\n\r\n" + coded + last
    return hints + wire, body, framing == "close"


@given(answers(), PLACES)
def test_any_split_of_a_valid_answer_reads_alike(
    said: tuple[bytes, bytes, bool], places: list[int]
) -> None:
    """However an answer is cut by the network, it is the same answer, and whole."""
    wire, body, ends = said
    want = Told(200, (("x-request-id", "req_1"),), body, is_whole=True, is_reusable=not ends)
    assert finished(told(cut(wire, places), ends=ends)) == want


@given(answers(), st.integers(0, 2000), PLACES)
def test_an_answer_that_is_cut_short_is_never_whole(
    said: tuple[bytes, bytes, bool], length: int, places: list[int]
) -> None:
    """DED-14: whatever is missing, the break is told, after all that arrived before it."""
    wire, body, ends = said
    if not ends:
        short = wire[: length % len(wire)]
        found = finished(told(cut(short, places), ends=True))
        assert not found.is_whole
        assert not found.is_reusable
        assert body.startswith(found.body)


@given(answers(), answers(), PLACES)
def test_one_answer_leaves_nothing_for_the_next(
    first: tuple[bytes, bytes, bool], second: tuple[bytes, bytes, bool], places: list[int]
) -> None:
    """A connection that is used again gives the second call its own head and body, no trailer."""

    async def both() -> tuple[bytes, bytes, tuple[tuple[str, str], ...]]:
        bench = WireBench()
        one = bench.call()
        bench.hear(*cut(first[0], places))
        other = bench.call()
        bench.hear(*cut(second[0], places))
        if second[2]:
            bench.wire.eof_received()
        bodies = []
        for each in (one, other):
            await each.head(1)
            bodies.append(await each.read(1000))
        return bodies[0], bodies[1], other.headers

    if not first[2]:
        headers = (("x-request-id", "req_1"),)
        assert finished(both()) == (first[1], second[1], headers)


@pytest.mark.parametrize(
    ("said", "is_reusable"),
    [
        (answer(b"{}"), True),
        (answer(b""), True),
        (answer(b"{}", status="204 No Content").removesuffix(b"{}"), True),
        (answer(b"", status="304 Not Modified"), True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (CHUNKED + LAST_CHUNK, True),
        (answer(b"{}", headers="connection: close\r\n"), False),
        (answer(b"{}", headers="Connection: x, Close\r\n"), False),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + LAST_CHUNK, False),
        (answer(b"{}").replace(b"1.1", b"1.0"), False),
        (answer(b"{}", headers="connection: keep-alive\r\n").replace(b"1.1", b"1.0"), True),
        (answer(b"{}") + b"x", False),
        (answer(b"{}") + answer(b"{}"), False),
        (CHUNKED + LAST_CHUNK + b"HTTP/1.1 200 OK\r\n", False),
        (answer(b"{}").replace(b"\r\n", b"\n"), True),
    ],
    ids=range(15),
)
async def test_when_a_connection_is_used_again(said: bytes, is_reusable: bool) -> None:
    """Only after a whole answer that says nothing against it, with nothing behind it."""
    found = await told([said])
    assert found.is_whole
    assert found.is_reusable == is_reusable


@pytest.mark.parametrize(
    "said",
    [
        b"\x00",
        b"<html>",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 099 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n{}",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (HEAD_BYTES_MAX // 2) + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * HEAD_BYTES_MAX + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * HEAD_BYTES_MAX,
        HINT * (HEAD_BYTES_MAX // 10) + answer(b"{}"),
        b"HTTP/1.1 200 " + b"O" * HEAD_BYTES_MAX,
    ],
    ids=range(22),
)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_what_is_no_answer(said: bytes, bytewise: bool) -> None:
    """Nonsense, other protocols, doubtful framing and endless heads break the call at once."""
    pieces = cut(said, range(0, len(said), 7)) if bytewise else [said]
    bench = WireBench()
    arriving = bench.call()
    for piece in pieces:
        if bench.transport.is_aborted:
            break
        bench.hear(piece)
    assert bench.transport.is_aborted
    assert bench.owner.freed_as == [False]
    with pytest.raises(UpstreamBrokenError, match="before its answer"):
        await arriving.head(1)


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"x" * 1000, b"0\r\nx-trailer: " + b"x" * 1000, b"0\r\n" + b"a: b\r\n" * 100],
)
async def test_what_never_comes_to_the_point(endless: bytes) -> None:
    """Between two bytes of a body there is a limit too: extensions and trailers end somewhere."""
    bench = WireBench()
    arriving = bench.call()
    bench.hear(CHUNKED, chunk(b"one"), endless)
    for _ in range(HEAD_BYTES_MAX // 600):
        if not bench.transport.is_aborted:
            bench.hear(b"a: b\r\n" * 100 if endless.endswith(b"\n") else b"x" * 1000)
    assert bench.transport.is_aborted
    await arriving.head(1)
    chunks = arriving.chunks()
    assert await anext(chunks) == b"one"
    with pytest.raises(UpstreamBrokenError):
        await anext(chunks)


# --- one write, and what has not left ----------------------------------------------------------


async def test_a_request_is_one_write() -> None:
    """Head and body leave together."""
    bench = WireBench()
    bench.call()
    assert bench.transport.written == [REQUEST]


async def test_a_closed_connection_is_given_nothing() -> None:
    """The proof of nothing sent: the connection was closed before it was given the first byte."""
    for end in ("aborted", "lost"):
        bench = WireBench()
        if end == "aborted":
            bench.transport.abort()
        else:
            bench.wire.connection_lost(None)
        assert not bench.wire.is_open
        with pytest.raises(WireClosedError):
            bench.call()
        assert bench.transport.written == []
        assert bench.owner.freed_as == []


async def test_an_answer_before_the_request_has_left_ends_the_connection() -> None:
    """What has not left of a request that is answered must not reach the provider any more."""
    bench = WireBench()
    arriving = bench.call()
    bench.transport.unsent = 1
    bench.hear(answer(b"no", status="413 Content Too Large"))
    assert bench.transport.is_aborted
    assert bench.owner.freed_as == [False]
    await arriving.head(1)
    assert await arriving.read(10) == b"no"


async def test_a_word_that_nobody_asked_for_ends_an_idle_connection() -> None:
    """What comes between two calls must not be taken for the next one's answer."""
    bench = WireBench()
    bench.call()
    bench.hear(answer(b"{}"))
    assert bench.owner.freed_as == [True]
    bench.hear(answer(b"late"))
    assert bench.transport.is_aborted
    assert bench.owner.is_lost


# --- the reader's pace -------------------------------------------------------------------------


async def test_a_connection_is_not_read_while_its_reader_dawdles() -> None:
    """No pile-up: reading stops above a limit, and goes on when the reader has taken it."""
    bench = WireBench()
    arriving = bench.call()
    bench.hear(CHUNKED, chunk(b"x" * UNREAD_BYTES_MAX))
    assert bench.transport.is_reading()
    bench.hear(chunk(b"x"))
    assert not bench.transport.is_reading()
    await arriving.head(1)
    chunks = arriving.chunks()
    assert len(await anext(chunks)) == UNREAD_BYTES_MAX + 1
    assert bench.transport.is_reading()
    bench.hear(LAST_CHUNK)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    assert bench.owner.freed_as == [True]


async def test_a_connection_is_read_again_after_a_large_answer() -> None:
    """A body that is whole before anybody reads it leaves the connection ready."""
    bench = WireBench()
    arriving = bench.call()
    body = b"x" * (UNREAD_BYTES_MAX * 2)
    whole = answer(body)
    bench.hear(whole[:-10])
    assert not bench.transport.is_reading()
    bench.hear(whole[-10:])  # was on its way
    assert bench.transport.is_reading()
    assert bench.owner.freed_as == [True]
    assert await arriving.read(len(body)) == body


# --- patience ----------------------------------------------------------------------------------


async def test_patience_is_for_what_is_awaited() -> None:
    """The wait for a head and each wait for a piece have an end; a reader's own pauses do not."""
    bench = WireBench()
    late = bench.call(patience_seconds=0.01)
    with pytest.raises(UpstreamTimeoutError, match="no answer in"):
        await late.head(0.01)
    assert bench.transport.is_aborted

    bench = WireBench()
    slow = bench.call(patience_seconds=0.01)
    bench.hear(CHUNKED, chunk(b"one"))
    await slow.head(0.01)
    await asyncio.sleep(0.03)  # the reader's own pause
    assert not bench.transport.is_aborted
    chunks = slow.chunks()
    assert await anext(chunks) == b"one"
    with pytest.raises(UpstreamTimeoutError, match="sent nothing for"):
        await anext(chunks)
    assert bench.transport.is_aborted


async def test_an_early_ring_is_no_ring() -> None:
    """A timer that was set for an earlier wait does not end a later, longer one."""
    bench = WireBench()
    bench.wire.wake_at(bench.loop.time() + 0.01)  # as an idle connection's
    arriving = bench.call(patience_seconds=60)
    await asyncio.sleep(0.03)
    assert not bench.transport.is_aborted
    bench.wire.wake_at(bench.loop.time() + 0.01)
    with pytest.raises(UpstreamTimeoutError):
        await arriving.head(0.01)


# --- the end of the connection -----------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "Connection reset by peer")])
async def test_a_lost_connection_breaks_its_call_once(error: Exception | None) -> None:
    """However often the end is told, the call is freed once; its reason holds no byte of it."""
    bench = WireBench()
    arriving = bench.call()
    bench.hear(CHUNKED, chunk(b"secret"))
    bench.wire.connection_lost(error)
    bench.wire.connection_lost(error)
    assert bench.owner.freed_as == [False]
    await arriving.head(1)
    chunks = arriving.chunks()
    assert await anext(chunks) == b"secret"
    with pytest.raises(UpstreamBrokenError) as broken:
        await anext(chunks)
    assert "secret" not in str(broken.value)


async def test_a_reset_is_no_end_of_a_body() -> None:
    """A body without a length is whole only if its connection ends in an orderly way."""
    bench = WireBench()
    arriving = bench.call()
    bench.hear(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    bench.wire.connection_lost(ConnectionResetError())
    await arriving.head(1)
    with pytest.raises(UpstreamBrokenError):
        await arriving.read(100)


async def test_nothing_goes_round_in_circles() -> None:
    """What a call made is gone with it, without the collector's help."""
    for said in (answer(b"{}"), CHUNKED + chunk(b"x"), b"nonsense"):
        bench = WireBench()
        gc.collect()
        gc.disable()
        try:
            arriving = bench.call()
            bench.hear(said)
            try:
                await arriving.head(1)
                await arriving.close()
            except UpstreamBrokenError:
                pass
            bench.wire.connection_lost(None)
            del arriving, bench
            assert gc.collect() == 0
        finally:
            gc.enable()
