"""How answers leave the simulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.simulated.billed import BilledCall
from farebox.providers.simulated.bodies import Event
from farebox.providers.simulated.chance import digest, draws
from farebox.providers.simulated.replies import Delivery, StreamReply, WholeReply

EVENTS = [Event(b"data: %d\n\n" % number, tokens=1) for number in range(40)]
WHOLE = b"".join(event.data for event in EVENTS)


class Sleeper:
    """Waits without waiting, and remembers for how long."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.then: Callable[[], object] = lambda: None

    async def __call__(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
            self.then()
        await asyncio.sleep(0)


def _call() -> BilledCall:
    usage: dict[str, int | float | str] = {"prompt": 7, "completion": 40, "total": 47}
    return BilledCall("chatcmpl-1", "req_1", None, "/x", "gpt-5.4", "default", True, usage)


def _stream(
    call: BilledCall, sleep: Sleeper | None = None, *, seed: int = 0, hidden: int = 0, **how: Any
) -> StreamReply:
    chance = draws(digest(seed, "test", b""))
    delivery = Delivery(draws=chance, sleep=sleep or Sleeper(), **how)
    return StreamReply((), iter(EVENTS), call, delivery, hidden_tokens=hidden)


async def _pieces(
    reply: StreamReply | WholeReply,
) -> tuple[list[bytes], UpstreamBrokenError | None]:
    pieces = []
    try:
        async for piece in reply.chunks():
            pieces.append(piece)  # noqa: PERF401 - kept across the error
    except UpstreamBrokenError as error:
        return pieces, error
    return pieces, None


async def test_pieces_are_cut_like_a_network_does() -> None:
    """Some pieces hold one event, some several, some part of one; together they are the stream."""
    whole = shared = split = 0
    for seed in range(20):
        pieces, error = await _pieces(_stream(_call(), seed=seed))
        assert error is None
        assert b"".join(pieces) == WHOLE
        assert b"" not in pieces
        whole += sum(piece in {event.data for event in EVENTS} for piece in pieces)
        shared += sum(piece.count(b"\n\n") > 1 for piece in pieces)
        split += sum(not piece.endswith(b"\n\n") for piece in pieces)
    assert min(whole, shared, split) > 20


async def test_the_same_seed_cuts_the_same() -> None:
    """A stream can be replayed to the byte."""
    assert await _pieces(_stream(_call(), seed=3)) == await _pieces(_stream(_call(), seed=3))


async def test_a_stream_that_was_read_is_complete() -> None:
    """A complete stream bills what it reported."""
    call = _call()
    assert await _stream(call).read(len(WHOLE)) == WHOLE
    assert (call.outcome, call.events) == ("complete", 40)
    assert call.usage is not None
    assert call.usage["completion"] == 40


async def test_a_stream_has_a_pace() -> None:
    """The ordered wait comes before each event."""
    sleep = Sleeper()
    await _pieces(_stream(_call(), sleep, event_seconds=0.02))
    assert sleep.slept == [0.02] * 40


@pytest.mark.parametrize("after", [0, 1, 3, 39, 40])
async def test_an_ordered_break_comes_after_exactly_so_many_events(after: int) -> None:
    """DED-14: whole events leave, then the connection breaks; what was generated is billed."""
    for seed in range(10):
        call = _call()
        pieces, error = await _pieces(_stream(call, seed=seed, hidden=5, breaks_after=after))
        assert type(error) is UpstreamBrokenError
        assert b"".join(pieces) == b"".join(event.data for event in EVENTS[:after])
        assert call.events == after
        if after < 40:
            assert call.outcome == "broken"
            assert call.usage == {"prompt": 7, "completion": 5 + after, "total": 12 + after}


async def test_a_break_beyond_the_end_never_comes() -> None:
    """A stream that is shorter than the ordered break ends as usual."""
    pieces, error = await _pieces(_stream(_call(), breaks_after=41))
    assert (b"".join(pieces), error) == (WHOLE, None)


async def test_an_ordered_silence_ends_with_patience() -> None:
    """With ``hang`` the stream stops speaking instead of breaking."""
    sleep = Sleeper()
    call = _call()
    pieces, error = await _pieces(_stream(call, sleep, breaks_after=3, hangs_seconds=300.0))
    assert type(error) is UpstreamTimeoutError
    assert b"".join(pieces).count(b"\n\n") == 3
    assert sleep.slept == [300.0]
    assert call.outcome == "closed"


async def test_closing_a_silent_stream_ends_it() -> None:
    """Whoever waits on a stream that is closed elsewhere hears of it."""
    sleep = Sleeper()
    reply = _stream(_call(), sleep, breaks_after=0, hangs_seconds=300.0)
    closes = []
    sleep.then = lambda: closes.append(asyncio.ensure_future(reply.close()))

    async def never(seconds: float) -> None:
        await sleep(seconds)
        await asyncio.Event().wait()

    reply._delivery = Delivery(
        draws=draws(b"12345678"), sleep=never, breaks_after=0, hangs_seconds=1
    )
    _, error = await _pieces(reply)
    assert type(error) is UpstreamBrokenError
    assert len(closes) == 1


async def test_closing_early_bills_what_was_generated() -> None:
    """DED-14: a caller that closes early is billed what was made, hidden tokens included."""
    call = _call()
    reply = _stream(call, hidden=5)
    chunks = reply.chunks()
    await anext(chunks)
    await anext(chunks)
    events = call.events
    await reply.close()
    assert call.outcome == "closed"
    assert call.usage == {"prompt": 7, "completion": 5 + events, "total": 12 + events}
    with pytest.raises(UpstreamBrokenError):
        [piece async for piece in chunks]
    assert call.events == events


async def test_a_reader_that_goes_away_closes() -> None:
    """Leaving the iteration is closing, and closing twice is harmless."""
    call = _call()
    reply = _stream(call)
    chunks = reply.chunks()
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    await reply.close()
    assert call.outcome == "closed"


async def test_closing_before_the_first_event() -> None:
    """A stream that nobody began to read bills its prompt alone."""
    call = _call()
    await _stream(call).close()
    assert call.usage == {"prompt": 7, "completion": 0, "total": 7}


async def test_closing_after_the_end_changes_nothing() -> None:
    """The usual end of every call."""
    call = _call()
    reply = _stream(call)
    await reply.read(10_000)
    await reply.close()
    assert call.outcome == "complete"


async def test_a_stream_over_the_limit() -> None:
    """Reading a stream whole obeys the limit."""
    call = _call()
    with pytest.raises(UpstreamTooLargeError):
        await _stream(call).read(len(WHOLE) - 1)


async def test_a_whole_reply() -> None:
    """A body that is ready is given at once, within the limit, once or in pieces."""
    reply = WholeReply(200, (("a", "b"),), b"12345")
    assert (reply.status, reply.headers) == (200, (("a", "b"),))
    assert await reply.read(5) == b"12345"
    assert b"".join((await _pieces(reply))[0]) == b"12345"
    with pytest.raises(UpstreamTooLargeError):
        await reply.read(4)
    await reply.close()
    with pytest.raises(UpstreamBrokenError):
        await reply.read(5)
    assert (await _pieces(reply))[1] is not None


async def test_a_whole_reply_can_break_in_the_middle() -> None:
    """Half the body, then the break."""
    reply = WholeReply(200, (), b"123456", breaks=True)
    pieces, error = await _pieces(reply)
    assert (pieces, type(error)) == ([b"123"], UpstreamBrokenError)
    with pytest.raises(UpstreamBrokenError):
        await reply.read(100)
