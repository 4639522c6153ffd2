"""The simulated provider as a whole."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from farebox.providers.simulated import SimulatedUpstream
from tests.support.mock_upstream import simulated_upstream

MESSAGES = [{"role": "user", "content": "How are you?"}]
LIMIT = 10_000_000


def _request(
    orders: dict[str, str] | None = None, endpoint: str = "/chat/completions", **fields: Any
) -> UpstreamRequest:
    usual: dict[str, Any] = {"model": "gpt-5.4", "messages": MESSAGES}
    body = msgspec.json.encode({k: v for k, v in (usual | fields).items() if v is not None})
    return UpstreamRequest(endpoint, body, sandbox_headers=tuple((orders or {}).items()))


async def _json(upstream: SimulatedUpstream, request: UpstreamRequest) -> Any:
    response = await upstream.send(request)
    return msgspec.json.decode(await response.read(LIMIT))


async def _chunks(response: UpstreamResponse) -> list[Any]:
    """The chunks of a stream, ``[DONE]`` checked and left out."""
    lines = (await response.read(LIMIT)).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [msgspec.json.decode(line.removeprefix("data: ")) for line in lines[:-2]]


# --- answers -----------------------------------------------------------------------------------


async def test_an_answer_bills_what_it_reports() -> None:
    """The usage in the answer and the line in the log are the same."""
    upstream = simulated_upstream()
    request = UpstreamRequest(
        "/chat/completions", _request().body, headers=(("x-client-request-id", "c-1"),)
    )
    response = await upstream.send(request)
    headers = dict(response.headers)
    body = msgspec.json.decode(await response.read(LIMIT))
    assert response.status == 200
    assert headers["content-type"] == "application/json"
    (line,) = upstream.billed
    assert line.usage is not None
    assert (line.id, line.request_id) == (body["id"], headers["x-request-id"])
    assert (line.model, line.service_tier, line.outcome) == ("gpt-5.4", "default", "complete")
    assert (line.client_request_id, line.stream) == ("c-1", False)
    assert body["usage"]["prompt_tokens"] == line.usage["prompt"] == 3 + 4 + 3
    assert body["usage"]["completion_tokens"] == line.usage["completion"]
    assert body["usage"]["total_tokens"] == line.usage["total"]
    assert body["id"].startswith("chatcmpl-")
    assert body["created"] == 1_790_000_000
    assert body["model"] == "gpt-5.4"
    assert body["service_tier"] == "default"
    assert body["system_fingerprint"].startswith("fp_")


async def test_a_stream_is_the_json_answer_in_pieces() -> None:
    """The same question streamed says and bills the same."""
    upstream = simulated_upstream()
    body = await _json(upstream, _request())
    options = {"include_usage": True, "include_obfuscation": True}
    streamed = await upstream.send(_request(stream=True, stream_options=options))
    assert dict(streamed.headers)["content-type"].startswith("text/event-stream")
    chunks = await _chunks(streamed)
    text = "".join(c["delta"].get("content") or "" for k in chunks for c in k["choices"])
    assert text == body["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == body["usage"]
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert all("obfuscation" not in chunk for chunk in chunks)
    assert upstream.billed[0].usage == upstream.billed[1].usage
    assert upstream.billed[1].outcome == "complete"


async def test_a_stream_reports_usage_only_when_asked() -> None:
    """Without include_usage there is no usage anywhere, but there is a bill."""
    upstream = simulated_upstream()
    chunks = await _chunks(await upstream.send(_request(stream=True)))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert upstream.billed[0].usage is not None


async def test_every_answer_has_its_own_id() -> None:
    """The same question twice is two answers with the same text."""
    upstream = simulated_upstream()
    first, second = await _json(upstream, _request()), await _json(upstream, _request())
    assert first["id"] != second["id"]
    assert first["choices"] == second["choices"]


async def test_ids_stay_apart_after_a_new_start() -> None:
    """A sandbox that starts again with the same seed gives new ids to its answers."""
    first, second = simulated_upstream(), simulated_upstream(unix_time=lambda: 1_790_000_001.5)
    assert (await _json(first, _request()))["id"] != (await _json(second, _request()))["id"]


async def test_the_same_seed_does_the_same_again() -> None:
    """Everything follows from seed, clocks and calls."""

    async def run(seed: int) -> list[bytes]:
        upstream = simulated_upstream(seed=seed)
        requests = [_request(), _request(stream=True), _request({"x-sandbox-usage": "prompt=3"})]
        return [await (await upstream.send(request)).read(LIMIT) for request in requests]

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)


async def test_the_prompt_cache_shows_in_the_usage() -> None:
    """DED-09: a long prompt asked again reports its cached tokens; newer models report writes."""
    upstream = simulated_upstream()
    long = [{"role": "user", "content": "word " * 2000}]
    for model, details in (
        ("gpt-5.4", [{"cached_tokens": 0}, {"cached_tokens": 2432}]),
        (
            "gpt-5.6-sol",
            [
                {"cached_tokens": 0, "cache_write_tokens": 2504},
                {"cached_tokens": 2432, "cache_write_tokens": 0},
            ],
        ),
    ):
        for wanted in details:
            body = await _json(upstream, _request(model=model, messages=long))
            got = body["usage"]["prompt_tokens_details"]
            assert got == wanted | {"audio_tokens": 0}
            assert body["usage"]["prompt_tokens"] == 2507


async def test_an_ordered_prompt_is_not_counted() -> None:
    """With the prompt ordered nothing is tokenised, so a load test measures the gateway."""

    def refuse(text: str) -> int:
        raise AssertionError(text)

    upstream = simulated_upstream(count_tokens=refuse)
    body = await _json(
        upstream, _request({"x-sandbox-usage": "prompt=4808,cached=0,completion=10"})
    )
    assert body["usage"]["prompt_tokens"] == 4808
    assert body["usage"]["completion_tokens"] == 10
    assert body["usage"]["total_tokens"] == 4818


async def test_the_models() -> None:
    """The list and each model on it; a dated snapshot exists, another name does not."""
    upstream = simulated_upstream()
    listed = await _json(upstream, UpstreamRequest("/models", b"", method="GET"))
    ids = [model["id"] for model in listed["data"]]
    assert listed["object"] == "list"
    assert {"gpt-5.4", "text-embedding-3-small"} <= set(ids)
    assert ids == sorted(ids)
    one = await _json(upstream, UpstreamRequest("/models/gpt-5.4", b"", method="GET"))
    assert one in listed["data"]
    dated = UpstreamRequest("/models/gpt-4o-2024-08-06", b"", method="GET")
    assert (await _json(upstream, dated))["id"] == "gpt-4o-2024-08-06"
    gone = await upstream.send(UpstreamRequest("/models/gpt-0", b"", method="GET"))
    assert gone.status == 404
    assert upstream.billed == []


async def test_embeddings() -> None:
    """Embeddings are answered, counted and billed."""
    upstream = simulated_upstream()
    request = UpstreamRequest(
        "/embeddings", b'{"model":"text-embedding-3-small","input":["abcd","efgh"]}'
    )
    body = await _json(upstream, request)
    assert body["object"] == "list"
    assert len(body["data"]) == 2
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert upstream.billed[0].usage == {"prompt": 2, "completion": 0, "total": 2}
    ordered = UpstreamRequest(
        "/embeddings",
        request.body,
        sandbox_headers=(("x-sandbox-usage", "prompt=9"), ("x-sandbox-fault", "no_usage")),
    )
    assert "usage" not in await _json(upstream, ordered)
    assert upstream.billed[1].usage == {"prompt": 9, "completion": 0, "total": 9}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_request(model="gpt-0"), 404),
        (_request(messages=[]), 400),
        (_request(endpoint="/poems"), 404),
        (UpstreamRequest("/chat/completions", b"{}", method="GET"), 404),
        (_request({"x-sandbox-fault": "explode"}), 400),
    ],
)
async def test_a_refused_call_bills_nothing(request_: UpstreamRequest, status: int) -> None:
    """DED-14: a call that did no work is not in the log."""
    upstream = simulated_upstream()
    response = await upstream.send(request_)
    assert response.status == status
    assert msgspec.json.decode(await response.read(LIMIT))["error"]["message"]
    assert "x-request-id" in dict(response.headers)
    assert upstream.billed == []


# --- orders ------------------------------------------------------------------------------------


async def test_rubbish_usage_comes_through() -> None:
    """A gateway can be tested with a provider that reports nonsense."""
    upstream = simulated_upstream()
    orders = {"x-sandbox-usage": "prompt=-1,completion=abc,cached=9223372036854775808"}
    response = await upstream.send(_request(orders))
    body = await response.read(LIMIT)
    assert b'"prompt_tokens":-1,"completion_tokens":"abc","total_tokens":-1' in body
    assert b'"cached_tokens":9223372036854775808' in body


async def test_an_ordered_status_is_the_answer() -> None:
    """The provider's failures can be played, with or without a stream."""
    upstream = simulated_upstream()
    for stream in (False, True):
        response = await upstream.send(_request({"x-sandbox-fault": "status=429"}, stream=stream))
        assert response.status == 429
        assert dict(response.headers)["retry-after"] == "1"
        assert dict(response.headers)["content-type"] == "application/json"
    assert upstream.billed == []


