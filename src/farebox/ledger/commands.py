"""What can be asked of the money engine, and what it answers.

A command is range-checked before it enters a batch (``ledger/range_checks.py``), so that no value
can get there that the database would reject. A command that is sent again gives the same answer
marked ``exists``, or names the field that differs (ENGINE.md, "Idempotency").
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos, price_up
from farebox.ledger.grants import Source
from farebox.ledger.holds import CallState, Dimensions
from farebox.ledger.limits import Effect, LimitFigures, Measure, Origin, Period, rule_number
from farebox.ledger.scopes import Scope, ScopeKind


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Something asked about one organisation's money."""

    organization_id: UUID


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Who a call is for, beyond its rollup dimensions (ATT-01)."""

    user: str = ""
    run: str = ""
    priority: str = ""
    tags: dict[str, str] = {}
    client_request_id: str = ""
    retry_count: int = 0


class Admit(Command, frozen=True, kw_only=True):
    """Hold the worst case of a call."""

    call_id: UUID
    node_id: UUID
    epoch: int
    catalogue_revision: int
    fixed: Nanos
    """The part of the ceiling that does not depend on output."""
    output_price: int
    """Nanos per million output tokens, the dearest that may apply."""
    output_min: int
    output_max: int
    """Output tokens in all; the same as the minimum when the client named its limit."""
    latest_end_after: timedelta
    dimensions: Dimensions
    price_id: UUID
    upstream_account_id: UUID
    plan_id: UUID | None = None
    """The price plan by which the call was rated."""
    input_tokens: int = 0
    """The most that the input may come to, for limits that count tokens."""
    streamed: bool = False
    attribution: Attribution = Attribution()


class Extend(Command, frozen=True, kw_only=True):
    """Hold more for a call that is already running (a dearer fallback, a slice)."""

    call_id: UUID
    node_id: UUID
    epoch: int
    amount: Nanos
    step: int
    """Counts the call's extensions from one, so that a replay is known."""
    tokens: int = 0
    """How many tokens more that is, for limits that count tokens."""


class LineItem(msgspec.Struct, frozen=True, array_like=True):
    """One unit of a call's usage and what it came to."""

    unit: str
    quantity: int
    price: int
    amount: Nanos


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used, as the rollups count it; subsets are included in their totals."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Settle(Command, frozen=True, kw_only=True):
    """Charge what a call really cost and give back the rest of its hold."""

    call_id: UUID
    metered: Nanos
    """The usage at the book's price: charge plus absorbed will equal it."""
    cost: Nanos
    """What the upstream bills us."""
    lines: tuple[LineItem, ...]
    usage: Usage
    estimated: bool = False
    reason: str = ""
    http_status: int = 200
    latency_ms: int = 0
    lane: str = ""
    """The lane that the answer reports, where it differs from the one held."""
    price_id: UUID | None = None
    """The price version of that lane."""


class Release(Command, frozen=True, kw_only=True):
    """Give a hold back: nothing billable happened (DED-14)."""

    call_id: UUID
    reason: str
    http_status: int = 0
    latency_ms: int = 0


class Lapse(Command, frozen=True, kw_only=True):
    """End a hold whose node is gone or whose time is up; sent by the sweep alone."""

    call_id: UUID
    node_id: UUID
    epoch: int
    reason: str


class Report(Command, frozen=True, kw_only=True):
    """Note what a running stream has used so far; a lapse charges the last note."""

    call_id: UUID
    node_id: UUID
    epoch: int
    metered: Nanos
    cost: Nanos
    input_tokens: int
    output_tokens: int


class GrantCredit(Command, frozen=True, kw_only=True):
    """Give credit, or book a purchase; the grant's id makes it once-only."""

    grant_id: UUID
    source: Source
    amount: Nanos
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    default_expiry: bool = True
    """Without ``expires_at``: take the source's own validity rather than none at all."""
    reference: str | None = None


class ExpireGrants(Command, frozen=True, kw_only=True):
    """Post the breakage of grants whose end has come; any other command does so too."""


class Refund(Command, frozen=True, kw_only=True):
    """Take back an unreserved part of a grant."""

    command_id: UUID
    grant_id: UUID
    amount: Nanos
    note: str


class DisputeStep(StrEnum):
    """What the card network said."""

    OPENED = "opened"
    WON = "won"
    LOST = "lost"


