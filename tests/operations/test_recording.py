"""What is written beside the money path is bounded, never waited for and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from farebox.kit.errors import UnavailableError
from farebox.operations import recording
from farebox.operations.recording import Recorder


class Numbers(Recorder[int]):
    """Records numbers, each as large as it says; the store fails as it is told to."""

    def __init__(
        self, *failures: Exception, rows_max: int = 10, bytes_max: int | None = None
    ) -> None:
        super().__init__(batch_max=3, rows_max=rows_max, bytes_max=bytes_max)
        self.failures = list(failures)
        self.batches: list[list[int]] = []
        self.wrote = asyncio.Event()
        self.hangs = False

    def note(self, *numbers: int) -> None:
        """Record numbers."""
        for number in numbers:
            self._put(number)
        self._wake()

    @override
    async def _write(self, batch: Sequence[int]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(list(batch))
        self.wrote.set()

    @override
    def _size(self, row: int) -> int:
        return row


async def test_what_is_noted_is_written_in_batches() -> None:
    """Everything that waits is written in its order, and it is said that nothing is left."""
    recorder = Numbers()
    recorder.note(1, 2, 3, 4)
    assert not await recorder.flush()
    assert recorder.batches == [[1, 2, 3], [4]]
    assert (recorder.written, recorder.dropped, recorder.queued) == (4, 0, 0)


async def test_what_the_database_does_not_take_stays_for_the_next_time() -> None:
    """A database that is away costs nothing but time: the same rows come again in their order."""
    recorder = Numbers(UnavailableError("away"))
    recorder.note(1, 2)
    assert await recorder.flush()
    assert (recorder.last_error, recorder.queued, recorder.dropped) == ("away", 2, 0)
    recorder.note(3)
    assert not await recorder.flush()
    assert (recorder.batches, recorder.last_error) == ([[1, 2, 3]], None)


async def test_a_row_that_cannot_be_written_stops_no_other() -> None:
    """A batch that the database rejects is dropped and counted; the next one is written."""
    recorder = Numbers(ValueError("odd"))
    recorder.note(1, 2, 3, 4)
    await recorder.flush()
    assert (recorder.batches, recorder.dropped, recorder.written) == ([[4]], 3, 1)


async def test_memory_is_bounded_by_rows_and_by_bytes() -> None:
    """With the database away for long, what finds no room is dropped and counted."""
    many, large = Numbers(rows_max=3), Numbers(bytes_max=10)
    many.note(1, 1, 1, 1, 1)
    assert (many.queued, many.dropped) == (3, 2)
    large.note(6, 4, 1)
    assert (large.queued, large.dropped) == (2, 1)
    await large.flush()
    large.note(10)
    assert (large.queued, large.dropped) == (1, 1), "there is room again"


async def test_it_writes_by_itself_and_again_after_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to ask: a row is written soon, and soon after the database is back."""
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    recorder = Numbers(UnavailableError("away"), UnavailableError("still away"))
    recorder.start()
    recorder.note(1)
    async with asyncio.timeout(10):
        await recorder.wrote.wait()
    await recorder.aclose()
    assert (recorder.batches, recorder.dropped) == ([[1]], 0)


async def test_closing_writes_what_is_left() -> None:
    """Nothing that was noted is lost at the end, whether or not it was ever started."""
    for starts in (True, False):
        recorder = Numbers()
        if starts:
            recorder.start()
        recorder.note(1)
        await recorder.aclose()
        assert (recorder.batches, recorder.dropped) == ([[1]], 0)


async def test_what_cannot_be_written_at_the_end_is_counted() -> None:
    """A stop does not wait for a database that is away."""
    recorder = Numbers(UnavailableError("away"))
    recorder.note(1, 2)
    await recorder.aclose()
    assert (recorder.dropped, recorder.queued, recorder.last_error) == (2, 0, "away")


async def test_closing_ends_although_the_database_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop is held up for a bounded time only: what is not written then is dropped."""
    monkeypatch.setattr(recording, "CLOSE_SECONDS", 0.0)
    recorder = Numbers()
    recorder.hangs = True
    recorder.note(1)
    await recorder.aclose()
    assert (recorder.dropped, recorder.queued) == (1, 0)
    assert recorder.last_error is not None
