"""What calls share: work that nothing cancels, and an end that waits for all of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from farebox.gateway.desk import patiently
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptedResponse,
    delta,
    usage_chunk,
)
from tests.support.small_gateway import SmallGateway


def nothing(_: Any) -> ScriptedResponse:
    """No answer at all."""
    return ScriptedResponse([])


async def test_patience_has_an_end_and_the_work_goes_on() -> None:
    """Who waits may give up; what is waited for does not."""
    done = asyncio.Event()

    async def work() -> int:
        await done.wait()
        return 7

    task = asyncio.create_task(work())
    with pytest.raises(TimeoutError):
        await patiently(task, 0.01)
    waiting = asyncio.create_task(patiently(task, 10))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    done.set()
    assert await patiently(task, 1) == 7


async def test_spawned_work_outlives_its_caller() -> None:
    """It is kept until it is done, and an error in it is told, not raised at anybody."""
    async with SmallGateway(nothing) as small:
        seen: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0.01)
            seen.append("done")
            raise ValueError("nobody listens")

        small.desk.spawn(work())
        await small.desk.drain(5)
        assert seen == ["done"]


async def test_the_end_waits_for_running_calls() -> None:
    """Stopping, the gateway lets calls end and what their ends begin, for a limited time."""
    pause = Pause()
    pieces: list[Any] = [delta("x"), pause, delta("", finish="stop"), usage_chunk(1, 1), DONE]
    async with SmallGateway(lambda _: ScriptedResponse(pieces)) as small:
        reading = asyncio.create_task(small.stream())
        await pause.reached.wait()
        await small.desk.drain(0.05)
        assert small.desk.running
        draining = asyncio.create_task(small.desk.drain(5))
        await asyncio.sleep(0.05)
        assert not draining.done()
        pause.over.set()
        await draining
        assert not small.desk.running
        assert small.calls
        await reading
        await small.only_call()


async def test_reports_of_nobody() -> None:
    """With no call under way there is nothing to report."""
    async with SmallGateway(nothing) as small:
        await small.desk.report_running()
        small.desk.abort_running()
        await small.desk.drain(1)
        assert small.store.commands == []


async def test_reports_let_events_pass() -> None:
    """However many streams report, others go on between any two, and none waits for another."""

    class Talker:
        """A running stream with something to report."""

        async def report(self) -> None:
            turns.append("report")
            if turns.count("report") == 5:
                all_report.set()
            await answered.wait()

        async def abort(self) -> None:
            """Nothing to close."""

    turns: list[str] = []
    all_report, answered = asyncio.Event(), asyncio.Event()

    async def others() -> None:
        while True:
            turns.append("event")
            await asyncio.sleep(0)

    async with SmallGateway(nothing) as small:
        small.desk.running |= {UUID(int=number): Talker() for number in range(5)}
        events = asyncio.create_task(others())
        reporting = asyncio.create_task(small.desk.report_running())
        await all_report.wait()
        events.cancel()
        assert not any(pair == ("report", "report") for pair in pairwise(turns))
        answered.set()
        await reporting
        small.desk.running.clear()
