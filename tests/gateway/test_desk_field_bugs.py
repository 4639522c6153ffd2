"""A gateway that runs for long: what a call leaves behind is nothing."""

from __future__ import annotations

import gc
from collections import Counter

from farebox.gateway.http import Answer
from farebox.operations.upstream import UpstreamTimeoutError
from tests.support.scripted_upstream import JSON, ScriptedResponse, usage, whole
from tests.support.small_gateway import SmallGateway

CALLS = 300
IN_MOTION = 5
"""What the lanes and timers may be in the middle of when somebody looks."""


async def test_24h_rss_flat() -> None:
    """Field bug 57: memory does not grow with calls that have ended, however they ended.

    Whole, streamed, failed and refused, by thousands of users: of none of them does any
    object of the gateway or of the bookkeeper stay, and no task or future.
    """

    def script(request: object) -> ScriptedResponse | Exception:
        number = len(small.upstream.requests)
        if number % 5 == 4:
            return UpstreamTimeoutError("too late")
        if number % 5 == 3:
            return ScriptedResponse([b"{}"], status=500, headers=JSON)
        return ScriptedResponse([whole(usage(5, 5))], headers=JSON)

    async with SmallGateway(script) as small:
        await traffic(small, 0)
        before = living()
        await traffic(small, 1)
        await traffic(small, 2)
        after = living()
    grown = {kind: count - before[kind] for kind, count in after.items()}
    assert {kind: more for kind, more in grown.items() if more > IN_MOTION} == {}


async def traffic(small: SmallGateway, round_number: int) -> None:
    """Calls of every kind, by users nobody has seen; then the rows are the database's affair."""
    for number in range(CALLS):
        user = f"user-{round_number}-{number}"
        headers = {"x-farebox-user": user, "x-farebox-run": user, "x-farebox-tags": f"t={user}"}
        answer = await small.call(
            headers=headers,
            stream=number % 3 == 0,
            max_completion_tokens=10 if number % 11 else 128_000 * 100,
        )
        if not isinstance(answer, Answer):
            assert [chunk async for chunk in answer.chunks]
    await small.settled()
    small.ledger.calls.clear()
    small.store.commands.clear()
    small.upstream.requests.clear()
    small.upstream.responses.clear()
    small.noted.clear()


def living() -> Counter[str]:
    """How many objects of each kind there are, of ours and of the event loop."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    watched = ("farebox.gateway", "farebox.operations", "_asyncio")
    return Counter(
        {
            f"{kind.__module__}.{kind.__qualname__}": count
            for kind, count in kinds.items()
            if str(kind.__module__).startswith(watched)
        }
    )
