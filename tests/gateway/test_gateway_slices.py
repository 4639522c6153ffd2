"""Slices: a stream's hold grows with the answer, and the answer ends where the money does."""

from __future__ import annotations

import json

import pytest

from farebox.ledger.commands import Admit, Extend, Settle
from farebox.tenancy.api_keys import digest
from tests.support.scripted_upstream import DONE, ScriptedResponse, delta, usage_chunk
from tests.support.small_gateway import KEY, SmallGateway, key_row

INPUT, OUTPUT = 2_500, 15_000
PIECE = 100
LONG = [delta("word " * PIECE) for _ in range(20)]


def sliced(pieces: list[bytes], *, credit: int) -> SmallGateway:
    """A gateway whose project holds slice by slice."""
    small = SmallGateway(lambda _: ScriptedResponse(tuple(pieces)), credit=credit)
    small.directory.keys = {digest(KEY): key_row(slices=True)}
    return small


async def test_the_hold_grows_with_the_answer() -> None:
    """ENGINE.md, "Ceilings": a little is held at first, more as it comes; the use is charged."""
    end = [delta("", finish="stop"), usage_chunk(10, 20 * PIECE), DONE]
    async with sliced([*LONG, *end], credit=10**9) as small:
        pieces = await small.stream(max_completion_tokens=4_000)
        call = await small.only_call()
        (admit,) = [c for c in small.store.commands if isinstance(c, Admit)]
        extends = [c for c in small.store.commands if isinstance(c, Extend)]
        assert (admit.output_min, admit.output_max) == (256, 256)
        assert [c.step for c in extends] == list(range(1, len(extends) + 1))
        assert len(extends) >= 5
        assert call.charge == 10 * INPUT + 20 * PIECE * OUTPUT
        assert call.absorbed == 0
        assert b"".join(pieces).count(b"word") == 20 * PIECE
        # The whole limit goes upstream: the provider must not end where a slice does.
        (request,) = small.upstream.requests
        assert json.loads(request.body)["max_completion_tokens"] == 4_000


@pytest.mark.parametrize("tokens", [300, 700, 1_500])
async def test_the_answer_ends_where_the_money_does(tokens: int) -> None:
    """NEG-07: no slice is held that does not fit; what was metered is charged, never more."""
    credit = 2_000_000 + tokens * OUTPUT
    async with sliced(LONG, credit=credit) as small:
        pieces = await small.stream(max_completion_tokens=4_000)
        call = await small.only_call()
        assert b"credit_balance_exhausted" in pieces[-1]
        assert 0 < call.charge <= credit
        assert call.absorbed == 0
        (settle,) = [c for c in small.store.commands if isinstance(c, Settle)]
        assert settle.reason == "slice_refused"
        assert settle.usage.output_tokens <= tokens
        assert small.upstream.responses[0].closed.is_set()


async def test_a_short_limit_is_held_at_once() -> None:
    """A limit within the first slice needs no extension."""
    end = [delta("", finish="stop"), usage_chunk(10, 5), DONE]
    async with sliced([delta("one two"), *end], credit=10**9) as small:
        await small.stream(max_completion_tokens=50)
        assert not [c for c in small.store.commands if isinstance(c, Extend)]
        assert (await small.only_call()).charge == 10 * INPUT + 5 * OUTPUT
