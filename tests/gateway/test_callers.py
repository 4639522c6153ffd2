"""Keys: looked up once, trusted for a moment, and never guessed at."""

from __future__ import annotations

import asyncio

import pytest

from farebox.gateway import callers
from farebox.gateway.callers import Callers, refuse_inactive
from farebox.gateway.openai_errors import GatewayError
from farebox.kit.errors import UnavailableError
from farebox.tenancy.api_keys import KeyKind, digest, make_key
from tests.support.scripted_upstream import ScriptedResponse, ScriptedUpstream
from tests.support.small_gateway import KEY, KEY_ID, MemoryDirectory, key_row

BEARER = f"Bearer {KEY}"


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock."""
    return Clock()


@pytest.fixture
def directory() -> MemoryDirectory:
    """One key."""
    return MemoryDirectory(ScriptedUpstream(lambda _: ScriptedResponse([])))


@pytest.fixture
def known(directory: MemoryDirectory, clock: Clock) -> Callers:
    """The callers."""
    return Callers(directory, monotonic=clock)


async def refusal(known: Callers, authorization: str) -> GatewayError:
    """The error of a header."""
    with pytest.raises(GatewayError) as caught:
        await known.caller(authorization, fresh=False)
    return caught.value


@pytest.mark.parametrize("text", ["", "Bearer", "Bearer ", "Basic x", KEY, "Bearer\u00a0x"])
async def test_no_key(known: Callers, directory: MemoryDirectory, text: str) -> None:
    """Without a bearer token there is no key, and no look-up."""
    assert (await refusal(known, text)).code is None
    assert directory.lookups == 0


@pytest.mark.parametrize(
    "key",
    [
        "sk-x",
        KEY + "1",
        KEY[:-1] + "0",
        "x" * 100_000,
        "fbx_test_" + "\u0661" * 44,
        make_key(KeyKind.ADMIN, bytes(32)),
        f"{KEY},Bearer {KEY}",
        "\ud800",
    ],
    ids=range(8),
)
async def test_what_is_no_key_is_not_looked_up(
    known: Callers, directory: MemoryDirectory, key: str
) -> None:
    """ERR-04: its form alone refuses it."""
    assert (await refusal(known, f"Bearer {key}")).code == "invalid_api_key"
    assert directory.lookups == 0


async def test_how_long_a_key_is_trusted(
    known: Callers, directory: MemoryDirectory, clock: Clock
) -> None:
    """A minute where the engine re-reads its state, a second where nothing does."""
    for later, fresh, lookups in (
        (0.0, False, 1),
        (59.0, False, 1),
        (0.0, True, 2),
        (0.9, True, 2),
        (0.2, True, 3),
        (59.9, False, 3),
        (0.2, False, 4),
    ):
        clock.now += later
        caller = await known.caller(f"bEaReR  {KEY} ", fresh=fresh)
        assert caller.id == KEY_ID
        assert directory.lookups == lookups


async def test_an_unknown_key_is_remembered_for_a_second(
    known: Callers, directory: MemoryDirectory, clock: Clock
) -> None:
    """A loop with a wrong key reads the database once a second; a new key is found soon."""
    directory.keys.clear()
    for _ in range(10):
        assert (await refusal(known, BEARER)).code == "invalid_api_key"
    assert directory.lookups == 1
    directory.keys[digest(KEY)] = key_row()
    clock.now += 1.0
    assert (await known.caller(BEARER, fresh=False)).id == KEY_ID


async def test_memory_is_bounded(
    directory: MemoryDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of keys, known or not, takes no more than so much memory."""
    monkeypatch.setattr(callers, "KEYS_MAX", 5)
    monkeypatch.setattr(callers, "UNKNOWN_MAX", 5)
    known = Callers(directory, monotonic=clock)
    for number in range(20):
        key = make_key(KeyKind.LIVE, number.to_bytes(32, "big"))
        if number % 2:
            directory.keys[digest(key)] = key_row()
            await known.caller(f"Bearer {key}", fresh=False)
        else:
            await refusal(known, f"Bearer {key}")
    assert len(known._known) <= 4
    assert len(known._unknown) <= 4


