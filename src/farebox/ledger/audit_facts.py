"""What an audit of the books is told: rows as they are stored, beside the sums of other rows.

Every amount is in nanos. Nothing here is computed by the engine; the database adds up what the
engine wrote one by one, and :mod:`farebox.ledger.audit` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from farebox.ledger.limits import Rule

PriceTables = tuple[Mapping[str, int], ...]
"""The tables of one price version (base, long context): unit -> nanos per million units."""


class OrganizationFacts(msgspec.Struct, frozen=True):
    """An organisation's row."""

    id: UUID
    sequence: int
    granted: int
    owed: int
    spent: int
    reserved: int
    unreserved: int
    frozen: int
    expired: int
    refunded: int
    unsecured_held: int
    absorbed: int


class CallSums(msgspec.Struct, frozen=True):
    """All closed calls of an organisation added up, and the numbers that its rows carry."""

    charge: int = 0
    absorbed: int = 0
    owed: int = 0
    numbered: int = 0
    """Calls and grants."""
    numbers: int = 0
    """Different sequence numbers among them."""
    number_max: int = 0
    dropped: int = 0
    """Calls of months past retention, in these sums by what was kept of them."""


class GrantFacts(msgspec.Struct, frozen=True):
    """A grant's row beside what calls, holds and the journal say of it; no source: no such row."""

    id: UUID
    source: str | None
    state: str | None
    amount: int
    remaining: int
    reserved: int
    frozen: int
    repaid: int
    expired: int
    refunded: int
    drawn: int
    """The sum of what calls drew."""
    earmarked: int
    """The sum of what open holds have set aside."""
    posted_paid: int
    """Journal: what the clearing account paid for it."""
    posted_free: int
    """Journal: what the promotion account paid for it."""
    posted_repaid: int
    posted_expired: int
    posted_refunded: int
    """Journal: taken back by refunds and lost disputes; corrections name no grant."""


class RaisedFacts(msgspec.Struct, frozen=True):
    """A limit's counter that a hold says it raised."""

    scope: int
    rule: int
    start: int
    amount: int


class HoldFacts(msgspec.Struct, frozen=True):
    """An open hold."""

    call_id: UUID
    amount: int
    unsecured: int
    earmarks: list[int]
    raised: tuple[RaisedFacts, ...]
    admitted_at: datetime
    latest_end: datetime
    closed_too: bool
    """A closed call of the same id exists."""
    scopes: tuple[tuple[str, str], ...]
    """What it is counted under: kinds and references."""
    model: str
    tokens: int


class CallFacts(msgspec.Struct, frozen=True):
    """A closed call."""

    id: UUID
    state: str
    held: int
    charge: int
    absorbed: int
    owed: int
    late_charge: int
    late_absorbed: int
    estimated: bool
    price_id: UUID
    units: list[str]
    quantities: list[int]
    prices: list[int]
    amounts: list[int]
    draws: list[int]


class PostingFacts(msgspec.Struct, frozen=True):
    """A posting of the journal beside the grant and the call that it names."""

    id: int
    kind: str
    at: datetime
    accounts: list[str]
    amounts: list[int]
    grant_id: UUID | None
    call_id: UUID | None
    grant_expires_at: datetime | None
    call_state: str | None
    """None: it names no call, or one that is not there."""
    call_late_charge: int
    call_late_absorbed: int


class RangeFacts(msgspec.Struct, frozen=True):
    """A posting of calls beside the calls of its range, as they were before late corrections."""

    posting_id: int | None
    """None: calls that no posting covers."""
    first_sequence: int
    last_sequence: int
    range_before_ends: int
    """Last sequence of the range before it; zero for the first."""
    customer_credit: int
    receivable: int
    absorbed: int
    revenue: int
    calls: int
    call_first: int
    call_last: int
    charge: int
    owed: int
    call_absorbed: int


class RollupFacts(msgspec.Struct, frozen=True):
    """A row of the hourly rollup beside the calls of its hour and dimensions."""

    hour: datetime
    model: str
    stored: list[int] | None
    """In the order of :data:`ROLLUP_MEASURES`; None: no row."""
    counted: list[int] | None
    """The same from the calls; None: no calls."""


ROLLUP_MEASURES = (
    "calls",
    "charge",
    "absorbed",
    "cost",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


class WindowFacts(msgspec.Struct, frozen=True):
    """One window of a limit beside the charges of the calls admitted in it."""

    scope_kind: str
    scope_ref: str
    scope: int
    """The scope's number."""
    rule: Rule
    start: datetime
    end: datetime
    start_micros: int
    used: int
    held: int
    counted: int
    """What its calls have used, in the rule's measure."""


class QuarantinedFacts(msgspec.Struct, frozen=True):
    """A command that the database rejected and nobody has ruled on."""

    id: int
    command_kind: str
    error: str


class JournalSums(msgspec.Struct, frozen=True):
    """The journal of an organisation added up: kind -> account -> nanos."""

    by_kind: Mapping[str, Mapping[str, int]]

    def of(self, account: str, *kinds: str) -> int:
        """What an account has had, of all postings or of some kinds only."""
        return sum(
            accounts.get(account, 0)
            for kind, accounts in self.by_kind.items()
            if not kinds or kind in kinds
        )


class Counts(msgspec.Struct):
    """How much was checked."""

    organizations: int = 0
    grants: int = 0
    holds: int = 0
    calls: int = 0
    dropped_calls: int = 0
    """Past retention: only their sums are left, and those are checked."""
    line_items: int = 0
    draws: int = 0
    postings: int = 0
    rollups: int = 0
    windows: int = 0
