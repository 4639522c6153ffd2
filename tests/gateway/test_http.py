"""A block that ends when its client goes, and only then."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from farebox.gateway import http
from farebox.gateway.http import ClientGoneError, Presence


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch from the first turn on."""
    monkeypatch.setattr(http, "WATCH_AFTER_SECONDS", 0.0)


async def test_the_client_goes() -> None:
    """What happens inside ends with ClientGoneError; the task itself goes on."""
    gone = asyncio.Event()
    presence = Presence(gone.wait)
    asyncio.get_running_loop().call_later(0.01, gone.set)
    with pytest.raises(ClientGoneError):
        async with presence.needed():
            await asyncio.sleep(10)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
    with pytest.raises(ClientGoneError):
        async with presence.needed():
            await asyncio.sleep(10)


async def test_the_client_stays() -> None:
    """A block that ends by itself, or by its own error, is left alone."""
    presence = Presence(asyncio.Event().wait)
    async with presence.needed():
        await asyncio.sleep(0.01)

    async def fail() -> None:
        async with presence.needed():
            await asyncio.sleep(0.01)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    presence.close()


async def test_going_afterwards_changes_nothing() -> None:
    """Once the block has ended nobody is cancelled any more."""
    gone = asyncio.Event()
    presence = Presence(gone.wait)
    async with presence.needed():
        await asyncio.sleep(0.01)
    gone.set()
    await asyncio.sleep(0.01)
    presence.close()


async def test_quick_work_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most things are over before anybody watches."""
    monkeypatch.setattr(http, "WATCH_AFTER_SECONDS", 10.0)
    asked = 0

    async def until_gone() -> None:
        nonlocal asked
        asked += 1

    presence = Presence(until_gone)
    async with presence.needed():
        await asyncio.sleep(0)
    presence.close()
    await asyncio.sleep(0)
    assert asked == 0


async def test_another_cancellation_stays_one() -> None:
    """Cancelled from outside, a block ends as cancelled, though the client goes as well."""
    gone = asyncio.Event()
    presence = Presence(gone.wait)

    async def work() -> None:
        async with presence.needed():
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    gone.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    presence.close()


async def test_a_watcher_that_fails_gives_nothing_up() -> None:
    """A server that cannot tell is no client that has gone."""

    async def until_gone() -> None:
        raise RuntimeError("cannot tell")

    presence = Presence(until_gone)
    async with presence.needed():
        await asyncio.sleep(0.01)
    presence.close()


async def test_one_watcher() -> None:
    """However often it is asked, the server is watched once."""
    calls = 0

    async def until_gone() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(10)

    presence = Presence(until_gone)
    for _ in range(3):
        async with presence.needed():
            await asyncio.sleep(0.01)
    assert presence.watch() is presence.watch()
    assert calls == 1
    presence.close()


async def test_who_was_watched_leaves_nothing_behind() -> None:
    """Issue 3, memory: a watch that was called off is no circle that only the collector finds."""
    presence = Presence(asyncio.Event().wait)
    watcher = presence.watch()
    await asyncio.sleep(0)
    presence.close()
    await asyncio.wait({watcher})
    gone = weakref.ref(presence)
    gc.disable()
    try:
        del presence, watcher
        assert gone() is None
    finally:
        gc.enable()
