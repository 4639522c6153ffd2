"""What calls said: stored only where a project says so, beside the money path, until its day comes.

Requests and answers of a project that stores content are collected, cut to a bound each, and
written soon after the call; whatever happens here, the call's own answer is the same: what cannot
be kept is dropped and counted. Headers are never stored, and so no key is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec
from typing_extensions import override

from farebox.operations.recording import Recorder

CONTENT_BYTES_MAX: Final = 256 * 1024
"""Of a request, and of an answer; the rest is cut off and said to be."""

BATCH_ROWS_MAX: Final = 50
QUEUE_ROWS_MAX: Final = 2_000
QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
"""While the database is away, or cannot keep up; later ones are dropped and counted."""

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


class ContentRecorder(Recorder[ContentRow]):
    """Takes content at once and writes it soon."""

    def __init__(self, writer: ContentWriter) -> None:
        """Begin empty."""
        super().__init__(
            batch_max=BATCH_ROWS_MAX, rows_max=QUEUE_ROWS_MAX, bytes_max=QUEUE_BYTES_MAX
        )
        self._writer = writer

    def note(self, content: Content, days: int) -> None:
        """Store content; never waits, never fails."""
        self._put(ContentRow(content, days))
        self._wake()

    @override
    async def _write(self, batch: Sequence[ContentRow]) -> None:
        await self._writer.insert(batch)

    @override
    def _size(self, row: ContentRow) -> int:
        return row.size


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
