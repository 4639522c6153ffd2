"""When keys were last used (ORG-15): noted in memory, written now and then, never with money.

A key that is used all the time costs one small write a minute and node. What a node did not write
before it died, or had no room for, is lost: such a key looks unused until it is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Final, Protocol
from uuid import UUID

EVERY_SECONDS: Final = 60.0
"""How exact the time is."""

KEYS_MAX: Final = 16_000
"""So many keys wait to be written, and one write more; the use of another is not noted. So many are
remembered as written; the others are written whenever they were used."""

AT_ONCE_MAX: Final = 1_000
"""Keys in one write."""


class KeyUseStore(Protocol):
    """Where it is written."""

    async def note_uses(self, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
        """Key, project and instant of each."""


class KeyUse:
    """What was used since the last write."""

    def __init__(self, store: KeyUseStore, *, monotonic: Callable[[], float]) -> None:
        """Put it together.

        Args:
            store: Where it is written.
            monotonic: Seconds of a clock that never goes back.
        """
        self._store = store
        self._monotonic = monotonic
        self._used: dict[UUID, tuple[UUID, datetime]] = {}
        self._written: dict[UUID, float] = {}

    def note(self, key_id: UUID, project_id: UUID, at: datetime) -> None:
        """A key was used; cheap enough for every call."""
        used = self._used
        if len(used) < KEYS_MAX // 2 or key_id in used or self._has_room_for(key_id):
            used[key_id] = (project_id, at)

    def _has_room_for(self, key_id: UUID) -> bool:
        """Half of the room is for keys not written lately: the others lose a minute, not a day."""
        return len(self._used) < KEYS_MAX and self._is_due(key_id, self._monotonic())

    def _is_due(self, key_id: UUID, now: float) -> bool:
        return now - self._written.get(key_id, -inf) >= EVERY_SECONDS

    async def flush(self) -> int:
        """Write what is due; gives how many keys were written.

        Raises:
            UnavailableError: The database is away; what was due is written by the next flush.
        """
        now = self._monotonic()
        due = [key_id for key_id in self._used if self._is_due(key_id, now)]
        # One order everywhere: two nodes that write the same keys cannot wait for each other.
        due.sort(key=attrgetter("int"))
        for first in range(0, len(due), AT_ONCE_MAX):
            await self._write(due[first : first + AT_ONCE_MAX], now)
        return len(due)

    async def _write(self, key_ids: Sequence[UUID], now: float) -> None:
        taken = {key_id: self._used.pop(key_id) for key_id in key_ids if key_id in self._used}
        try:
            if taken:
                await self._store.note_uses([(key_id, *use) for key_id, use in taken.items()])
        except BaseException:
            self._used = taken | self._used
            raise
        self._remember(taken, now)

    def _remember(self, key_ids: Iterable[UUID], now: float) -> None:
        """Note what was written; who was written longest ago comes first, and goes first."""
        written = self._written
        for key_id in key_ids:
            written.pop(key_id, None)
            written[key_id] = now
        for key_id in list(islice(written, max(0, len(written) - KEYS_MAX))):
            del written[key_id]