async def test_no_usage() -> None:
    """An answer without usage is still billed."""
    upstream = simulated_upstream()
    orders = {"x-sandbox-fault": "no_usage"}
    assert "usage" not in await _json(upstream, _request(orders))
    options = {"include_usage": True}
    request = _request(orders, stream=True, stream_options=options)
    chunks = await _chunks(await upstream.send(request))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert [line.usage is not None for line in upstream.billed] == [True, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_overrun_bills_more_than_the_limit(stream: bool) -> None:
    """A provider that does not keep its limit reports and bills so many tokens over it."""
    upstream = simulated_upstream()
    options = {"include_usage": True} if stream else None
    request = _request(
        {"x-sandbox-fault": "overrun=100"},
        stream=stream,
        stream_options=options,
        max_completion_tokens=10,
        n=2,
    )
    response = await upstream.send(request)
    if stream:
        usage = (await _chunks(response))[-1]["usage"]
    else:
        usage = msgspec.json.decode(await response.read(LIMIT))["usage"]
    assert usage["completion_tokens"] == 2 * 10 + 100
    assert upstream.billed[0].usage is not None
    assert upstream.billed[0].usage["completion"] == 120


async def test_overrun_without_a_limit_and_with_an_ordered_completion() -> None:
    """Without a limit the overrun is on top of the answer; an ordered completion stands."""
    upstream = simulated_upstream()
    plain = await _json(upstream, _request())
    over = await _json(upstream, _request({"x-sandbox-fault": "overrun=100"}))
    more = over["usage"]["completion_tokens"] - plain["usage"]["completion_tokens"]
    assert more == 100
    orders = {"x-sandbox-fault": "overrun=100", "x-sandbox-usage": "completion=3"}
    assert (await _json(upstream, _request(orders)))["usage"]["completion_tokens"] == 3


async def test_a_broken_json_answer_is_billed_whole() -> None:
    """The work was done before the connection broke."""
    upstream = simulated_upstream()
    response = await upstream.send(_request({"x-sandbox-fault": "drop_after=3"}))
    with pytest.raises(UpstreamBrokenError):
        await response.read(LIMIT)
    assert upstream.billed[0].outcome == "broken"


async def test_latency_waits_before_the_head_and_between_events() -> None:
    """The ordered waits are waited, in seconds, through the sleep that was given."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)

    upstream = simulated_upstream(sleep=sleep)
    orders = {"x-sandbox-latency-ms": "300;event=20", "x-sandbox-usage": "completion=4"}
    response = await upstream.send(_request(orders, stream=True))
    assert slept == [0.3]
    assert dict(response.headers)["openai-processing-ms"] == "300"
    await response.read(LIMIT)
    assert slept[1:] == [0.02] * upstream.billed[0].events


async def test_a_call_cancelled_while_it_waits_did_no_work() -> None:
    """A caller that leaves before the head is noted and billed nothing."""
    upstream = simulated_upstream()
    call = asyncio.ensure_future(upstream.send(_request({"x-sandbox-latency-ms": "60000"})))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (line,) = upstream.billed
    assert (line.outcome, line.usage) == ("closed", None)


async def test_a_hanging_call_ends_with_patience() -> None:
    """As with a real upstream, a head that never comes is a timeout in the end."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    upstream = simulated_upstream(sleep=sleep)
    with pytest.raises(UpstreamTimeoutError):
        await upstream.send(_request({"x-sandbox-fault": "hang"}))
    assert slept == [600.0]
    assert upstream.billed[0].outcome == "hung"


async def test_closing_the_provider_ends_everything() -> None:
    """Hanging calls, running streams and new calls all hear of it."""
    upstream = simulated_upstream()
    hanging = asyncio.ensure_future(upstream.send(_request({"x-sandbox-fault": "hang"})))
    stream = await upstream.send(_request(stream=True))
    chunks = stream.chunks()
    await anext(chunks)
    await upstream.aclose()
    with pytest.raises(UpstreamBrokenError):
        await hanging
    with pytest.raises(UpstreamBrokenError):
        await stream.read(LIMIT)
    with pytest.raises(UpstreamNotReachedError):
        await upstream.send(_request())
    assert {line.outcome for line in upstream.billed} == {"hung", "closed"}


async def test_the_log_of_bills_is_bounded() -> None:
    """A sandbox that runs for months does not fill its memory."""
    upstream = simulated_upstream(billed_calls_max=3)
    for _ in range(5):
        await upstream.send(_request())
    assert len(upstream.billed) == 3