class Dispute(Command, frozen=True, kw_only=True):
    """Freeze, give back or claw back the grant of a disputed payment."""

    grant_id: UUID
    step: DisputeStep


class Correct(Command, frozen=True, kw_only=True):
    """An operator's correction downwards: unreserved credit first, the rest is owed."""

    command_id: UUID
    amount: Nanos
    note: str


class SetLimit(Command, frozen=True, kw_only=True):
    """Set, change or (with None) remove a limit.

    Scope, measure, period, effect, models and origin say which one is meant.
    """

    scope_kind: ScopeKind = ScopeKind.ORGANIZATION
    scope_ref: str = ""
    """An id as 32 hex digits, or a name; empty means each scope of the kind that has none of its
    own (a default), and for the organisation itself."""
    measure: Measure = Measure.MONEY
    period: Period
    effect: Effect = Effect.HARD
    models: str = ""
    maximum: int | None
    """Nanodollars, tokens or calls."""
    raised_to: int | None = None
    raised_from: datetime | None = None
    raised_until: datetime | None = None
    thresholds: tuple[int, ...] = ()
    owner: str = ""
    origin: Origin = Origin.MANUAL
    count_failed: bool = True
    """False: a call that failed gives its count back when it ends (LIM-03)."""

    @property
    def number(self) -> int:
        """The number of the rule that is meant."""
        return rule_number(self.measure, self.period, self.effect, self.models, self.origin)

    @property
    def scope(self) -> Scope:
        """What it is set on."""
        if self.scope_kind is ScopeKind.ORGANIZATION:
            return Scope(self.scope_kind, self.organization_id.hex)
        return Scope(self.scope_kind, self.scope_ref)


class SetFloor(Command, frozen=True, kw_only=True):
    """Set how far below zero holds may go."""

    floor: Nanos


class SetZone(Command, frozen=True, kw_only=True):
    """Set the zone by which days, weeks and months of limits begin."""

    zone: str
    """An IANA name."""


class Forget(Command, frozen=True, kw_only=True):
    """Forget scopes that nothing can reach any more; sent by the worker alone."""

    numbers: tuple[int, ...]
    """The scopes'; those that something can reach stay."""


AnyCommand = (
    Admit
    | Extend
    | Settle
    | Release
    | Lapse
    | Report
    | GrantCredit
    | ExpireGrants
    | Refund
    | Dispute
    | Correct
    | SetLimit
    | SetFloor
    | SetZone
    | Forget
)


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The hold stands; the call may leave."""

    held: Nanos
    output_limit: int
    """Output tokens granted, in all; this limit goes upstream."""
    available: Nanos
    """Available after the hold."""
    admitted_at: datetime
    exists: bool = False
    rates: tuple[LimitFigures, ...] = ()
    """The rate limits of the call, this call counted."""


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The hold is closed and the charge stands."""

    state: CallState
    charge: Nanos
    absorbed: Nanos
    owed: Nanos
    """The part of the charge that no grant could pay."""
    available: Nanos
    exists: bool = False


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """The grant stands."""

    grant_id: UUID
    amount: Nanos
    repaid: Nanos
    expires_at: datetime | None
    available: Nanos
    exists: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The command took effect, or had before."""

    available: Nanos
    amount: Nanos = Nanos(0)
    exists: bool = False


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The command had no effect, and why."""

    code: str
    message: str
    needed: Nanos = Nanos(0)
    available: Nanos = Nanos(0)
    held: Nanos = Nanos(0)
    limit: LimitFigures | None = None
    blocked_by_holds: bool = False
    """Posted money could pay; only open holds stand in the way, so it may wait in order."""
    retry_after_seconds: int | None = None
    """For a rate: when its window ends, rounded up."""
    rates: tuple[LimitFigures, ...] = ()
    """For a rate: all rate limits of the call, without this call."""


Result = Admitted | Closed | Granted | Done | Refused

_encoder = msgspec.msgpack.Encoder()


def fingerprint(command: Admit | Settle | GrantCredit | Refund | Correct) -> bytes:
    """A hash of all the command's fields, to tell a replay from a different command."""
    return blake2b(_encoder.encode(command), digest_size=16).digest()


def hold_amount(command: Admit, output_tokens: int) -> Nanos:
    """What that many output tokens make of the ceiling; rounds up."""
    return Nanos(command.fixed + price_up(output_tokens, command.output_price))
