"""What calls said: stored only where a project says so, beside the money path, until its day comes.

Requests and answers of a project that stores content are collected, cut to a bound each, and
written soon after the call; whatever happens here, the call's own answer is the same: what cannot
be kept is dropped and counted. Headers are never stored, and so no key is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import UnavailableError

CONTENT_BYTES_MAX: Final = 256 * 1024
"""Of a request, and of an answer; the rest is cut off and said to be."""

FLUSH_SECONDS: Final = 0.5
BATCH_ROWS_MAX: Final = 50
QUEUE_ROWS_MAX: Final = 2_000
QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
"""While the database is away, or cannot keep up; later ones are dropped and counted."""

CLOSE_SECONDS: Final = 5.0
"""What is left is written at the end, if the database answers in this time."""

FORGOTTEN_AT_ONCE: Final = 500
"""Rows of one statement where content is deleted by hand."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A call's request and answer, cut to the bound."""

    call_id: UUID
    organization_id: UUID
    project_id: UUID
    request: bytes
    request_bytes: int
    """As it came; more than is here where it was cut."""
    answer: bytes
    """A JSON document, or a stream's events as they were sent."""
    answer_bytes: int
    answer_type: str


class StoredContent(Content, frozen=True, kw_only=True):
    """The same, as it lies in the database."""

    stored_at: datetime
    ends_at: datetime
    """It is dropped on that day at the latest."""


class ContentRow(msgspec.Struct, frozen=True):
    """A row to write."""

    content: Content
    days: int
    """How long the project keeps it."""

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits."""
        return len(self.content.request) + len(self.content.answer)


class ContentWriter(Protocol):
    """Where content goes."""

    async def insert(self, rows: Sequence[ContentRow]) -> None:
        """Write rows; those whose id is there already are left as they are.

        Raises:
            UnavailableError: The database is away; the same rows may be sent again.
        """


class ContentStore(Protocol):
    """Where content is looked up, and deleted by hand."""

    async def find(self, call_id: UUID) -> StoredContent | None:
        """What is stored of a call."""

    async def forget(self, organization_id: UUID, project_id: UUID | None, *, limit: int) -> int:
        """Delete some of what is stored of an organisation, or of one project of it."""

    async def note_forgotten(
        self, organization_id: UUID, project_id: UUID | None, calls: int
    ) -> None:
        """Write that into the audit log."""


class Kept:
    """Bytes as they pass, up to the bound; counts them all."""

    __slots__ = ("_left", "_pieces", "total")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._left = CONTENT_BYTES_MAX
        self.total = 0
        """All bytes that passed."""

    def add(self, piece: bytes) -> None:
        """Keep what still fits."""
        self.total += len(piece)
        if self._left > 0:
            self._pieces.append(piece[: self._left])
            self._left -= len(piece)

    def taken(self) -> bytes:
        """What was kept."""
        return b"".join(self._pieces)


class ContentRecorder:
    """Takes content at once and writes it soon."""

    def __init__(self, writer: ContentWriter) -> None:
        """Begin empty."""
        self.dropped = 0
        """Calls whose content was not stored; anything but zero is worth an alert."""
        self.written = 0
        self.last_error: str | None = None
        """Why writing failed the last time; None while it works."""
        self._writer = writer
        self._queue: deque[ContentRow] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, content: Content, days: int) -> None:
        """Store content; never waits, never fails."""
        row = ContentRow(content, days)
        if len(self._queue) >= QUEUE_ROWS_MAX or self._bytes + row.size > QUEUE_BYTES_MAX:
            self.dropped += 1
            return
        self._bytes += row.size
        self._queue.append(row)
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
                await self.flush()
        except TimeoutError:
            self.last_error = "the database did not answer while closing"
        self.dropped += len(self._queue)
        self._queue.clear()

    async def flush(self) -> None:
        """Write everything that waits, or as much as the database takes."""
        while self._queue:
            batch = [self._queue[i] for i in range(min(BATCH_ROWS_MAX, len(self._queue)))]
            try:
                await self._writer.insert(batch)
            except UnavailableError as error:
                self.last_error = error.message
                return  # they stay in the queue for the next time
            except Exception as error:  # noqa: BLE001 - a row that cannot be written stops no other
                self.last_error = repr(error)
                self.dropped += len(batch)
            else:
                self.last_error = None
                self.written += len(batch)
            for _ in batch:
                self._bytes -= self._queue.popleft().size

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._arrived.clear()
            await self.flush()
            if self._queue:
                self._arrived.set()


async def forget_content(
    store: ContentStore, organization_id: UUID, project_id: UUID | None = None
) -> int:
    """Delete everything that is stored of an organisation, or of one project of it.

    It goes in small statements, so that nobody waits for it; what calls store meanwhile goes too,
    as far as it is there by then.

    Returns:
        Of how many calls content was deleted.

    Raises:
        UnavailableError: The database is away; what was deleted stays so.
    """
    calls = 0
    while gone := await store.forget(organization_id, project_id, limit=FORGOTTEN_AT_ONCE):
        calls += gone
    await store.note_forgotten(organization_id, project_id, calls)
    return calls
