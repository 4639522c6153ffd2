"""Replaying: a line of a trace becomes a call that holds and costs what the line says."""

from __future__ import annotations

import asyncio
import json

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import Nanos
from farebox.operations.replaying import (
    CONCURRENCY_MAX,
    CallOutcome,
    ReplaySums,
    TracedCall,
    call_body,
    call_headers,
    read_trace,
    replay,
)
from farebox.system.token_counter import count_o200k

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


class Sender:
    """Answers every call; notes how many are under way."""

    def __init__(self, *outcomes: CallOutcome) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[bytes] = []
        self.running = self.most = 0

    async def send(self, body: bytes, headers: dict[str, str], *, stream: bool) -> CallOutcome:
        self.running += 1
        self.most = max(self.most, self.running)
        self.bodies.append(body)
        await asyncio.sleep(0)
        self.running -= 1
        return self.outcomes.pop(0) if self.outcomes else CallOutcome(200, Nanos(7))


def test_a_trace_is_read() -> None:
    """A byte order mark, empty lines and a limit are taken in stride."""
    lines = [f"\ufeff{HEADER}\n", "a,5,3\n", "\n", "b,7,2\n", "c,1,1\n"]
    assert list(read_trace(lines)) == [TracedCall(5, 3), TracedCall(7, 2), TracedCall(1, 1)]
    assert list(read_trace(lines, limit=1)) == [TracedCall(5, 3)]
    assert list(read_trace(lines, limit=0)) == []


@pytest.mark.parametrize("tokens", [1, 2, 37, 4_808])
def test_the_body_bounds_the_trace(tokens: int) -> None:
    """The prompt sent has at least the trace's tokens, so no call can pass its hold."""
    call = TracedCall(tokens, 10)
    body = json.loads(call_body(call, "m", stream=False))
    assert count_o200k(body["messages"][0]["content"]) >= tokens
    assert body["max_completion_tokens"] == 10
    assert "stream" not in body
    streamed = json.loads(call_body(call, "m", stream=True))
    assert streamed["stream_options"] == {"include_usage": True}
    usage = call_headers(call)["X-Sandbox-Usage"]
    assert usage == f"prompt={tokens},cached=0,completion=10"


async def test_calls_in_flight() -> None:
    """Never more than asked for, every line once, in order, and the sums after each."""
    trace = [TracedCall(i + 1, 1) for i in range(20)]
    sender = Sender()
    heard: list[int] = []
    sums = await replay(
        trace,
        sender,
        "m",
        concurrency=3,
        stream=False,
        told=lambda sums: heard.append(sums.calls),
    )
    assert sender.most == 3
    assert heard == list(range(1, 21))
    assert (sums.calls, sums.answered, sums.charge) == (20, 20, 140)
    assert sums.input_tokens == sum(range(1, 21))
    sizes = [len(body) for body in sender.bodies]
    assert sizes == sorted(sizes)


async def test_errors_are_counted_and_cost_nothing() -> None:
    """A call that was not answered adds no tokens and no charge."""
    outcomes = (CallOutcome(429, error="429 x"), CallOutcome(0, error="Gone"), CallOutcome(200))
    sums = await replay(
        [TracedCall(5, 1)] * 4,
        Sender(*outcomes),
        "m",
        concurrency=1,
        stream=True,
        told=lambda _: None,
    )
    assert sums.errors == {"429 x": 1, "Gone": 1}
    assert (sums.calls, sums.answered, sums.charge, sums.input_tokens) == (4, 2, 7, 10)
    assert ReplaySums().errors == {}


@pytest.mark.parametrize("concurrency", [0, -1, CONCURRENCY_MAX + 1])
async def test_a_concurrency_out_of_range(concurrency: int) -> None:
    """It is refused before anything is sent."""
    sender = Sender()
    with pytest.raises(InvalidInputError):
        await replay(
            [TracedCall(1, 1)],
            sender,
            "m",
            concurrency=concurrency,
            stream=False,
            told=lambda _: None,
        )
    assert sender.bodies == []
