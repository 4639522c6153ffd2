"""What a call says, kept to be stored: only where its project wants that, and never in its way.

A project that stores nothing costs one comparison a piece. What is kept is bounded, handed over
once, when nothing of the answer is to come any more, and written by others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

from farebox.operations.content import CONTENT_BYTES_MAX, Content, Kept
from farebox.operations.directory import Caller

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"

NoteContent = Callable[[Content, int], None]
"""Takes content, and for how many days it is to be kept; never waits."""


class Keeping:
    """One call's request, and its answer as far as it has left."""

    def __init__(self, note: NoteContent, caller: Caller, call_id: UUID, request: bytes) -> None:
        self._note: NoteContent | None = note
        self._caller = caller
        self._call_id = call_id
        self._request = request
        self._answer = Kept()

    def add(self, piece: bytes) -> None:
        """Keep a piece of the answer."""
        self._answer.add(piece)

    def hand_over(self, answer_type: str) -> None:
        """Have it stored; what is handed over twice is stored once."""
        note, days = self._note, self._caller.content_days
        self._note = None
        if note is None or days is None:
            return
        content = Content(
            call_id=self._call_id,
            organization_id=self._caller.organization_id,
            project_id=self._caller.project_id,
            request=self._request[:CONTENT_BYTES_MAX],
            request_bytes=len(self._request),
            answer=self._answer.taken(),
            answer_bytes=self._answer.total,
            answer_type=answer_type,
        )
        note(content, days)
