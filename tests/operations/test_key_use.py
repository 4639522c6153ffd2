"""When keys were last used: written seldom, never lost while there is room and the node lives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from typing_extensions import override

from farebox.kit.errors import UnavailableError
from farebox.operations import key_use
from farebox.operations.key_use import KeyUse

START = datetime(2026, 11, 20, tzinfo=UTC)
KEY, OTHER, PROJECT = UUID(int=2), UUID(int=1), UUID(int=3)


class Store:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[list[tuple[UUID, UUID, datetime]]] = []

    async def note_uses(self, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
        """See the port."""
        assert uses
        self.written.append(list(uses))


async def test_a_busy_key_is_written_once_a_minute() -> None:
    """ORG-15: a thousand calls make one write; the latest use is written by the minute's end."""
    store, now = Store(), [0.0]
    use = KeyUse(store, monotonic=lambda: now[0])
    for second in range(60):
        now[0] = float(second)
        use.note(KEY, PROJECT, START + timedelta(seconds=second))
        await use.flush()
    assert store.written == [[(KEY, PROJECT, START)]]
    now[0] = 60.0
    assert await use.flush() == 1
    assert store.written[1:] == [[(KEY, PROJECT, START + timedelta(seconds=59))]]
    now[0] = 600.0
    assert await use.flush() == 0


async def test_keys_are_written_in_one_order() -> None:
    """Two nodes that write the same keys cannot wait for each other in a circle."""
    store = Store()
    use = KeyUse(store, monotonic=lambda: 0.0)
    use.note(KEY, PROJECT, START)
    use.note(OTHER, PROJECT, START)
    await use.flush()
    assert [key for key, _, _ in store.written[0]] == [OTHER, KEY]


@pytest.mark.parametrize("fault", [UnavailableError, asyncio.CancelledError])
async def test_what_could_not_be_written_is_written_later(fault: type[BaseException]) -> None:
    """ORG-15: whatever ends a write, its uses wait; one during it or after it is the later one."""

    class Failing(Store):
        @override
        async def note_uses(self, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
            if not faults:
                return await super().note_uses(uses)
            use.note(KEY, PROJECT, START + timedelta(seconds=5))
            raise faults.pop()

    faults = [fault]
    store = Failing()
    use = KeyUse(store, monotonic=lambda: 0.0)
    use.note(KEY, PROJECT, START)
    use.note(OTHER, PROJECT, START)
    with pytest.raises(fault):
        await use.flush()
    use.note(OTHER, PROJECT, START + timedelta(seconds=7))
    assert await use.flush() == 2
    later = [START + timedelta(seconds=seconds) for seconds in (7, 5)]
    assert store.written == [[(OTHER, PROJECT, later[0]), (KEY, PROJECT, later[1])]]


async def test_two_flushes_at_once_write_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one has taken the other leaves alone."""
    monkeypatch.setattr(key_use, "AT_ONCE_MAX", 2)

    class Slow(Store):
        @override
        async def note_uses(self, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
            await asyncio.sleep(0)
            await super().note_uses(uses)

    store = Slow()
    use = KeyUse(store, monotonic=lambda: 0.0)
    for number in range(6):
        use.note(UUID(int=number), PROJECT, START)
    await asyncio.gather(use.flush(), use.flush())
    assert sorted(key.int for each in store.written for key, _, _ in each) == list(range(6))


async def test_a_key_that_is_seldom_used_finds_room_beside_busy_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ORG-15: keys that were just written and wait for their minute leave half of the room."""
    monkeypatch.setattr(key_use, "KEYS_MAX", 4)
    store = Store()
    use = KeyUse(store, monotonic=lambda: 0.0)
    for _ in range(2):
        for number in range(4):
            use.note(UUID(int=number), PROJECT, START)
        await use.flush()
    use.note(UUID(int=9), PROJECT, START)
    assert await use.flush() == 1
    assert store.written[-1][0][0] == UUID(int=9)


async def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write has so many keys at most; so many wait, and so many are remembered as written."""
    monkeypatch.setattr(key_use, "AT_ONCE_MAX", 2)
    monkeypatch.setattr(key_use, "KEYS_MAX", 5)
    store, now = Store(), [0.0]
    use = KeyUse(store, monotonic=lambda: now[0])
    for number in range(9):
        use.note(UUID(int=number), PROJECT, START)
    assert (await use.flush(), [len(each) for each in store.written]) == (5, [2, 2, 1])
    for number in range(5, 9):
        use.note(UUID(int=number), PROJECT, START)
    assert await use.flush() == 4
    use.note(UUID(int=4), PROJECT, START)
    assert await use.flush() == 0, "it is remembered as written"
    use.note(UUID(int=3), PROJECT, START)
    assert await use.flush() == 1, "it was written longest ago, and forgotten"
    now[0] = 60.0
    assert await use.flush() == 1


async def test_what_waits_is_noted_anew_even_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ORG-15: a use of a key that waits is the later one, however many wait."""
    monkeypatch.setattr(key_use, "KEYS_MAX", 1)
    store = Store()
    use = KeyUse(store, monotonic=lambda: 0.0)
    use.note(KEY, PROJECT, START)
    use.note(OTHER, PROJECT, START)
    use.note(KEY, PROJECT, START + timedelta(seconds=5))
    assert await use.flush() == 1
    assert store.written == [[(KEY, PROJECT, START + timedelta(seconds=5))]]
