"""Streams: events pass as they come, the end waits for the charge, and rubbish harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from farebox.gateway import streaming
from farebox.gateway.http import Answer, StreamAnswer
from farebox.ledger.commands import Settle
from farebox.operations.upstream import UpstreamBrokenError, UpstreamRequest
from tests.support.ledger_memory import audit
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptedResponse,
    delta,
    event,
    usage,
    usage_chunk,
    whole,
)
from tests.support.small_gateway import SmallGateway

INPUT, OUTPUT = 2_500, 15_000
FULL = 10 * INPUT + 5 * OUTPUT
USAGE = {"stream_options": {"include_usage": True}}

HEAD = [event({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}), delta("one two")]
TAIL = [delta("", finish="stop"), usage_chunk(10, 5), DONE]


def scripted(*pieces: bytes | Exception | Pause, **more: Any) -> Callable[[Any], ScriptedResponse]:
    """A script of these pieces."""
    return lambda _: ScriptedResponse(pieces, **more)


async def test_events_pass_unchanged() -> None:
    """Content events are passed on byte for byte; the usage event is kept for who asked."""
    async with SmallGateway(scripted(*HEAD, *TAIL)) as small:
        pieces = await small.stream(**USAGE)
        assert pieces[:2] == HEAD
        end = b"".join(pieces[2:])
        assert end.startswith(TAIL[0])
        assert end.endswith(DONE)
        assert b'"cost":0.0001}' in end
        assert (await small.only_call()).charge == FULL
        pieces = await small.stream()
        assert b"".join(pieces) == b"".join([*HEAD, TAIL[0], DONE])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_a_stream_cut_at_every_byte(newline: bytes) -> None:
    """Wherever the network cuts the stream, the client gets the same and is charged the same."""
    data = b"".join([*HEAD, *TAIL]).replace(b"\n\n", newline * 2)
    kept = b"".join([*HEAD, TAIL[0], DONE]).replace(b"\n\n", newline * 2)
    for at in range(len(data)):
        async with SmallGateway(scripted(data[:at], data[at:])) as small:
            assert b"".join(await small.stream()) == kept
            assert (await small.only_call()).charge == FULL


async def test_one_byte_at_a_time() -> None:
    """The slowest network of all."""
    data = b"".join([*HEAD, *TAIL])
    async with SmallGateway(scripted(*(data[i : i + 1] for i in range(len(data))))) as small:
        assert b"".join(await small.stream()) == b"".join([*HEAD, TAIL[0], DONE])
        assert (await small.only_call()).charge == FULL


@pytest.mark.parametrize(
    "tail",
    [
        TAIL,
        [delta("", finish="stop", usage=usage(10, 5)), DONE],
        [usage_chunk(10, 5), delta("", finish="stop"), DONE],
        [usage_chunk(10, 5), DONE],
        [delta("", finish="stop"), usage_chunk(10, 5)],
        [delta("", finish="stop"), usage_chunk(10, 5).rstrip()],
        [delta("", usage=usage(1, 1)), delta("", usage=usage(10, 5)), DONE],
        [delta("", finish="stop"), usage_chunk(10, 5), UpstreamBrokenError("after the end")],
    ],
    ids=range(8),
)
async def test_nothing_of_the_end_leaves_before_the_charge(tail: list[Any]) -> None:
    """DED-15, promise 2: at the last event's leaving the charge has been committed."""
    async with SmallGateway(scripted(*HEAD, *tail)) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, StreamAnswer)
        seen = b""
        async for piece in answer.chunks:
            seen += piece
            if b"[DONE]" in piece or b'"finish_reason":"stop"' in piece:
                assert small.calls, "the end left before its charge"
        assert seen.startswith(b"".join(HEAD))
        closed = await small.only_call()
        assert closed.charge == FULL


