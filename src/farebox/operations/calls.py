"""Calls explained: what one cost and why, and which there were, newest first.

A call is explained from its own rows alone: the hold and the decision with each limit's figures,
the usage, the price version, the line items, the grants drawn, the postings (DESIGN.md promise 3,
ATT-01, DED-04, DED-07). A refused call has its explanation too (ERR-07, ERR-11). Documents hold
amounts as decimal strings, instants as ISO 8601 in UTC and ids with their prefix.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import ZERO, Nanos, format_amount
from farebox.ledger.commands import LineItem, Usage
from farebox.ledger.holds import Progress
from farebox.ledger.limits import LimitFigures

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1_000
"""Calls of one page at most; the next page begins at its cursor."""

Document = dict[str, Any]


class Position(msgspec.Struct, frozen=True):
    """A place in the list of calls: after that row."""

    id: UUID
    turn: int
    """Orders rows of the same id: the call itself before a refusal that it met on its way."""


class GrantPart(msgspec.Struct, frozen=True):
    """A part of a grant that a call drew, or that its hold has set aside."""

    grant_id: UUID
    amount: Nanos
    source: str
    reference: str | None
    expires_at: datetime | None


class PriceFacts(msgspec.Struct, frozen=True):
    """The price version that a call was rated by (DED-07)."""

    id: UUID
    provider: str
    model: str
    lane: str
    currency: str
    effective_at: datetime
    source: str
    long_context_over: int | None


class PostingFacts(msgspec.Struct, frozen=True):
    """A posting of the journal that has the call in it."""

    id: int
    kind: str
    at: datetime
    accounts: list[str]
    amounts: list[Nanos]
    grant_id: UUID | None
    first_sequence: int | None
    last_sequence: int | None
    """A batch posts its calls as one: these are the numbers of its first and last call."""


class CallSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A call as a list shows it."""

    id: UUID
    turn: int
    status: str
    """``open``, ``settled``, ``released``, ``lapsed``, ``late`` or ``refused``."""
    charge: Nanos
    absorbed: Nanos
    held: Nanos
    """What was set aside, or what a refused call would have needed."""
    estimated: bool
    model: str
    lane: str
    endpoint: str
    project_id: UUID
    project_name: str | None
    key_id: UUID
    key_name: str | None
    user: str
    feature: str
    environment: str
    run: str
    usage: Usage
    at: datetime
    """When it was admitted or refused."""
    ended_at: datetime | None
    latency_ms: int | None
    http_status: int | None
    reason: str
    """Why it ended or was refused; a stable code."""
    times: int
    """So many like refusals are one row."""


class CallFacts(CallSummary, frozen=True, kw_only=True):
    """Everything that is known of one call."""

    organization_id: UUID
    organization_name: str | None
    currency: str | None
    key_prefix: str | None
    streamed: bool = False
    priority: str = ""
    tags: Mapping[str, str] | None = None
    client_request_id: str = ""
    retry_count: int = 0
    sequence: int | None = None
    message: str | None = None
    """Refused: the sentence that the client got."""
    owed: Nanos = ZERO
    cost: Nanos = ZERO
    late_charge: Nanos = ZERO
    late_absorbed: Nanos = ZERO
    available_before: Nanos
    """Available when it was decided."""
    held_before: Nanos | None = None
    """Refused: what open calls held, of the balance or of the limit that refused."""
    ceiling: tuple[int, int, int, int] | None = None
    """Fixed nanos, nanos per million output tokens, output tokens at least and at most."""
    output_limit: int | None = None
    limits: tuple[LimitFigures, ...] = ()
    """What each limit showed at the decision."""
    unsecured: Nanos = ZERO
    parts: tuple[GrantPart, ...] = ()
    """Closed: the grants drawn; open: the grants earmarked."""
    latest_end: datetime | None = None
    node_id: UUID | None = None
    epoch: int | None = None
    progress: Progress | None = None
    lines: tuple[LineItem, ...] = ()
    price_id: UUID | None = None
    price: PriceFacts | None = None
    upstream_account: str | None = None
    postings: tuple[PostingFacts, ...] = ()


class CallStore(Protocol):
    """Where calls, holds and refusals are."""

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
        raise NotFoundError(
            f"There is no call {format_id('req', call_id)}. Its id is the x-request-id of the "
            "answer; when one key is refused more than ten times in a second, the rest share a row."
        )
    return _explanation(facts, for_operator=for_operator)


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
    return [_summary(row) for row in rows], encode_cursor(rows[-1]) if more else None


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


def _summary(call: CallSummary) -> Document:
    return {
        "object": "call",
        "id": format_id("req", call.id),
        "status": call.status,
        "charge": format_amount(call.charge),
        "absorbed": format_amount(call.absorbed),
        "held": format_amount(call.held),
        "estimated": call.estimated,
        "model": call.model,
        "lane": call.lane,
        "endpoint": call.endpoint,
        "project_id": format_id("proj", call.project_id),
        "project_name": call.project_name,
        "key_id": format_id("key", call.key_id),
        "key_name": call.key_name,
        "user": call.user,
        "feature": call.feature,
        "environment": call.environment,
        "run": call.run,
        **_usage(call.usage),
        "admitted_at": _instant(call.at),
        "ended_at": _instant(call.ended_at),
        "latency_ms": call.latency_ms,
        "http_status": call.http_status,
        "reason": call.reason,
        "times": call.times,
    }


