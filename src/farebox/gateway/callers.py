"""Who calls: from the key in the request to its organisation and project.

A key's facts are kept for a moment. For charged calls that is exact all the same: ``admit``
re-reads the key's state under the lock. What charges nothing may trust them for a second. A key
that is not known costs a database read; unknown ones are remembered for a moment too, so that a
loop with a wrong key does not load the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from farebox.gateway.openai_errors import missing_key, wrong_key
from farebox.kit.recent import Recent
from farebox.operations.directory import Caller, Directory
from farebox.operations.key_status import CLOSED
from farebox.tenancy.api_keys import KeyKind, KeyState, digest, kind_of

FRESH_SECONDS: Final = 1.0
"""How long a key's state may be trusted where nothing is charged."""

KEPT_SECONDS: Final = 60.0
"""How long its organisation, project and defaults may be: the engine re-reads what matters."""

LOOKUPS_MAX: Final = 4
"""Keys looked up at once: strangers with made-up keys must not take every connection."""

KEYS_MAX: Final = 24_000
"""Keys kept at once, at half a kilobyte each; half as many as were used last are always kept. The
others are read again."""

UNKNOWN_MAX: Final = 10_000

_BEARER: Final = "bearer "


class Callers:
    """Keys seen lately."""

    def __init__(self, directory: Directory, *, monotonic: Callable[[], float]) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self._lookups = asyncio.Semaphore(LOOKUPS_MAX)
        self._known: Recent[bytes, tuple[Caller, float]] = Recent(KEYS_MAX)
        self._unknown: Recent[bytes, float] = Recent(UNKNOWN_MAX)
        self._turns, self._turned_at = 0, monotonic()

    async def caller(self, authorization: str, *, fresh: bool, anew: bool = False) -> Caller:
        """The caller that an ``Authorization`` header names.

        Args:
            authorization: The header's value, empty if there is none.
            fresh: Whether the key's state matters here (nothing will re-read it).
            anew: What is kept is known to be wrong: read it again.

        Raises:
            GatewayError: 401, with the code that OpenAI's clients know.
            UnavailableError: The database is away and the key is not known.
        """
        secret = read_bearer(authorization)
        name, now = digest(secret), self._monotonic()
        if anew:
            self._known.pop(name)
        kept = self._known.get(name)
        if kept is not None and now - kept[1] < (FRESH_SECONDS if fresh else KEPT_SECONDS):
            return kept[0]
        refused_at = self._unknown.get(name)
        if refused_at is not None and now - refused_at < FRESH_SECONDS:
            raise wrong_key()
        return await self._find(name, now)

    def forget(self) -> None:
        """Ask again about every key: what is kept with one has changed somewhere."""
        self._known.clear()

    async def _find(self, name: bytes, now: float) -> Caller:
        async with self._lookups:
            caller = await self._directory.find_key(name)
        if caller is None:
            self._known.pop(name)
            self._unknown.put(name, now)
            raise wrong_key()
        self._known.put(name, (caller, now))
        self._turn(now)
        return caller

    def _turn(self, now: float) -> None:
        """Let go of whom nobody asked for between two turns a minute apart: none can be trusted."""
        known = self._known
        if known.turns == self._turns and now - self._turned_at >= KEPT_SECONDS:
            known.turn()
            self._unknown.turn()
        if known.turns != self._turns:
            self._turns, self._turned_at = known.turns, now


def read_bearer(authorization: str) -> str:
    """The key for models that an ``Authorization`` header holds, by its form alone.

    Raises:
        GatewayError: 401.
    """
    if authorization[: len(_BEARER)].lower() != _BEARER:
        raise missing_key()
    secret = authorization[len(_BEARER) :].strip()
    if not secret:
        raise missing_key()
    if kind_of(secret) in {None, KeyKind.ADMIN}:
        raise wrong_key()
    return secret


def refuse_inactive(state: str) -> None:
    """Refuse a key that opens nothing, where nothing is charged and so nothing else decides.

    Raises:
        GatewayError: 401.
    """
    if state in CLOSED:
        raise wrong_key(CLOSED[KeyState(state)])
