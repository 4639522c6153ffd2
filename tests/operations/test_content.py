"""Content is stored beside the money path: bounded, never waited for, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from farebox.kit.errors import UnavailableError
from farebox.operations import content as contents
from farebox.operations.content import (
    CONTENT_BYTES_MAX,
    QUEUE_BYTES_MAX,
    QUEUE_ROWS_MAX,
    Content,
    ContentRecorder,
    ContentRow,
    Kept,
)

ID = UUID(int=7)


def content(size: int = 3) -> Content:
    """A call's content."""
    return Content(
        call_id=ID,
        organization_id=ID,
        project_id=ID,
        request=b"x" * size,
        request_bytes=size,
        answer=b"",
        answer_bytes=0,
        answer_type="application/json",
    )


class Writer:
    """Takes rows, or is away, or finds one bad."""

    def __init__(self) -> None:
        self.taken: list[ContentRow] = []
        self.trouble: Exception | None = None
        self.arrived = asyncio.Event()

    async def insert(self, rows: Sequence[ContentRow]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.taken += rows
        self.arrived.set()


async def test_what_is_noted_is_written() -> None:
    """Everything that waits is written, in batches."""
    writer = Writer()
    recorder = ContentRecorder(writer)
    for _ in range(contents.BATCH_ROWS_MAX + 1):
        recorder.note(content(), 7)
    await recorder.flush()
    assert (len(writer.taken), recorder.dropped) == (contents.BATCH_ROWS_MAX + 1, 0)
    assert recorder.written == len(writer.taken)
    assert {row.days for row in writer.taken} == {7}


async def test_a_full_queue_drops_and_counts() -> None:
    """With the database away memory is bounded, by rows and by bytes; what is lost is a figure."""
    writer = Writer()
    writer.trouble = UnavailableError("away")
    many, large = ContentRecorder(writer), ContentRecorder(writer)
    for _ in range(QUEUE_ROWS_MAX + 5):
        many.note(content(), 1)
    assert many.dropped == 5
    for _ in range(QUEUE_BYTES_MAX // CONTENT_BYTES_MAX + 2):
        large.note(content(CONTENT_BYTES_MAX), 1)
    assert large.dropped == 2
    await many.flush()
    assert (many.last_error, many.dropped) == ("away", 5)
    writer.trouble = None
    await many.flush()
    assert len(writer.taken) == QUEUE_ROWS_MAX
    many.note(content(), 1)
    assert many.dropped == 5, "there is room again"


async def test_a_row_that_cannot_be_written_stops_no_other() -> None:
    """A batch that the database rejects is dropped and counted; the next one is written."""
    writer = Writer()
    recorder = ContentRecorder(writer)
    recorder.note(content(), 1)
    writer.trouble = ValueError("odd")
    await recorder.flush()
    assert recorder.dropped == 1
    writer.trouble = None
    recorder.note(content(), 1)
    await recorder.flush()
    assert (len(writer.taken), recorder.last_error) == (1, None)


async def test_it_writes_by_itself_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is stored soon after its end, and what is left when the gateway stops."""
    monkeypatch.setattr(contents, "FLUSH_SECONDS", 0.0)
    writer = Writer()
    recorder = ContentRecorder(writer)
    recorder.start()
    recorder.note(content(), 1)
    async with asyncio.timeout(10):
        await writer.arrived.wait()
    recorder.note(content(), 1)
    await recorder.aclose()
    assert len(writer.taken) == 2


async def test_what_cannot_be_written_at_the_end_is_counted() -> None:
    """Stopping does not wait for a database that is away."""
    writer = Writer()
    writer.trouble = UnavailableError("away")
    recorder = ContentRecorder(writer)
    recorder.note(content(), 1)
    await recorder.aclose()
    assert recorder.dropped == 1


def test_pieces_are_kept_up_to_the_bound_and_all_are_counted() -> None:
    """However an answer comes in pieces, no more than the bound stays in memory."""
    kept = Kept()
    for _ in range(3):
        kept.add(b"y" * (CONTENT_BYTES_MAX // 2 + 1))
    assert len(kept.taken()) == CONTENT_BYTES_MAX
    assert kept.total == 3 * (CONTENT_BYTES_MAX // 2 + 1)
