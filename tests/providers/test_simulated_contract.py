"""What every upstream promises, shown by the simulated one and by the real one over HTTP.

The gateway is tested with the simulated upstream and run with the real one: here both are held to
the same words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest

from farebox.operations.upstream import (
    Upstream,
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamRequest,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.openai_compatible import OpenAICompatibleUpstream, UpstreamTimeouts
from farebox.providers.simulated import BilledCall, SimulatedUpstream
from tests.support.mock_upstream import MockUpstream, mock_upstream, simulated_upstream

LIMIT = 1_000_000
PATIENCE_SECONDS = 0.2
BODY = b'{"model":"gpt-5.4","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"gpt-5.4","stream":true,"messages":[{"role":"user","content":"hi"}]}'


class Subject:
    """An upstream under test, which can be given orders one way or the other."""

    def __init__(self, over: MockUpstream | SimulatedUpstream) -> None:
        self._over = over
        self._opened: list[Upstream] = []

    def upstream(self, orders: dict[str, str]) -> Upstream:
        """One whose provider obeys these orders."""
        if isinstance(self._over, SimulatedUpstream):
            return self._over
        timeouts = UpstreamTimeouts(head_seconds=PATIENCE_SECONDS, idle_seconds=PATIENCE_SECONDS)
        upstream = OpenAICompatibleUpstream(self._over.ordering(orders), "sk-x", timeouts=timeouts)
        self._opened.append(upstream)
        return upstream

    def request(self, body: bytes, orders: dict[str, str]) -> UpstreamRequest:
        """A call with these orders; the real upstream must not send them."""
        return UpstreamRequest("/chat/completions", body, sandbox_headers=tuple(orders.items()))

    @property
    def billed(self) -> list[BilledCall]:
        return self._over.billed

    async def aclose(self) -> None:
        for upstream in self._opened:
            await upstream.aclose()


@pytest.fixture(scope="module")
def mock() -> Iterator[MockUpstream]:
    """One HTTP server for all."""
    with mock_upstream() as mock:
        yield mock


@pytest.fixture(params=["in process", "over http"])
async def subject(request: pytest.FixtureRequest, mock: MockUpstream) -> AsyncIterator[Subject]:
    """Both kinds, one after the other."""
    simulated = simulated_upstream(patience_seconds=PATIENCE_SECONDS)
    subject = Subject(simulated if request.param == "in process" else mock)
    yield subject
    await subject.aclose()


async def test_a_json_answer(subject: Subject) -> None:
    """Head first, then the whole body; reading it twice is not asked for."""
    response = await subject.upstream({}).send(subject.request(BODY, {}))
    assert response.status == 200
    assert all(name == name.lower() for name, _ in response.headers)
    assert dict(response.headers)["content-type"] == "application/json"
    body = msgspec.json.decode(await response.read(LIMIT))
    assert body["usage"]["prompt_tokens"] > 0
    await response.close()
    assert subject.billed[-1].id == body["id"]
    assert subject.billed[-1].outcome == "complete"


async def test_a_stream(subject: Subject) -> None:
    """Pieces of any size that end with the stream."""
    response = await subject.upstream({}).send(subject.request(STREAM, {}))
    pieces = [piece async for piece in response.chunks()]
    assert b"" not in pieces
    whole = b"".join(pieces)
    assert whole.startswith(b"data: {")
    assert whole.endswith(b"data: [DONE]\n\n")
    await _until(lambda: subject.billed[-1].outcome == "complete")


async def test_ordered_usage_is_reported(subject: Subject) -> None:
    """DESIGN.md: the counts of X-Sandbox-Usage stand in the answer."""
    orders = {"X-Sandbox-Usage": "prompt=4808,cached=0,completion=10"}
    response = await subject.upstream(orders).send(subject.request(BODY, orders))
    usage = msgspec.json.decode(await response.read(LIMIT))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4808, 10)


async def test_a_failing_status_is_an_answer(subject: Subject) -> None:
    """A provider's refusal is no error of the upstream."""
    orders = {"X-Sandbox-Fault": "status=503"}
    response = await subject.upstream(orders).send(subject.request(STREAM, orders))
    assert response.status == 503
    assert dict(response.headers)["retry-after"] == "1"
    error = msgspec.json.decode(await response.read(LIMIT))["error"]
    assert error["code"] == "server_is_overloaded"


