"""Opening a connection: every address has its chance, the first answer wins, nothing leaks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from farebox.providers import dialing
from farebox.providers.dialing import Address, Dialer, alternating
from tests.support.provider_scenes import until

V4, V6 = socket.AF_INET, socket.AF_INET6


class Played:
    """Attempts that hang, fail or succeed as a test wants, and what became of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.look_ups = 0
        self.tried: list[str] = []
        self.let_go: list[str] = []
        self.discarded: list[str] = []
        self.release = asyncio.Event()
        monkeypatch.setattr(dialing, "NEXT_ATTEMPT_SECONDS", 0.01)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)
        self.dialer = Dialer("provider.example", 443, self._connect, self.discarded.append)

    async def _look_up(self, *_: object, **__: object) -> Sequence[Any]:
        self.look_ups += 1
        await asyncio.sleep(0)
        return [(V4, socket.SOCK_STREAM, 6, "", (name, 443)) for name in self.names]

    async def _connect(self, address: Address) -> str:
        name = address.host
        self.tried.append(name)
        if name.startswith("fails"):
            raise ConnectionRefusedError(name)
        try:
            if name.startswith("hangs"):
                await asyncio.Event().wait()
            if name.startswith("slow"):
                await self.release.wait()
        except asyncio.CancelledError:
            self.let_go.append(name)
            raise
        return name

    async def race(self, *names: str) -> str:
        """Try these."""
        self.names = list(names)
        return await asyncio.wait_for(self.dialer.dial(), 10)


async def test_an_address_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address is tried beside one that hangs; the loser is let go."""
    played = Played(monkeypatch)
    assert await played.race("hangs", "good", "never tried") == "good"
    await asyncio.sleep(0)
    assert (played.tried, played.let_go) == (["hangs", "good"], ["hangs"])


async def test_an_address_that_fails_hands_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No moment is waited for after a refusal."""
    played = Played(monkeypatch)
    monkeypatch.setattr(dialing, "NEXT_ATTEMPT_SECONDS", 1000)
    assert await played.race("fails 1", "fails 2", "good") == "good"


async def test_two_that_succeed_at_once_leave_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that nobody needs is closed."""
    played = Played(monkeypatch)
    racing = asyncio.ensure_future(played.race("slow 1", "slow 2"))
    await until(lambda: len(played.tried) == 2)
    played.release.set()
    found = await racing
    await until(lambda: bool(played.discarded))
    assert sorted([found, *played.discarded]) == ["slow 1", "slow 2"]


async def test_who_is_cancelled_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled call lets every attempt go, also one that had just succeeded."""
    played = Played(monkeypatch)
    racing = asyncio.ensure_future(played.race("slow", "hangs"))
    await until(lambda: len(played.tried) == 2)
    played.release.set()
    await asyncio.sleep(0)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await until(lambda: len(played.let_go + played.discarded) == 2)


async def test_the_last_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no address answers, the error says what the last one said."""
    played = Played(monkeypatch)
    with pytest.raises(ConnectionRefusedError, match="fails 2"):
        await played.race("fails 1", "fails 2")
    with pytest.raises(OSError, match="no address"):
        await played.race()


def test_families_take_turns() -> None:
    """A broken family costs one moment, however many addresses it has; some are enough."""
    six = [Address(V6, f"::{n}", 443) for n in range(20)]
    four = [Address(V4, f"192.0.2.{n}", 443) for n in range(2)]
    mixed = alternating(six + four)
    assert mixed[:5] == [six[0], four[0], six[1], four[1], six[2]]
    assert len(mixed) == dialing.ADDRESSES_MAX
    assert alternating([]) == []


async def test_an_address_of_one_link_keeps_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 addresses that mean something on one network alone are reached through it."""

    async def look_up(*_: object, **__: object) -> Sequence[Any]:
        return [
            (V6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, 2)),
            (V6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 443, 0, 0)),
        ]

    tried: list[Address] = []

    async def connect(address: Address) -> str:
        tried.append(address)
        raise OSError

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    with pytest.raises(OSError):
        await Dialer("provider.example", 443, connect, lambda _: None).dial()
    assert [address.host for address in tried] == ["fe80::1%2", "2001:db8::1"]


async def test_a_burst_asks_for_the_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred new connections at once look its name up once; after a failure they ask anew."""
    played = Played(monkeypatch)
    assert set(await asyncio.gather(*(played.race("good") for _ in range(100)))) == {"good"}
    assert played.look_ups == 1
    played.dialer._known = [Address(V4, "fails", 443)]
    with pytest.raises(ConnectionRefusedError):
        await played.race("good")
    assert await played.race("good") == "good"
    assert played.look_ups == 2