async def test_what_is_too_old_to_be_trusted_is_let_go(
    known: Callers, directory: MemoryDirectory, clock: Clock
) -> None:
    """A key that is looked up no more takes no room; one that still may be trusted stays."""
    keys = [make_key(KeyKind.LIVE, number.to_bytes(32, "big")) for number in range(12)]
    for key in keys:
        directory.keys[digest(key)] = key_row()
        await known.caller(f"Bearer {key}", fresh=False)
        clock.now += callers.KEPT_SECONDS / 4
        assert len(known._known) <= 8
    await known.caller(f"Bearer {keys[-1]}", fresh=False)
    assert directory.lookups == 12


async def test_who_still_may_be_trusted_is_not_let_go(
    known: Callers, directory: MemoryDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the minute's turn nor a full half forgets who was looked up within the minute."""
    keys = [make_key(KeyKind.LIVE, number.to_bytes(32, "big")) for number in range(6)]
    for key in keys:
        directory.keys[digest(key)] = key_row()
        await known.caller(f"Bearer {key}", fresh=False)
        clock.now += callers.KEPT_SECONDS / 4
    for key in keys[-3:]:
        await known.caller(f"Bearer {key}", fresh=False)
    assert directory.lookups == 6

    monkeypatch.setattr(callers, "KEYS_MAX", 8)
    few = Callers(directory, monotonic=clock)
    clock.now += callers.KEPT_SECONDS - 1
    for key in keys[:5]:  # the fifth turns, a second before the minute would
        await few.caller(f"Bearer {key}", fresh=False)
    clock.now += 1
    await few.caller(f"Bearer {keys[5]}", fresh=False)
    before = directory.lookups
    for key in keys[:2]:
        await few.caller(f"Bearer {key}", fresh=False)
    assert directory.lookups == before


async def test_a_key_that_is_gone_is_not_kept(
    known: Callers, directory: MemoryDirectory, clock: Clock
) -> None:
    """What a look found to be gone is refused from then on, also where older facts would do."""
    await known.caller(BEARER, fresh=False)
    await known.caller(BEARER, fresh=False, anew=True)
    assert directory.lookups == 2
    directory.keys.clear()
    clock.now += 2.0
    with pytest.raises(GatewayError):
        await known.caller(BEARER, fresh=True)
    clock.now += 2.0
    with pytest.raises(GatewayError):
        await known.caller(BEARER, fresh=False)


async def test_the_database_away(known: Callers, directory: MemoryDirectory) -> None:
    """Field bug 60: a known key goes on; an unknown one is 503, never 401, and not remembered."""
    await known.caller(BEARER, fresh=False)
    directory.error = UnavailableError()
    await known.caller(BEARER, fresh=False)
    other = make_key(KeyKind.LIVE, b"\1" * 32)
    with pytest.raises(UnavailableError):
        await known.caller(f"Bearer {other}", fresh=False)
    directory.error = None
    directory.keys[digest(other)] = key_row()
    assert (await known.caller(f"Bearer {other}", fresh=False)).id == KEY_ID


async def test_many_at_once(known: Callers, directory: MemoryDirectory) -> None:
    """A crowd with one key all gets in."""
    found = await asyncio.gather(*(known.caller(BEARER, fresh=False) for _ in range(50)))
    assert {caller.id for caller in found} == {KEY_ID}


@pytest.mark.parametrize("state", ["revoked", "expired", "project_archived"])
def test_a_key_that_opens_nothing(state: str) -> None:
    """Where nothing is charged the state decides here."""
    with pytest.raises(GatewayError) as caught:
        refuse_inactive(state)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    refuse_inactive("active")
    refuse_inactive("organization_inactive")
