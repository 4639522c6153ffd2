"""One call's life: admitted at the right price, patient where it helps, ended whatever comes."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway.http import Answer, StreamAnswer
from farebox.kit.money import NANOS_PER_UNIT
from farebox.ledger.commands import Settle
from farebox.ledger.holds import CallState
from farebox.rating.units import Lane
from tests.support.ledger_memory import audit
from tests.support.scripted_upstream import (
    DONE,
    JSON,
    Pause,
    ScriptedResponse,
    delta,
    event,
    usage,
    usage_chunk,
    whole,
)
from tests.support.small_gateway import (
    KEY_ID,
    NODE,
    NOW,
    PROJECT,
    VERSIONS,
    MemoryNode,
    SmallGateway,
    version,
)

INPUT, OUTPUT = 2_500, 15_000
TIERS = st.sampled_from(["default", "flex", "priority", "turbo"])


def json_script(_: Any) -> ScriptedResponse:
    """A whole answer of 10 and 5 tokens."""
    return ScriptedResponse([whole(usage(10, 5))], headers=JSON)


def error_of(answer: Answer | StreamAnswer) -> tuple[int, str]:
    """Status and code of a refusal."""
    assert isinstance(answer, Answer)
    return answer.status, json.loads(answer.body)["error"]["code"]


async def test_a_call_is_rated_anew_after_a_price_change() -> None:
    """ENGINE.md, "A batch": an admission with old prices is rated anew, not refused."""
    async with SmallGateway(json_script) as small:
        small.directory.versions = (*VERSIONS[1:], version(1, Lane.STANDARD, 20))
        small.directory.revision = small.ledger.catalogue_revision = 2
        answer = await small.call()
        assert isinstance(answer, Answer)
        assert answer.status == 200
        assert (await small.only_call()).charge == (10 * INPUT + 5 * OUTPUT) * 10


async def test_prices_that_never_stop_changing() -> None:
    """Then it is 503 and not the tenant's fault; nothing is held, no refusal is recorded."""
    async with SmallGateway(json_script) as small:
        small.ledger.catalogue_revision = 99
        assert error_of(await small.call()) == (503, "billing_unavailable")
        assert small.refused == []
        assert small.upstream.requests == []
        await small.settled()


async def test_a_model_that_vanishes_before_the_admission() -> None:
    """Taken off sale between rating and admission, a model is 404 like any unknown one."""
    async with SmallGateway(json_script) as small:
        small.directory.versions = VERSIONS[3:]
        small.directory.revision = small.ledger.catalogue_revision = 2
        assert error_of(await small.call()) == (404, "model_not_found")
        await small.settled()


async def test_the_price_of_the_admission_stays() -> None:
    """DED-07: prices that change while a call runs do not touch it."""
    pause = Pause()
    pieces: list[Any] = [delta("x"), pause, delta("", finish="stop"), usage_chunk(10, 5), DONE]
    async with SmallGateway(lambda _: ScriptedResponse(pieces)) as small:
        reading = asyncio.create_task(small.stream())
        await pause.reached.wait()
        small.directory.versions = (*VERSIONS[1:], version(1, Lane.STANDARD, 20))
        small.directory.revision = small.ledger.catalogue_revision = 2
        await small.sales.refresh()
        pause.over.set()
        await reading
        assert (await small.only_call()).charge == 10 * INPUT + 5 * OUTPUT


async def test_a_node_that_lost_its_epoch() -> None:
    """A node that was fenced off admits nothing: 503, and the client tries again elsewhere."""
    async with SmallGateway(json_script) as small:
        small.ledger.epochs[NODE] = 2
        assert error_of(await small.call()) == (503, "billing_unavailable")
        small.ledger.epochs[NODE] = 1
        small.node.may_admit = False
        assert error_of(await small.call()) == (503, "billing_unavailable")
        assert small.upstream.requests == []
        assert MemoryNode.may_admit


