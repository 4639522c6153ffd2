"""Calls explained: what one cost and why, and which there were, newest first.

A call is explained from its own rows alone: the hold and the decision with each limit's figures,
the usage, the price version, the line items, the grants drawn, the postings (DESIGN.md promise 3,
ATT-01, DED-04, DED-07). A refused call has its explanation too (ERR-07, ERR-11).
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.operations.call_documents import Document, explanation, summary
from farebox.operations.call_facts import CallFacts, CallSummary, Position

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1_000
"""Calls of one page at most; the next page begins at its cursor."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class CallStore(Protocol):
    """Where calls, holds and refusals are."""

    async def kept_from(self) -> datetime | None:
        """The beginning of the months that retention has not dropped; None: it dropped none."""

    async def find(self, call_id: UUID) -> CallFacts | None:
        """Everything of one call."""

    async def page(
        self, organization_id: UUID, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        """Calls, open holds and refusals, newest first, behind a place in the list."""


async def explain_call(store: CallStore, call_id: UUID, *, for_operator: bool = False) -> Document:
    """A call's whole explanation, as a JSON document.

    Args:
        store: Where calls are.
        call_id: The call; its text form is the answer's ``x-request-id``.
        for_operator: Add what only the operator may see: the upstream's bill and account, and the
            node.

    Raises:
        NotFoundError: There is no such call.
    """
    facts = await store.find(call_id)
    if facts is None:
        raise missing(call_id, await store.kept_from())
    return explanation(facts, for_operator=for_operator)


def missing(call_id: UUID, kept_from: datetime | None) -> NotFoundError:
    """Why a call cannot be shown; it says the same of every id of that time, whoever asks.

    Args:
        call_id: The call; its id carries the time of its admission.
        kept_from: Since when calls are kept.
    """
    if kept_from is not None and call_id.int >> 80 < (kept_from - _EPOCH) // _MILLISECOND:
        return NotFoundError(
            f"This call is past retention: calls from before {kept_from:%Y-%m-%d} were dropped. "
            "Their sums are kept: the hourly usage, the journal, the history of every grant."
        )
    return NotFoundError(
        "There is no such call. A call's id is the x-request-id of its answer: req_ and 32 "
        "hexadecimal digits; when one key is refused more than ten times in a second, the rest "
        "share a row."
    )


async def list_calls(
    store: CallStore,
    organization_id: UUID,
    *,
    limit: int = PAGE_DEFAULT,
    cursor: str | None = None,
) -> tuple[list[Document], str | None]:
    """A page of an organisation's calls, open, closed and refused, newest first.

    Args:
        store: Where calls are.
        organization_id: Whose.
        limit: Rows, from 1 to :data:`PAGE_MAX`.
        cursor: The ``next_cursor`` of the page before; None begins with the newest.

    Returns:
        The rows' documents, and the cursor of the next page, None at the end.

    Raises:
        InvalidInputError: ``limit`` is out of range, or ``cursor`` is not one of ours.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidInputError("limit", f"must be from 1 to {PAGE_MAX}")
    after = None if cursor is None else decode_cursor(cursor)
    found = await store.page(organization_id, after=after, limit=limit + 1)
    rows = found[:limit]
    more = len(found) > limit
    return [summary(row) for row in rows], encode_cursor(rows[-1]) if more else None


def encode_cursor(row: CallSummary) -> str:
    """The text of the place after a row; opaque to whoever gets it."""
    return base64.urlsafe_b64encode(row.id.bytes + bytes([row.turn])).rstrip(b"=").decode()


def decode_cursor(text: str) -> Position:
    """Read a cursor.

    Raises:
        InvalidInputError: It is not one of ours.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        *id_bytes, turn = raw
        return Position(UUID(bytes=bytes(id_bytes)), turn)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(
            "cursor", "must be the next_cursor of a page; leave it out to begin"
        ) from error