async def test_an_end_mark_alone_waits_too() -> None:
    """A provider that sends neither reason nor usage: its end mark waits for our own count."""
    async with SmallGateway(scripted(*HEAD, DONE)) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, StreamAnswer)
        async for piece in answer.chunks:
            assert (b"[DONE]" in piece) <= bool(small.calls)
        closed = await small.only_call()
        assert closed.usage.output_tokens == 2
        (end,) = small.ends
        assert isinstance(end, Settle)
        assert (end.estimated, end.reason) == (True, "usage_missing")


async def test_an_empty_finish_reason_does_not_end_anything() -> None:
    """Some servers write an empty reason into every event: they are passed on all the same."""
    words = [delta(word, finish="") for word in ("one", " two", " three")]
    async with SmallGateway(scripted(*words, *TAIL)) as small:
        pieces = await small.stream()
        assert pieces[:3] == words
        assert (await small.only_call()).charge == FULL


async def test_the_last_of_several_choices_ends_the_answer() -> None:
    """With n = 2 only the second finish reason begins the end."""
    body = [delta("a"), delta("b", index=1), delta("", finish="stop"), delta("c", index=1)]
    tail = [delta("", index=1, finish="length"), usage_chunk(10, 5), DONE]
    async with SmallGateway(scripted(*body, *tail)) as small:
        pieces = await small.stream(n=2)
        assert pieces[:4] == body
        assert (await small.only_call()).charge == FULL


async def test_more_generated_than_answered() -> None:
    """With best_of = 3 and n = 1 one finish reason is the end: it waits for the charge."""
    async with SmallGateway(scripted(*HEAD, *TAIL)) as small:
        answer = await small.call(stream=True, best_of=3)
        assert isinstance(answer, StreamAnswer)
        async for piece in answer.chunks:
            assert (b'"finish_reason":"stop"' in piece) <= bool(small.calls)
        assert (await small.only_call()).charge == FULL


async def test_a_usage_chunk_at_the_beginning() -> None:
    """Some servers tell the prompt's usage first: the stream flows, its usage leaves at the end."""
    first = usage_chunk(10, 0)
    async with SmallGateway(scripted(first, *HEAD, *TAIL)) as small:
        pieces = await small.stream(**USAGE)
        assert pieces[:2] == HEAD
        assert b"".join(pieces).count(b'"usage":{') == 1
        assert (await small.only_call()).charge == FULL
    async with SmallGateway(scripted(first, *HEAD, delta("", finish="stop"), DONE)) as small:
        pieces = await small.stream(**USAGE)
        assert pieces[:2] == HEAD
        assert b"".join(pieces).count(b'"cost":') == 1
        closed = await small.only_call()
        (end,) = small.ends
        assert isinstance(end, Settle)
        assert (end.estimated, end.reason) == (True, "usage_incomplete")
        assert closed.usage.output_tokens == 2


async def test_usage_that_grows_with_the_answer() -> None:
    """Some servers tell the use so far in every event: of a broken stream the last one counts."""
    grown = [delta(f" {n}", usage=usage(10, n)) for n in (1, 2, 3)]
    async with SmallGateway(scripted(*grown, UpstreamBrokenError("x"))) as small:
        await small.stream()
        assert (await small.only_call()).charge == 10 * INPUT + 3 * OUTPUT
        (end,) = small.ends
        assert isinstance(end, Settle)
        assert (end.estimated, end.reason) == (False, "upstream_broken")