async def test_a_refusal_is_noted_with_its_figures() -> None:
    """ERR-11: what was needed and what there was is told with the refusal."""
    async with SmallGateway(json_script, credit=1_000) as small:
        answer = await small.call(max_completion_tokens=10)
        assert error_of(answer) == (429, "credit_balance_exhausted")
        (refused,) = small.refused
        assert refused.needed > 10 * OUTPUT
        assert refused.available == 1_000
        assert small.upstream.requests == []


async def test_counting_comes_before_refusing() -> None:
    """ENGINE.md, "Ceilings": tokens are counted only where the bytes do not fit the money."""
    message = {"role": "user", "content": "word " * 3_000}
    body = {"model": "gpt-5.4", "messages": [message], "max_completion_tokens": 10}
    async with SmallGateway(json_script, credit=NANOS_PER_UNIT // 100) as small:
        answer = await small.call(body)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        closed = await small.only_call()
        assert closed.held < 4_000 * INPUT
    async with SmallGateway(json_script) as rich:
        await rich.call(body)
        assert (await rich.only_call()).held > 15_000 * INPUT


async def test_the_long_context_line_is_counted_not_guessed() -> None:
    """A prompt over the line by its bytes, not by its tokens, is held at the lower price."""
    message = {"role": "user", "content": "word " * 60_000}
    body = {"model": "gpt-5.4", "messages": [message], "max_completion_tokens": 10}
    async with SmallGateway(json_script) as small:
        await small.call(body)
        assert (await small.only_call()).held < 65_000 * INPUT


async def test_a_settle_that_fails_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience the answer is 503 without a word of it, and it is charged later."""
    monkeypatch.setattr("farebox.gateway.call.SETTLE_SECONDS_MAX", 0.05)
    pause = Pause()
    script = lambda _: ScriptedResponse([pause, whole(usage(10, 5))], headers=JSON)  # noqa: E731
    async with SmallGateway(script) as small:
        call = asyncio.create_task(small.call())
        await pause.reached.wait()
        small.store.away = True
        pause.over.set()
        answer = await call
        assert error_of(answer) == (503, "billing_unavailable")
        assert isinstance(answer, Answer)
        assert b"Hello there" not in answer.body
        small.store.away = False
        closed = await small.only_call()
        assert (closed.state, closed.charge) == (CallState.SETTLED, 10 * INPUT + 5 * OUTPUT)


async def test_usage_beyond_all_money() -> None:
    """Figures that no balance could hold are no usage: the call is charged by our own count."""
    script = lambda _: ScriptedResponse([whole(usage(2**52, 2**52))], headers=JSON)  # noqa: E731
    async with SmallGateway(script) as small:
        answer = await small.call()
        assert isinstance(answer, Answer)
        assert answer.status == 200
        closed = await small.only_call()
        assert closed.charge < closed.held
        (settle,) = small.ends
        assert isinstance(settle, Settle)
        assert settle.estimated
        assert settle.reason.startswith("usage_invalid")


async def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not passed on, and what can be counted of it is charged: the provider bills it."""
    monkeypatch.setattr("farebox.gateway.whole_call.ANSWER_BYTES_MAX", 100)
    script = lambda _: ScriptedResponse([whole(usage(10, 5))] * 2, headers=JSON)  # noqa: E731
    async with SmallGateway(script) as small:
        answer = await small.call()
        assert error_of(answer) == (502, "upstream_too_large")
        closed = await small.only_call()
        assert closed.charge == closed.usage.input_tokens * INPUT > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_ends_before_its_hold_can(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE.md, "Nodes and lapses": a call whose time is up is ended and charged by us."""
    monkeypatch.setattr("farebox.gateway.call.CALL_SECONDS_MAX", 0.05)
    pieces: list[Any] = [delta("one two"), Pause(), DONE]
    if not stream:
        pieces = [Pause(), whole(usage(10, 5))]
    kind: dict[str, Any] = {} if stream else {"headers": JSON}
    async with SmallGateway(lambda _: ScriptedResponse(pieces, **kind)) as small:
        if stream:
            assert b'"upstream_error"' in b"".join(await small.stream())
        else:
            assert error_of(await small.call()) == (502, "upstream_error")
        closed = await small.only_call()
        assert closed.usage.output_tokens == (2 if stream else 0)
        assert small.upstream.responses[0].closed.is_set()


async def test_every_answer_names_its_own_call() -> None:
    """ERR-07: refusals and failures after the body was read carry the call's own id."""

    def fault(_: Any) -> Exception:
        return RuntimeError("a fault of ours")

    async with SmallGateway(fault) as small:
        for stream in (False, True):
            answer = await small.call(stream=stream)
            assert error_of(answer) == (500, "internal_error")
            await small.settled()
            named = dict(answer.headers)["x-request-id"]
            assert named == f"req_{small.calls[-1].call_id.hex}"
        assert [closed.charge for closed in small.calls] == [0, 0]
        audit(small.ledger)


async def test_a_crowd() -> None:
    """A hundred calls at once of every kind, and the books agree to the nanodollar."""

    def script(request: Any) -> Any:
        number = len(small.upstream.requests)
        if number % 5 == 0:
            return ScriptedResponse([b"{}"], status=500, headers=JSON)
        if b'"stream":true' in request.body:
            end = [delta("", finish="stop"), usage_chunk(10, number), DONE]
            return ScriptedResponse([delta("x"), *end])
        return ScriptedResponse([whole(usage(10, number))], headers=JSON)

    small = SmallGateway(script, credit=50 * NANOS_PER_UNIT)

    async def one(number: int) -> None:
        answer = await small.call(stream=number % 2 == 0, max_completion_tokens=200)
        if isinstance(answer, StreamAnswer):
            async for _ in answer.chunks:
                pass

    async with small:
        await asyncio.gather(*(one(number) for number in range(100)))
        await small.settled()
        audit(small.ledger)
        assert len(small.calls) == 100
        paid = [number for number in range(1, 101) if number % 5]
        assert sum(closed.charge for closed in small.calls) == sum(
            10 * INPUT + number * OUTPUT for number in paid
        )


PARTS = st.integers(0, 3_000)


@given(prompt=PARTS, cached=PARTS, completion=PARTS, reasoning=PARTS, tier=st.none() | TIERS)
@settings(max_examples=40, deadline=None)
async def test_a_stream_costs_what_a_whole_answer_costs(
    prompt: int, cached: int, completion: int, reasoning: int, tier: str | None
) -> None:
    """Field bugs 35, 36: any usage in any tier is charged the same, streamed or not."""
    said = usage(prompt, completion) | {
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    more = {} if tier is None else {"service_tier": tier}

    def script(request: Any) -> ScriptedResponse:
        if b'"stream":true' not in request.body:
            return ScriptedResponse([whole(said, "x y", **more)], headers=JSON)
        last = event({"choices": [], "usage": said, **more})
        return ScriptedResponse([delta("x y"), delta("", finish="stop"), last, DONE])

    async with SmallGateway(script) as small:
        fields: dict[str, Any] = {"service_tier": "auto", "max_completion_tokens": 5_000}
        await small.call(**fields)
        await small.stream(**fields)
        await small.settled()
        audit(small.ledger)
        whole_end, stream_end = small.ends
        assert isinstance(whole_end, Settle)
        assert isinstance(stream_end, Settle)
        assert whole_end.metered == stream_end.metered
        assert whole_end.lines == stream_end.lines
        assert whole_end.estimated == stream_end.estimated
        consistent = cached <= prompt and reasoning <= completion
        assert consistent or whole_end.estimated


async def test_the_use_of_a_key_is_noted() -> None:
    """ORG-15: of an admitted call its key, project and engine time; of a refused one nothing."""
    noted: list[tuple[UUID, UUID, datetime]] = []
    async with SmallGateway(json_script) as small:
        small.desk.note_use = lambda *use: noted.append(use)
        await small.call()
        await small.call(model="no-such-model")
    assert noted == [(KEY_ID, PROJECT, NOW)]
