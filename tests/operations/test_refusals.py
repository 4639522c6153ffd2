"""The record of refused calls, against a store in memory and a clock by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.errors import UnavailableError
from farebox.kit.money import Nanos
from farebox.ledger.commands import Refused
from farebox.ledger.limits import LimitFigures, Measure
from farebox.operations import recording, refusals
from farebox.operations.refusals import (
    ROWS_PER_SECOND,
    Refusal,
    RefusalRecorder,
    RefusalRow,
)


class MemoryRefusals:
    """Keeps rows; fails as often as it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.rows: list[RefusalRow] = []
        self.failures = list(failures)
        self.wrote = asyncio.Event()

    async def insert(self, rows: Sequence[RefusalRow]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.rows += rows
        self.wrote.set()

    @property
    def times(self) -> int:
        return sum(row.times for row in self.rows)


class Clock:
    """Seconds that go on when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def refusal(number: int, *, key: int = 1, code: str = "credit_balance_exhausted") -> Refusal:
    """A call that was refused."""
    return Refusal(
        call_id=UUID(int=number),
        organization_id=UUID(int=11),
        project_id=UUID(int=12),
        key_id=UUID(int=key),
        model="gpt-5.4",
        endpoint="responses",
        user="",
        feature="",
        refusal=Refused(code=code, message="No."),
    )


async def test_a_flood_is_ten_rows_and_a_count() -> None:
    """ENGINE.md, Limits: one key, one rule, one second: ten rows, then one that counts the rest."""
    clock, store = Clock(), MemoryRefusals()
    recorder = RefusalRecorder(store, monotonic=clock)
    for number in range(500):
        recorder.note(refusal(number))
    await recorder.flush()
    assert len(store.rows) == ROWS_PER_SECOND
    clock.seconds += 1
    await recorder.flush()
    assert [row.times for row in store.rows] == [1] * ROWS_PER_SECOND + [490]
    assert store.times == 500
    assert (recorder.dropped, recorder.queued, recorder.written) == (0, 0, ROWS_PER_SECOND + 1)


async def test_other_keys_rules_and_seconds_have_rows_of_their_own() -> None:
    """A flood of one key by one rule hides nobody else's refusals."""
    clock, store = Clock(), MemoryRefusals()
    recorder = RefusalRecorder(store, monotonic=clock)
    numbers = iter(range(1000))
    for _ in range(20):
        recorder.note(refusal(next(numbers)))
        recorder.note(refusal(next(numbers), key=2))
        recorder.note(refusal(next(numbers), code="key_revoked"))
    clock.seconds += 1
    for _ in range(20):
        recorder.note(refusal(next(numbers)))
    await recorder.flush(everything=True)
    assert len(store.rows) == 4 * (ROWS_PER_SECOND + 1)
    assert store.times == 80


async def test_rows_say_how_old_they_are() -> None:
    """A row that waited for the database still carries the instant of its refusal."""
    clock, store = Clock(), MemoryRefusals(UnavailableError())
    recorder = RefusalRecorder(store, monotonic=clock)
    recorder.note(refusal(1))
    await recorder.flush()
    assert (recorder.queued, recorder.last_error) == (1, UnavailableError().message)
    clock.seconds += 30
    await recorder.flush()
    assert [row.age.total_seconds() for row in store.rows] == [30]
    assert (recorder.dropped, recorder.last_error) == (0, None)


async def test_noting_never_fails_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the database away for long, later refusals are dropped and counted."""
    monkeypatch.setattr(refusals, "QUEUE_ROWS_MAX", 15)
    monkeypatch.setattr(refusals, "RULES_MAX", 20)
    clock = Clock()
    store = MemoryRefusals(*[UnavailableError()] * 9)
    recorder = RefusalRecorder(store, monotonic=clock)
    for number in range(30):
        recorder.note(refusal(number, key=number))
    assert (recorder.queued, recorder.dropped) == (15, 15)
    await recorder.flush()
    clock.seconds += 5
    for number in range(30, 60):
        recorder.note(refusal(number, key=1))
    await recorder.flush(everything=True)
    assert (recorder.queued, recorder.dropped) == (15, 45)


async def test_what_is_noted_is_written_without_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recorder writes by itself, off the path of the call that noted."""
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    clock, store = Clock(), MemoryRefusals()
    recorder = RefusalRecorder(store, monotonic=clock)
    recorder.start()
    for number in range(12):
        recorder.note(refusal(number))
    await store.wrote.wait()
    assert len(store.rows) == ROWS_PER_SECOND
    store.wrote.clear()
    clock.seconds += 1
    await store.wrote.wait()
    assert store.times == 12
    await recorder.aclose()
    assert recorder.dropped == 0


async def test_closing_writes_what_is_left() -> None:
    """Nothing that was noted is lost at the end, a running count included."""
    store = MemoryRefusals()
    recorder = RefusalRecorder(store, monotonic=Clock())
    recorder.start()
    for number in range(12):
        recorder.note(refusal(number))
    await recorder.aclose()
    assert store.times == 12


async def test_several_limits_are_several_rules() -> None:
    """ERR-11: two that refuse with the same code, of two scopes or of one, are counted apart."""
    store = MemoryRefusals()
    recorder = RefusalRecorder(store, monotonic=Clock())
    for scope, measure in ((UUID(int=1), "calls"), (UUID(int=1), "tokens"), (UUID(int=2), "calls")):
        figures = LimitFigures(
            scope_kind="project",
            scope_id=scope.hex,
            period="month",
            maximum=Nanos(1),
            used=Nanos(1),
            held=Nanos(0),
            resets_at=datetime(2026, 6, 1, tzinfo=UTC),
            measure=Measure(measure),
        )
        plain = refusal(scope.int, code="limit")
        for number in range(11):
            changed = structs.replace(plain.refusal, limit=figures)
            recorder.note(structs.replace(plain, call_id=UUID(int=number), refusal=changed))
    await recorder.flush(everything=True)
    assert len(store.rows) == 3 * (ROWS_PER_SECOND + 1)
