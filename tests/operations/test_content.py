"""Content is stored beside the money path: bounded, never waited for, never in the way."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

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
    """Takes rows, or is away."""

    def __init__(self) -> None:
        self.taken: list[ContentRow] = []
        self.trouble: UnavailableError | None = None

    async def insert(self, rows: Sequence[ContentRow]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.taken += rows


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


def test_pieces_are_kept_up_to_the_bound_and_all_are_counted() -> None:
    """However an answer comes in pieces, no more than the bound stays in memory."""
    kept = Kept()
    for _ in range(3):
        kept.add(b"y" * (CONTENT_BYTES_MAX // 2 + 1))
    assert len(kept.taken()) == CONTENT_BYTES_MAX
    assert kept.total == 3 * (CONTENT_BYTES_MAX // 2 + 1)
