"""What can be asked of the money engine, and what it answers.

A command is range-checked when it is made (:func:`check`), so that no value can enter a batch that
the database would reject. A command that is sent again gives the same answer marked ``exists``, or
names the field that differs (ENGINE.md, "Idempotency").
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import AMOUNT_NANOS_MAX, UNITS_PER_PRICE, Nanos, price_up
from farebox.kit.texts import storable
from farebox.ledger.grants import Source
from farebox.ledger.holds import CallState, Dimensions
from farebox.ledger.limits import Effect, LimitFigures, Measure, Period
from farebox.ledger.scopes import Scope, ScopeKind

HOLD_SECONDS_MAX: Final = timedelta(hours=24)
"""No hold may claim a later end than background work has (ENGINE.md, "Nodes and lapses")."""

COUNT_MAX: Final = 2**53
"""A larger token count is no count but an attack or a fault."""

COUNTER_MAX: Final = 2**31 - 1
"""Retries and steps are kept in four bytes."""

HTTP_STATUS_MAX: Final = 999

YEAR_MAX: Final = 9000
"""A later end means never; leave it out. Calendar arithmetic stays clear of the last year."""

THRESHOLDS_MAX: Final = 10
THRESHOLD_PERCENT_MAX: Final = 1000

NAME_CHARACTERS_MAX: Final = 400
"""Of a scope's reference; tags are the longest (a key, an equals sign and a value)."""

LINES_MAX: Final = 64
"""Line items of one call; there are fewer kinds of unit than this."""


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

    Scope, measure, period, effect and models say which one is meant.
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
    raised_until: datetime | None = None
    thresholds: tuple[int, ...] = ()
    owner: str = ""

    @property
    def scope(self) -> Scope:
        """What it is set on."""
        if self.scope_kind is ScopeKind.ORGANIZATION:
            return Scope(self.scope_kind, self.organization_id.hex)
        return Scope(self.scope_kind, self.scope_ref)


class SetFloor(Command, frozen=True, kw_only=True):
    """Set how far below zero holds may go."""

    floor: Nanos


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


def check(command: AnyCommand) -> None:
    """Refuse a command whose values the engine or the database could not hold.

    Raises:
        InvalidInputError: Naming the field.
    """
    for name, low in _AMOUNT_FIELDS.get(type(command), ()):
        value = getattr(command, name)
        if value is not None and not low <= value <= AMOUNT_NANOS_MAX:
            raise InvalidInputError(name, f"must be between {low} and {AMOUNT_NANOS_MAX} nanos")
    for name, low, high in _COUNT_FIELDS.get(type(command), ()):
        if not low <= getattr(command, name) <= high:
            raise InvalidInputError(name, f"must be between {low} and {high}")
    match command:
        case Admit():
            _check_admit(command)
        case Settle():
            _check_settle(command)
        case GrantCredit():
            _check_instants(command)
        case SetLimit():
            _check_limit(command)
        case _:
            pass


_AMOUNT_FIELDS: Final[dict[type, tuple[tuple[str, int], ...]]] = {
    Admit: (("fixed", 0),),
    Extend: (("amount", 1),),
    Settle: (("metered", 0), ("cost", 0)),
    Report: (("metered", 0), ("cost", 0)),
    GrantCredit: (("amount", 1),),
    Refund: (("amount", 1),),
    Correct: (("amount", 1),),
    SetLimit: (("maximum", 0),),
    SetFloor: (("floor", 0),),
}


_COUNT_FIELDS: Final[dict[type, tuple[tuple[str, int, int], ...]]] = {
    Admit: (("input_tokens", 0, COUNT_MAX),),
    Extend: (("step", 1, COUNTER_MAX), ("tokens", 0, COUNT_MAX)),
    Settle: (("http_status", 0, HTTP_STATUS_MAX), ("latency_ms", 0, COUNT_MAX)),
    Release: (("http_status", 0, HTTP_STATUS_MAX), ("latency_ms", 0, COUNT_MAX)),
    Report: (("input_tokens", 0, COUNT_MAX), ("output_tokens", 0, COUNT_MAX)),
}


