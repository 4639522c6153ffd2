"""The record of refused calls: written beside the money path, and never in its way.

A refusal costs nothing and is a row with its reason and the figures of its decision (ERR-11). Rows
are collected and written in batches; one key that is refused by one rule hundreds of times a second
makes ten rows and one that counts the rest (ENGINE.md, "Limits"). Whatever happens here, the call's
own answer is the same: what cannot be kept is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

import msgspec
from typing_extensions import override

from farebox.ledger.commands import Refused
from farebox.ledger.limits import LimitFigures
from farebox.operations.recording import Recorder

ROWS_PER_SECOND: Final = 10
"""Rows of one key, rule and second; the rest are counted in one more."""

BATCH_ROWS_MAX: Final = 500
QUEUE_ROWS_MAX: Final = 20_000
"""Some tens of megabytes while the database is away; later refusals are dropped and counted."""

RULES_MAX: Final = 10_000
"""Pairs of key and rule that are counted at once."""


class Refusal(msgspec.Struct, frozen=True):
    """A call that was not admitted."""

    call_id: UUID
    organization_id: UUID
    project_id: UUID
    key_id: UUID
    model: str
    endpoint: str
    user: str
    feature: str
    refusal: Refused


class RefusalRow(msgspec.Struct):
    """A row to write."""

    refusal: Refusal
    age: timedelta
    """How long ago it happened, by a monotonic clock: the database turns it into an instant."""
    times: int


class RefusalStore(Protocol):
    """Where refusals are kept."""

    async def insert(self, rows: Sequence[RefusalRow]) -> None:
        """Write rows; those whose id is there already are left as they are.

        Raises:
            UnavailableError: The database is away; the same rows may be sent again.
        """


class _Noted(msgspec.Struct):
    refusal: Refusal
    at: float
    times: int = 1


class _Second(msgspec.Struct):
    """The refusals of one key by one rule in one second."""

    rows: int = 0
    rest: _Noted | None = None


_Rule = tuple[UUID, str, tuple[str, ...] | None, int]
"""Key, code, the limit, the second."""


class RefusalRecorder(Recorder[_Noted]):
    """Takes refusals at once and writes them soon."""

    def __init__(self, store: RefusalStore, *, monotonic: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            store: Where rows go.
            monotonic: Seconds of a clock that only goes forward.
        """
        super().__init__(batch_max=BATCH_ROWS_MAX, rows_max=QUEUE_ROWS_MAX)
        self._store = store
        self._monotonic = monotonic
        self._seconds: dict[_Rule, _Second] = {}

    def note(self, refusal: Refusal) -> None:
        """Record a refusal; never waits, never fails."""
        now = self._monotonic()
        limit = refusal.refusal.limit
        rule: _Rule = (refusal.key_id, refusal.refusal.code, _named(limit), int(now))
        second = self._seconds.get(rule)
        if second is None:
            if len(self._seconds) >= RULES_MAX:
                self.dropped += 1
                return
            second = self._seconds[rule] = _Second()
        if second.rows < ROWS_PER_SECOND:
            second.rows += 1
            self._put(_Noted(refusal, now))
        elif second.rest is None:
            second.rest = _Noted(refusal, now)
        else:
            second.rest.times += 1
        self._wake()

    @override
    async def _write(self, batch: Sequence[_Noted]) -> None:
        now = self._monotonic()
        await self._store.insert(
            [
                RefusalRow(noted.refusal, timedelta(seconds=now - noted.at), noted.times)
                for noted in batch
            ]
        )

    @override
    def _times(self, row: _Noted) -> int:
        return row.times

    @override
    def _gather(self, *, everything: bool) -> bool:
        """The counts of seconds that are over; of the running one too if it is to be everything."""
        running = int(self._monotonic())
        for rule in [rule for rule in self._seconds if everything or rule[-1] < running]:
            rest = self._seconds.pop(rule).rest
            if rest is not None:
                self._put(rest)
        return bool(self._seconds)


def _named(limit: LimitFigures | None) -> tuple[str, ...] | None:
    """Which limit it was: two of one scope and period are two."""
    if limit is None:
        return None
    of = limit.measure, limit.effect, limit.models, limit.origin
    return limit.scope_kind, limit.scope_id, limit.period, *of