async def test_an_end_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held back has a limit: an upstream that goes on after its end is closed."""
    monkeypatch.setattr("farebox.gateway.streamed_call.TAIL_BYTES_MAX", 1_000)
    noise = [delta("more and more " * 20)] * 20
    async with SmallGateway(scripted(*HEAD, *TAIL[:2], *noise, DONE)) as small:
        pieces = b"".join(await small.stream())
        assert b'"code":"upstream_error"' in pieces
        assert (await small.only_call()).charge == FULL
        assert small.upstream.responses[0].taken < 10


@pytest.mark.parametrize("at", range(5))
async def test_the_tier_is_found_wherever_it_is(at: int) -> None:
    """DED-13: the tier may stand in any event; a usage chunk without it does not hide it."""
    tier: Any = {"service_tier": "priority"}
    end: list[bytes | Exception] = [delta("", finish="stop"), usage_chunk(10, 5), DONE]
    head = [delta("one two"), delta(" three")]
    if at == 0:
        head[0] = delta("one two", **tier)
    elif at == 1:
        end[0] = delta("", finish="stop", **tier)
    elif at == 2:
        end[1] = usage_chunk(10, 5, **tier)
    elif at == 3:
        head[0], end = delta("one two", **tier), [UpstreamBrokenError("x")]
    async with SmallGateway(scripted(*head, *end)) as small:
        await small.stream(service_tier="priority", max_completion_tokens=9)
        await small.settled()
        (settle,) = small.ends
        assert isinstance(settle, Settle)
        assert settle.lane == "priority"
        assert settle.estimated == (at >= 3)
        audit(small.ledger)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
async def test_a_server_that_does_not_stream(kind: str) -> None:
    """A whole answer to a stream request is passed on whole, and charged."""
    script = scripted(whole(usage(10, 5)), headers=(("content-type", kind),))
    async with SmallGateway(script) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, Answer)
        assert ("x-farebox-charge", "0.0001") in answer.headers
        assert (await small.only_call()).charge == FULL
        assert small.upstream.responses[0].closed.is_set()


@pytest.mark.parametrize("headers", [(), (("content-type", ""),), (("content-type", "x/y"),)])
async def test_a_stream_without_a_content_type(headers: tuple[tuple[str, str], ...]) -> None:
    """A server that forgets to say what it sends is taken at the request's word."""
    async with SmallGateway(scripted(*HEAD, *TAIL, headers=headers)) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, StreamAnswer)
        kind = dict(headers).get("content-type") or "text/event-stream"
        assert [value for name, value in answer.headers if name == "content-type"] == [kind]
        assert b"".join([piece async for piece in answer.chunks]).endswith(DONE)
        assert (await small.only_call()).charge == FULL


async def test_an_event_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that does not end closes the upstream and charges what was told before it."""
    monkeypatch.setattr(streaming, "EVENT_BYTES_MAX", 2_000)
    async with SmallGateway(scripted(*HEAD, b"data: " + b"x" * 3_000, *TAIL)) as small:
        pieces = b"".join(await small.stream())
        assert b'"code":"upstream_error"' in pieces
        assert b"xxx" not in pieces
        closed = await small.only_call()
        assert closed.usage.output_tokens == 2
        assert small.upstream.responses[0].closed.is_set()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: not json\n\n",
        b'data: {"choices":null}\n\n',
        b'data: {"choices":[{"delta":{"content":5,"tool_calls":{"x":1}}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"\xff"}}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',
        b'data: {"usage":{"prompt_tokens":1e999}}\n\n',
        b'data: {"usage":{},"usage":5}\n\n',
        b'data: {"choices":' + b"[" * 50_000 + b"\n\n",
    ],
    ids=range(9),
)
@pytest.mark.parametrize("ends", [True, False])
async def test_rubbish_in_a_stream(rubbish: bytes, ends: bool) -> None:
    """Whatever stands in an event, the call is charged once and the stream has an end."""
    tail: list[bytes | Exception] = [*TAIL] if ends else [UpstreamBrokenError("x")]
    async with SmallGateway(scripted(*HEAD, rubbish, *tail)) as small:
        pieces = b"".join(await small.stream(**USAGE))
        closed = await small.only_call()
        if ends:
            assert closed.charge == FULL
            assert pieces.endswith(DONE)
        else:
            assert closed.usage.output_tokens == 2
            assert b'"error"' in pieces


async def test_usage_that_is_no_object_reaches_who_asked() -> None:
    """A usage that cannot be read gets no cost, and breaks nothing."""
    odd = b'data: {"choices":[],"usage":{"a":1},"usage":[1]}\n\n'
    async with SmallGateway(scripted(*HEAD, delta("", finish="stop"), odd, DONE)) as small:
        assert odd in b"".join(await small.stream(**USAGE))
        await small.only_call()


async def test_progress_is_reported() -> None:
    """ENGINE.md, "Nodes and lapses": a heartbeat notes each running stream's use with its hold."""
    pause = Pause()
    async with SmallGateway(scripted(*HEAD, pause, *TAIL)) as small:
        reading = asyncio.create_task(small.stream())
        await pause.reached.wait()
        await small.desk.report_running()
        (hold,) = small.ledger.holds.values()
        assert hold.progress is not None
        assert hold.progress.output_tokens == 2
        assert hold.progress.metered == hold.progress.input_tokens * INPUT + 2 * OUTPUT
        pause.over.set()
        await reading
        assert (await small.only_call()).charge == FULL