async def test_a_bad_order_is_refused_by_name(subject: Subject) -> None:
    """A mistyped directive is a 400, wherever it is read."""
    orders = {"X-Sandbox-Fault": "explode"}
    response = await subject.upstream(orders).send(subject.request(BODY, orders))
    assert response.status == 400
    error = msgspec.json.decode(await response.read(LIMIT))["error"]
    assert error["param"] == "x-sandbox-fault"


async def test_a_limit_on_the_body(subject: Subject) -> None:
    """A body over the limit is an error, of the kind that may have been billed."""
    for body in (BODY, STREAM):
        response = await subject.upstream({}).send(subject.request(body, {}))
        with pytest.raises(UpstreamTooLargeError):
            await response.read(10)
        await response.close()


async def test_a_stream_that_breaks(subject: Subject) -> None:
    """DED-14: three whole events arrive before the break, and what they hold was billed."""
    orders = {"X-Sandbox-Fault": "drop_after=3"}
    response = await subject.upstream(orders).send(subject.request(STREAM, orders))
    got = b""
    error = None
    try:
        async for piece in response.chunks():
            got += piece
    except UpstreamBrokenError as broken:
        error = broken
    assert type(error) is UpstreamBrokenError
    assert got.count(b"\n\n") == 3
    assert got.endswith(b"\n\n")
    await _until(lambda: subject.billed[-1].outcome == "broken")
    assert subject.billed[-1].events == 3


async def test_a_json_answer_that_breaks(subject: Subject) -> None:
    """Half a body is an error, not a body."""
    orders = {"X-Sandbox-Fault": "drop_after=0"}
    response = await subject.upstream(orders).send(subject.request(BODY, orders))
    with pytest.raises(UpstreamBrokenError) as broken:
        await response.read(LIMIT)
    assert type(broken.value) is UpstreamBrokenError


async def test_a_head_that_never_comes(subject: Subject) -> None:
    """Patience ends in a timeout, which may have been billed."""
    orders = {"X-Sandbox-Fault": "hang"}
    with pytest.raises(UpstreamTimeoutError):
        await subject.upstream(orders).send(subject.request(BODY, orders))


async def test_a_stream_that_falls_silent(subject: Subject) -> None:
    """Silence in the middle ends the same way, after what had arrived."""
    orders = {"X-Sandbox-Fault": "hang;drop_after=3"}
    response = await subject.upstream(orders).send(subject.request(STREAM, orders))
    with pytest.raises(UpstreamTimeoutError):
        [piece async for piece in response.chunks()]


async def test_closing_early_reaches_the_provider(subject: Subject) -> None:
    """DED-14: a stream closed early is billed for less than its whole."""
    orders = {"X-Sandbox-Latency-Ms": "event=5", "X-Sandbox-Usage": "completion=4000"}
    response = await subject.upstream(orders).send(subject.request(STREAM, orders))
    await anext(response.chunks())
    await response.close()
    await _until(lambda: subject.billed[-1].outcome == "closed")
    line = subject.billed[-1]
    assert line.usage is not None
    completion = line.usage["completion"]
    assert isinstance(completion, int)
    assert completion < 4000


async def test_a_cancelled_call(subject: Subject) -> None:
    """A caller may stop waiting for the head at any time."""
    orders = {"X-Sandbox-Latency-Ms": "60000"}
    upstream = subject.upstream(orders)
    call = asyncio.ensure_future(upstream.send(subject.request(BODY, orders)))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _until(lambda: subject.billed[-1].outcome == "closed")


async def test_nothing_is_sent_after_the_end(subject: Subject) -> None:
    """An upstream that was closed reached nobody; closing it again is harmless."""
    upstream = subject.upstream({})
    response = await upstream.send(subject.request(BODY, {}))
    await response.read(LIMIT)
    await upstream.aclose()
    await upstream.aclose()
    with pytest.raises(UpstreamNotReachedError):
        await upstream.send(subject.request(BODY, {}))


async def test_sandbox_headers_never_leave(mock: MockUpstream) -> None:
    """DESIGN.md: directives are honoured by the simulated provider alone, so nobody sends them."""
    subject = Subject(mock)
    orders = {"x-sandbox-fault": "status=500"}
    response = await subject.upstream({}).send(subject.request(BODY, orders))
    assert response.status == 200
    await response.read(LIMIT)
    assert not any(name.startswith("x-sandbox") for name, _ in mock.requests[-1].headers)
    await subject.aclose()


async def _until(true: Callable[[], bool]) -> None:
    """Wait for the other side of a socket."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.005)