def _explanation(call: CallFacts, *, for_operator: bool) -> Document:
    refused, is_open = call.status == "refused", call.status == "open"
    document: Document = {
        "object": "call",
        "id": format_id("req", call.id),
        "status": call.status,
        "reason": call.reason,
        "message": call.message,
        "times": call.times,
        "currency": call.currency,
        "charge": format_amount(call.charge),
        "absorbed": format_amount(call.absorbed),
        "owed": format_amount(call.owed),
        "estimated": call.estimated,
        "late_change": _late(call),
        "model": call.model,
        "lane": call.lane,
        "endpoint": call.endpoint,
        "streamed": call.streamed,
        "http_status": call.http_status,
        "admitted_at": _instant(call.at),
        "ended_at": _instant(call.ended_at),
        "latency_ms": call.latency_ms,
        "organization_id": str(call.organization_id),
        "organization": _named("org", call.organization_id, call.organization_name),
        "project": _named("proj", call.project_id, call.project_name),
        "key": {**_named("key", call.key_id, call.key_name), "prefix": call.key_prefix},
        "attribution": _attribution(call),
        "decision": _decision(call),
        "hold": None if refused else _hold(call, is_open=is_open),
        "usage": _usage(call.usage),
        "price": _price(call),
        "lines": [_line(line) for line in call.lines],
        "draws": [] if is_open else _parts(call.parts),
        "postings": [_posting(posting) for posting in call.postings],
        "sequence": call.sequence,
    }
    if for_operator:
        document["operator"] = {
            "cost": format_amount(call.cost),
            "upstream_account": call.upstream_account,
            "node_id": None if call.node_id is None else format_id("node", call.node_id),
            "epoch": call.epoch,
        }
    return document


def _late(call: CallFacts) -> Document | None:
    """What the answer of a lapsed call changed; None where nothing did."""
    if call.status != "late":
        return None
    return {
        "charge": format_amount(call.late_charge),
        "absorbed": format_amount(call.late_absorbed),
    }


def _attribution(call: CallFacts) -> Document:
    return {
        "user": call.user,
        "feature": call.feature,
        "environment": call.environment,
        "run": call.run,
        "priority": call.priority,
        "tags": dict(call.tags or {}),
        "client_request_id": call.client_request_id,
        "retry_count": call.retry_count,
    }


def _decision(call: CallFacts) -> Document:
    ceiling = None
    if call.ceiling is not None:
        fixed, output_price, output_min, output_max = call.ceiling
        ceiling = {
            "fixed": format_amount(fixed),
            "output_price_per_million": format_amount(output_price),
            "output_min": output_min,
            "output_max": output_max,
        }
    return {
        "needed": format_amount(call.held),
        "available": format_amount(call.available_before),
        "held_by_open_calls": None if call.held_before is None else format_amount(call.held_before),
        "ceiling": ceiling,
        "output_limit": call.output_limit,
        "limits": [_limit(figures) for figures in call.limits],
    }


def _limit(figures: LimitFigures) -> Document:
    left = figures.maximum - figures.used - figures.held
    return {
        "scope": figures.scope_kind,
        "scope_id": str(figures.scope_id),
        "period": figures.period,
        "maximum": format_amount(figures.maximum),
        "used": format_amount(figures.used),
        "held": format_amount(figures.held),
        "left": format_amount(left),
        "resets_at": _instant(figures.resets_at),
    }


def _hold(call: CallFacts, *, is_open: bool) -> Document:
    hold: Document = {"amount": format_amount(call.held)}
    if is_open:
        progress = call.progress
        hold |= {
            "unsecured": format_amount(call.unsecured),
            "earmarks": _parts(call.parts),
            "latest_end": _instant(call.latest_end),
            "metered_so_far": None if progress is None else format_amount(progress.metered),
        }
    return hold


def _usage(usage: Usage) -> Document:
    return {name: getattr(usage, name) for name in usage.__struct_fields__}


def _price(call: CallFacts) -> Document | None:
    if call.price_id is None:
        return None
    price = call.price
    if price is None:
        return {"id": format_id("price", call.price_id)}
    return {
        "id": format_id("price", price.id),
        "provider": price.provider,
        "model": price.model,
        "lane": price.lane,
        "currency": price.currency,
        "effective_at": _instant(price.effective_at),
        "source": price.source,
        "long_context_over": price.long_context_over,
    }


def _line(line: LineItem) -> Document:
    return {
        "unit": line.unit,
        "quantity": line.quantity,
        "price_per_million": format_amount(line.price),
        "amount": format_amount(line.amount),
    }


def _parts(parts: Sequence[GrantPart]) -> list[Document]:
    return [
        {
            "grant_id": format_id("grant", part.grant_id),
            "source": part.source,
            "amount": format_amount(part.amount),
            "reference": part.reference,
            "expires_at": _instant(part.expires_at),
        }
        for part in parts
    ]


def _posting(posting: PostingFacts) -> Document:
    return {
        "id": posting.id,
        "kind": posting.kind,
        "at": _instant(posting.at),
        "entries": {
            account: format_amount(amount)
            for account, amount in zip(posting.accounts, posting.amounts, strict=True)
        },
        "grant_id": None if posting.grant_id is None else format_id("grant", posting.grant_id),
        "first_sequence": posting.first_sequence,
        "last_sequence": posting.last_sequence,
    }


def _named(prefix: str, value: UUID, name: str | None) -> Document:
    return {"id": format_id(prefix, value), "name": name}


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")
