"""A handler that is cancelled anywhere leaves no hold, and charges what the provider will bill.

The gateway runs in memory, turn by turn of the event loop, so that every turn can be the last.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.ledger_memory import audit
from tests.support.scripted_upstream import (
    DONE,
    JSON,
    ScriptedResponse,
    delta,
    usage,
    usage_chunk,
    whole,
)
from tests.support.small_gateway import KEY, MODEL, SmallGateway
from tests.support.wires import MemoryClient, request

INPUT, OUTPUT = 2_500, 15_000


def json_script(_: Any) -> ScriptedResponse:
    """A whole answer of 10 and 5 tokens."""
    return ScriptedResponse([whole(usage(10, 5))], headers=JSON)


def stream_script(_: Any) -> ScriptedResponse:
    """A streamed answer of 10 and 5 tokens."""
    words = [delta("one"), delta(" two"), delta(" three")]
    return ScriptedResponse([*words, delta("", finish="stop"), usage_chunk(10, 5), DONE])


def refusing_script(_: Any) -> ScriptedResponse:
    """A provider's refusal."""
    return ScriptedResponse([b'{"error":{"message":"no"}}'], status=500, headers=JSON)


def chat(small: SmallGateway, **fields: object) -> MemoryClient:
    """A client that has sent a call."""
    message = {"role": "user", "content": "Say hello."}
    body = json.dumps({"model": MODEL, "messages": [message], **fields}).encode()
    key = f"authorization: Bearer {KEY}"
    return MemoryClient(small.server()).send(request("POST", "/v1/chat/completions", body, key))


SCRIPTS = pytest.mark.parametrize(
    ("script", "stream"),
    [
        (json_script, False),
        (stream_script, True),
        (refusing_script, False),
        (refusing_script, True),
    ],
    ids=["json", "stream", "refused json", "refused stream"],
)
TURNS = 120
"""More than any of these calls takes."""


@SCRIPTS
@pytest.mark.parametrize("how", ["cancelled", "hung up", "hung up and watched"])
async def test_ended_at_every_turn(
    script: Any, stream: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DED-14, DED-15: cancelled or hung up at any turn: no hold stays, and one charge at most."""
    if how == "hung up and watched":
        monkeypatch.setattr("farebox.gateway.http.WATCH_AFTER_SECONDS", 0.0)
    charges: list[int] = []
    whole_turns = 0
    for turn in range(TURNS):
        async with SmallGateway(script) as small:
            client = chat(small, stream=stream)
            call = client.task
            assert call is not None
            for _ in range(turn):
                await asyncio.sleep(0)
            whole_turns += call.done()
            if how == "cancelled":
                call.cancel()
            else:
                client.hang_up()
            await asyncio.gather(call, return_exceptions=True)
            await small.settled()
            audit(small.ledger)
            assert len(small.calls) <= 1
            charges += [closed.charge for closed in small.calls]
            for response in small.upstream.responses:
                await asyncio.wait_for(response.closed.wait(), 5)
            if small.upstream.requests and not small.calls:
                raise AssertionError("a call left without a hold")
            if b"[DONE]" in client.received or b'"usage"' in client.received:
                assert small.calls[0].charge == 10 * INPUT + 5 * OUTPUT
    assert whole_turns > 5, "the last turns come after the call's end"
    full = 10 * INPUT + 5 * OUTPUT
    if script is refusing_script:
        assert set(charges) <= {0}
    else:
        assert full in charges
        assert max(charges) == full


@pytest.mark.parametrize("stream", [False, True])
async def test_the_database_goes_at_every_turn(stream: bool) -> None:
    """ENGINE.md: with the database away an answer's end waits; when it is back, it is charged."""
    script = stream_script if stream else json_script
    for turn in range(0, 60, 2):
        async with SmallGateway(script) as small:
            client = chat(small, stream=stream)
            call = client.task
            assert call is not None
            for _ in range(turn):
                await asyncio.sleep(0)
            small.store.away = True
            for _ in range(30):
                await asyncio.sleep(0)
            settled = bool(small.calls)
            if b"[DONE]" in client.received or b'"usage"' in client.received:
                assert settled
            small.store.away = False
            await call
            closed = await small.only_call()
            assert closed.charge == 10 * INPUT + 5 * OUTPUT
