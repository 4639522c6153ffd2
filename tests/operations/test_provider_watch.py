"""What a gateway notes of our own accounts at providers: bounded, and nothing while one is away."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from farebox.kit.errors import UnavailableError
from farebox.operations import provider_watch
from farebox.operations.provider_watch import AGAIN_SECONDS, NotedAccount, ProviderWatch


class Told:
    """Remembers what was written, and is away when a test says so."""

    def __init__(self) -> None:
        self.writes: list[list[tuple[int, int]]] = []
        self.away = False
        self.seconds = 0.0

    async def tell(self, found: Sequence[NotedAccount]) -> int:
        if self.away:
            raise UnavailableError
        self.writes.append([(each.account_id.int, each.call_id.int) for each in found])
        return len(found)


def watch_of(told: Told) -> ProviderWatch:
    """A gateway's watch, at a second that the test sets."""
    return ProviderWatch(told, monotonic=lambda: told.seconds)


def note(watch: ProviderWatch, account: int, call: int) -> None:
    """A call that the provider refused."""
    watch.note(UUID(int=account), provider="openai", status=429, call_id=UUID(int=call))


async def test_however_many_calls_fail_there_is_one_write_a_minute() -> None:
    """ERR-08: never a write per failing call; the first call of each account is the evidence."""
    told = Told()
    watch = watch_of(told)
    for call in range(1_000):
        note(watch, 2 - call % 2, call)
    assert await watch.flush() == 2
    for _ in range(11):
        told.seconds += 5
        note(watch, 1, 5_000)
        assert await watch.flush() == 0
    told.seconds += 5
    assert await watch.flush() == 1
    assert told.writes == [[(1, 1), (2, 0)], [(1, 5_000)]]
    told.seconds += AGAIN_SECONDS
    assert await watch.flush() == 0, "an account that works again is written no more"


async def test_what_could_not_be_written_is_written_later() -> None:
    """The database away costs nothing but time, also to calls that fail meanwhile."""
    told = Told()
    watch = watch_of(told)
    note(watch, 1, 7)
    told.away = True
    with pytest.raises(UnavailableError):
        await watch.flush()
    note(watch, 1, 8)
    told.away = False
    assert await watch.flush() == 1
    assert told.writes == [[(1, 7)]]


async def test_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on everything: what comes beyond it is noted when others were written."""
    monkeypatch.setattr(provider_watch, "ACCOUNTS_MAX", 2)
    told = Told()
    watch = watch_of(told)
    for account in (1, 2, 3):
        note(watch, account, account)
    assert await watch.flush() == 2
    note(watch, 3, 3)
    assert await watch.flush() == 1