def _check_instants(command: GrantCredit) -> None:
    for name in ("effective_at", "expires_at"):
        instant = getattr(command, name)
        if instant is not None and (instant.tzinfo is None or instant.year > YEAR_MAX):
            raise InvalidInputError(name, f"must have a time zone, and a year up to {YEAR_MAX}")
    start, end = command.effective_at, command.expires_at
    if start is not None and end is not None and end <= start:
        raise InvalidInputError("expires_at", "must lie after effective_at")


def _check_limit(command: SetLimit) -> None:
    if command.measure is Measure.PARALLEL and command.period is not Period.TOTAL:
        raise InvalidInputError("period", "must be total for calls in parallel")
    if command.raised_to is not None and not 0 <= command.raised_to <= AMOUNT_NANOS_MAX:
        raise InvalidInputError("raised_to", "is out of range")
    until = command.raised_until
    if until is not None and (until.tzinfo is None or until.year > YEAR_MAX):
        raise InvalidInputError(
            "raised_until", f"must have a time zone, and a year up to {YEAR_MAX}"
        )
    if len(command.thresholds) > THRESHOLDS_MAX or not all(
        0 < percent <= THRESHOLD_PERCENT_MAX for percent in command.thresholds
    ):
        raise InvalidInputError(
            "thresholds",
            f"must be at most {THRESHOLDS_MAX} percentages from 1 to {THRESHOLD_PERCENT_MAX}",
        )
    _check_scope(command)
    for name in ("scope_ref", "models", "owner"):
        text = getattr(command, name)
        if len(text) > NAME_CHARACTERS_MAX:
            raise InvalidInputError(name, f"must have at most {NAME_CHARACTERS_MAX} characters")
        if storable(text) != text:
            raise InvalidInputError(name, "has a character that no database keeps")


_ID: Final = re.compile("[0-9a-f]{32}")


def _check_scope(command: SetLimit) -> None:
    kind, ref = command.scope_kind, command.scope_ref
    if not ref or kind is ScopeKind.ORGANIZATION:
        return
    if kind in {ScopeKind.PROJECT, ScopeKind.KEY} and not _ID.fullmatch(ref):
        raise InvalidInputError("scope_ref", f"must be the id of a {kind}, as 32 hex digits")
    if kind is ScopeKind.TAG and "=" not in ref[1:]:
        raise InvalidInputError("scope_ref", "must look like team=search")


def _check_admit(command: Admit) -> None:
    if not 0 <= command.output_min <= command.output_max <= COUNT_MAX:
        raise InvalidInputError("output_max", "must not be smaller than output_min, nor too large")
    if not 0 <= command.output_price <= AMOUNT_NANOS_MAX:
        raise InvalidInputError("output_price", "is out of range")
    if command.output_max * command.output_price > AMOUNT_NANOS_MAX * UNITS_PER_PRICE:
        raise InvalidInputError("output_max", "makes a ceiling of more than one billion")
    if not timedelta(0) < command.latest_end_after <= HOLD_SECONDS_MAX:
        raise InvalidInputError("latest_end_after", "must be more than zero, at most 24 hours")
    if not 0 <= command.attribution.retry_count <= COUNTER_MAX:
        raise InvalidInputError("retry_count", f"must be between 0 and {COUNTER_MAX}")


def _check_settle(command: Settle) -> None:
    if sum(line.amount for line in command.lines) != command.metered:
        raise InvalidInputError("lines", "must sum to the metered amount")
    if len(command.lines) > LINES_MAX:
        raise InvalidInputError("lines", f"are more than {LINES_MAX}")
    for line in command.lines:
        if min(line.quantity, line.price, line.amount) < 0 or line.quantity > COUNT_MAX:
            raise InvalidInputError(f"lines.{line.unit}", "is out of range")
        if line.price > AMOUNT_NANOS_MAX:
            raise InvalidInputError(f"lines.{line.unit}", "has a price of more than one billion")
    for name in command.usage.__struct_fields__:
        if not 0 <= getattr(command.usage, name) <= COUNT_MAX:
            raise InvalidInputError(f"usage.{name}", "is out of range")
