"""What a batch loads and what it writes: plain rows in, plain rows out, nothing else."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.ledger.commands import Admit, LineItem, Result, Usage
from farebox.ledger.grants import Grant
from farebox.ledger.holds import CallState, Dimensions, Draw, Hold
from farebox.ledger.journal import Posting
from farebox.ledger.limits import LimitFigures, ScopeLimits
from farebox.ledger.organizations import Organization


class KeyFacts(msgspec.Struct, frozen=True):
    """What ``admit`` re-reads of a key, so that revocation is exact for every charged call."""

    id: UUID
    organization_id: UUID
    project_id: UUID
    expires_at: datetime | None
    revoked_at: datetime | None
    project_archived_at: datetime | None


class ClosedCall(msgspec.Struct, frozen=True):
    """A closed call's money, as later replays and late settles need it."""

    call_id: UUID
    organization_id: UUID
    sequence: int
    state: CallState
    held: Nanos
    charge: Nanos
    absorbed: Nanos
    owed: Nanos
    cost: Nanos
    late_charge: Nanos
    late_absorbed: Nanos
    draws: tuple[Draw, ...]
    admitted_at: datetime
    dimensions: Dimensions
    usage: Usage
    admit_fingerprint: bytes
    settle_fingerprint: bytes | None
    user: str = ""
    run: str = ""
    tags: dict[str, str] = {}


class OrganizationState(msgspec.Struct):
    """Everything of one organisation that a batch touches."""

    organization: Organization
    grants: list[Grant] = []
    """Every grant with money left or reserved, and those that commands name."""
    limits: list[ScopeLimits] = []
    """Of every scope that the commands' calls are counted under, the defaults of kinds included."""
    holds: dict[UUID, Hold] = {}
    closed: dict[UUID, ClosedCall] = {}
    keys: dict[UUID, KeyFacts] = {}
    known_commands: dict[UUID, bytes] = {}
    """Refunds and corrections that took effect before, with their fingerprints."""
    used: dict[tuple[int, int, int], int] = {}
    """By scope, rule's tally and start, what the windows that are current at engine time have used;
    loaded for limits that begin, and for defaults that stand in for a limit again."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended, whoever says so."""

    state: CallState
    metered: Nanos
    cost: Nanos
    usage: Usage
    reason: str
    lines: tuple[LineItem, ...] = ()
    estimated: bool = False
    http_status: int = 0
    latency_ms: int = 0
    lane: str = ""
    price_id: UUID | None = None
    fingerprint: bytes | None = None


class Closing(msgspec.Struct, frozen=True):
    """An open hold to delete and the call row to insert in its place."""

    call: ClosedCall
    ending: Ending
    ended_at: datetime


class State(msgspec.Struct):
    """What a batch loads."""

    organizations: dict[UUID, OrganizationState]
    epochs: dict[UUID, int]
    """Current epoch of each node that a command names."""
    catalogue_revision: int


class NewHold(msgspec.Struct, frozen=True):
    """A hold to insert, with the command and the figures that made it."""

    hold: Hold
    command: Admit
    available_before: Nanos
    limits: tuple[LimitFigures, ...]


class LateChange(msgspec.Struct, frozen=True):
    """A lapsed call whose answer came after all: the row's new money, and how it ended."""

    call: ClosedCall
    ending: Ending


class RollupKey(msgspec.Struct, frozen=True):
    """One row of the hourly rollup."""

    organization_id: UUID
    hour: datetime
    dimensions: Dimensions


class RollupDelta(msgspec.Struct):
    """What a batch adds to one row of the hourly rollup."""

    calls: int = 0
    charge: int = 0
    absorbed: int = 0
    cost: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Event(msgspec.Struct, frozen=True):
    """A row of the outbox: something that people or jobs must hear of."""

    organization_id: UUID
    kind: str
    at: datetime
    facts: dict[str, str]


class Changes(msgspec.Struct):
    """What a batch writes."""

    organizations: list[Organization] = []
    grants: list[Grant] = []
    new_grants: list[Grant] = []
    limits: list[ScopeLimits] = []
    """Rows that are new, or whose rules changed."""
    forgotten: list[tuple[UUID, int]] = []
    """Organisation and number of rows to delete, before others are written."""
    counters: list[ScopeLimits] = []
    """Rows of which only the windows changed."""
    new_holds: list[NewHold] = []
    holds: list[Hold] = []
    """Open holds that changed: extended, reported on, or given other counters."""
    closings: list[Closing] = []
    late: list[LateChange] = []
    postings: list[Posting] = []
    rollups: dict[RollupKey, RollupDelta] = {}
    events: list[Event] = []
    commands: list[tuple[UUID, UUID, bytes]] = []
    """Organisation, id and fingerprint of refunds and corrections that took effect."""


class Decision(msgspec.Struct):
    """The answer to a batch: one result per command, in order, and what to write."""

    results: list[Result]
    changes: Changes