async def test_one_call_that_cannot_report_stops_no_other() -> None:
    """A stream that waits for its head reports nothing, and keeps nobody else from reporting."""
    pause = Pause()

    def script(request: UpstreamRequest) -> ScriptedResponse:
        return ScriptedResponse([*HEAD, pause, *TAIL])

    async with SmallGateway(script) as small:
        small.upstream.before = Pause()
        waiting = asyncio.create_task(small.stream())
        await small.upstream.before.reached.wait()
        before, small.upstream.before = small.upstream.before, None
        reading = asyncio.create_task(small.stream())
        await pause.reached.wait()
        await small.desk.report_running()
        progress = [hold.progress for hold in small.ledger.holds.values()]
        assert sorted(p is None for p in progress) == [False, True]
        before.over.set()
        pause.over.set()
        await asyncio.gather(waiting, reading)
        await small.settled()
        assert [call.charge for call in small.calls] == [FULL, FULL]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_lost_node_lets_calls_without_a_head_go(stream: bool) -> None:
    """ENGINE.md: a node that lost its holds closes its upstreams, those without a head too."""
    async with SmallGateway(scripted(*HEAD, *TAIL)) as small:
        small.upstream.before = Pause()
        call = asyncio.create_task(small.call(stream=stream))
        await small.upstream.before.reached.wait()
        small.desk.abort_running()
        answer = await call
        assert isinstance(answer, Answer)
        assert answer.status == 503
        assert b'"upstream_error"' in answer.body
        assert (await small.only_call()).charge == 0
        assert small.upstream.responses == []


async def test_a_lost_node_closes_its_streams() -> None:
    """And what such a stream had produced is charged."""
    pause = Pause()
    async with SmallGateway(scripted(*HEAD, pause, *TAIL)) as small:
        reading = asyncio.create_task(small.stream())
        await pause.reached.wait()
        small.desk.abort_running()
        assert b'"upstream_error"' in b"".join(await reading)
        closed = await small.only_call()
        assert closed.usage.output_tokens == 2
        assert small.upstream.responses[0].closed.is_set()


async def test_a_client_that_cannot_be_written_to() -> None:
    """Abandoned before it was read, a stream still ends and is charged once."""
    async with SmallGateway(scripted(*HEAD, *TAIL)) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, StreamAnswer)
        answer.abandon()
        answer.abandon()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async for _ in answer.chunks:
            pass
        closed = await small.only_call()
        assert closed.charge == closed.usage.input_tokens * INPUT
        answer.abandon()
        assert await small.only_call() == closed


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_stream_that_is_dropped(where: int) -> None:
    """A generator that is closed in the middle still gets its charge."""
    async with SmallGateway(scripted(*HEAD, *TAIL)) as small:
        answer = await small.call(stream=True)
        assert isinstance(answer, StreamAnswer)
        for _ in range(where):
            await anext(answer.chunks)
        if where == 0:
            # Never begun, a generator cannot clean up: the server says so first.
            answer.abandon()
            assert [piece async for piece in answer.chunks] == []
        await answer.chunks.aclose()
        closed = await small.only_call()
        assert closed.charge > 0
