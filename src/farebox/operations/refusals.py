"""The record of refused calls: written beside the money path, and never in its way.

A refusal costs nothing and is a row with its reason and the figures of its decision (ERR-11). Rows
are collected and written in batches; one key that is refused by one rule hundreds of times a second
makes ten rows and one that counts the rest (ENGINE.md, "Limits"). Whatever happens here, the call's
own answer is the same: what cannot be kept is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import Refused
from farebox.ledger.limits import LimitFigures

FLUSH_SECONDS: Final = 0.5
"""A refusal is in the database after this time: soon enough for a person who looks it up."""

ROWS_PER_SECOND: Final = 10
"""Rows of one key, rule and second; the rest are counted in one more."""

BATCH_ROWS_MAX: Final = 500
QUEUE_ROWS_MAX: Final = 20_000
"""Some tens of megabytes while the database is away; later refusals are dropped and counted."""

RULES_MAX: Final = 10_000
"""Pairs of key and rule that are counted at once."""

CLOSE_SECONDS: Final = 5.0
"""What is left is written at the end, if the database answers in this time."""


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


class RefusalRecorder:
    """Takes refusals at once and writes them soon."""

    def __init__(self, store: RefusalStore, *, monotonic: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            store: Where rows go.
            monotonic: Seconds of a clock that only goes forward.
        """
        self.dropped = 0
        """Refusals that were not recorded; anything but zero is worth an alert."""
        self.written = 0
        """Rows that were written."""
        self.last_error: str | None = None
        """Why writing failed the last time; None while it works."""
        self._store = store
        self._monotonic = monotonic
        self._queue: deque[_Noted] = deque()
        self._seconds: dict[_Rule, _Second] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Rows that wait to be written."""
        return len(self._queue)

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
        self._arrived.set()

    def start(self) -> None:
        """Begin to write; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self) -> None:
        """Stop, and write what is left if the database answers in time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.flush(everything=True)
        except TimeoutError:
            self.last_error = "the database did not answer while closing"
        self.dropped += sum(noted.times for noted in self._queue)
        self._queue.clear()

    async def flush(self, *, everything: bool = False) -> None:
        """Write what is due: all rows, and the counts of seconds that are over.

        Args:
            everything: The counts of the running second too.
        """
        self._end_seconds(everything=everything)
        while self._queue:
            batch = [self._queue[i] for i in range(min(BATCH_ROWS_MAX, len(self._queue)))]
            now = self._monotonic()
            rows = [
                RefusalRow(noted.refusal, timedelta(seconds=now - noted.at), noted.times)
                for noted in batch
            ]
            try:
                await self._store.insert(rows)
            except UnavailableError as error:
                self.last_error = error.message
                return  # they stay in the queue for the next time
            except Exception as error:  # noqa: BLE001 - a row that cannot be written stops no other
                self.last_error = repr(error)
                self.dropped += sum(noted.times for noted in batch)
            else:
                self.last_error = None
                self.written += len(rows)
            for _ in batch:
                self._queue.popleft()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._arrived.clear()
            await self.flush()
            if self._queue or self._seconds:
                self._arrived.set()

    def _end_seconds(self, *, everything: bool) -> None:
        running = int(self._monotonic())
        for rule in [rule for rule in self._seconds if everything or rule[-1] < running]:
            rest = self._seconds.pop(rule).rest
            if rest is not None:
                self._put(rest)

    def _put(self, noted: _Noted) -> None:
        if len(self._queue) >= QUEUE_ROWS_MAX:
            self.dropped += noted.times
        else:
            self._queue.append(noted)


def _named(limit: LimitFigures | None) -> tuple[str, ...] | None:
    """Which limit it was: two of one scope and period are two."""
    if limit is None:
        return None
    of = limit.measure, limit.effect, limit.models, limit.origin
    return limit.scope_kind, limit.scope_id, limit.period, *of
