"""What is known of a call, open, closed or refused: facts as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from farebox.kit.money import ZERO, Nanos
from farebox.ledger.commands import LineItem, Usage
from farebox.ledger.holds import Progress
from farebox.ledger.limits import LimitFigures


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


class Attempt(msgspec.Struct, frozen=True):
    """A call that carries the same client's request id: one of its tries (ATT-06)."""

    id: UUID
    status: str
    charge: Nanos
    retry_count: int
    """How often the client had tried before, as it said."""


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
    attempts: tuple[Attempt, ...] = ()
    """All tries of the same request, this one too, the first one first; none where the client named
    no request."""
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
