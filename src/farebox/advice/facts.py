"""What a diagnosis stands on: facts of one instant, gathered elsewhere.

Whatever is None or empty was not looked at or is not there; checks that need it say so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from farebox.advice.complaints import Complaint
from farebox.kit.money import ZERO, Nanos
from farebox.ledger.grants import Source
from farebox.ledger.limits import LimitFigures, Origin
from farebox.tenancy.api_keys import KeyState

NODE_SILENT_SECONDS: Final = 60
"""A gateway unseen for this long is gone (the sweep says the same)."""


class OrganizationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The organisation that a diagnosis is about."""

    id: UUID
    name: str
    currency: str
    active: bool


class ProjectFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A project of it."""

    id: UUID
    name: str
    owner: str = ""
    archived_at: datetime | None = None
    allowed_models: tuple[str, ...] | None = None
    """Names and beginnings with ``*``; None allows every model."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key for models, in whatever state."""

    id: UUID
    name: str
    prefix: str
    state: KeyState
    project_id: UUID
    project_name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None
    """To the minute; None where it was never used, or not since uses are noted."""


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A call, open, closed or refused."""

    id: UUID
    status: str
    """``open``, ``settled``, ``released``, ``lapsed``, ``late`` or ``refused``."""
    code: str
    """Why it was refused or ended; a stable code, empty for an ordinary end."""
    message: str = ""
    at: datetime
    ended_at: datetime | None = None
    model: str = ""
    http_status: int | None = None
    needed: Nanos = ZERO
    """What it held, or would have held."""
    available: Nanos = ZERO
    """Available when it was decided."""
    held: Nanos = ZERO
    """What open calls held then."""
    charge: Nanos = ZERO
    absorbed: Nanos = ZERO
    owed: Nanos = ZERO
    estimated: bool = False
    streamed: bool = False
    limit: LimitFigures | None = None
    """The limit that refused it."""
    latest_end: datetime | None = None
    node_alive: bool = True
    key_prefix: str = ""
    times: int = 1


class RefusalGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Like refusals of the last day, with the newest of them."""

    last: CallRecord
    times: int
    first_at: datetime


class EndingGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of the last day that ended out of the ordinary, by their reason."""

    status: str
    reason: str
    times: int
    last_id: UUID
    last_at: datetime
    absorbed: Nanos = ZERO


class GrantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A grant, also one that is spent or has ended."""

    id: UUID
    source: Source
    state: str
    """``active``, ``pending``, ``expired``, ``frozen``, ``lost`` or ``used``."""
    amount: Nanos
    available: Nanos
    remaining: Nanos
    held: Nanos
    spent: Nanos
    expired: Nanos
    effective_at: datetime
    expires_at: datetime | None = None
    reference: str | None = None

    @property
    def lapsed(self) -> Nanos:
        """What its end took, posted or not."""
        due = self.remaining - self.held if self.state == "expired" else 0
        return Nanos(self.expired + max(0, due))


class MoneyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to spend."""

    available: Nanos
    spendable: Nanos
    """Available plus the floor."""
    held: Nanos
    owed: Nanos
    granted: Nanos
    spent: Nanos
    expired: Nanos
    frozen: Nanos
    pending: Nanos
    floor: Nanos
    grants: tuple[GrantRecord, ...] = ()
    """The newest and every one with money left, in burn-down order of those."""
    last_charge_at: datetime | None = None
    """When a call was last charged something."""


class LimitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A limit with its counter in the window of now."""

    scope_kind: str
    scope_ref: str
    scope_name: str
    """As people call it: a project's or key's name, or the reference itself."""
    is_template: bool = False
    """A default for scopes of the kind: it counts nothing itself."""
    measure: str
    period: str
    effect: str
    models: str
    maximum: int
    used: int
    held: int
    resets_at: datetime | None
    owner: str = ""
    origin: str = Origin.MANUAL.value

    @property
    def left(self) -> int:
        """What new calls may still use."""
        return max(0, self.maximum - self.used - self.held)


class TierFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The usage tier of the organisation, and the month's use under it."""

    name: str
    monthly_maximum: Nanos | None
    used: Nanos
    resets_at: datetime
    next_name: str = ""
    next_needs: Nanos | None = None
    """Purchases in all that the next tier asks for."""


class HoldsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The organisation's open calls."""

    count: int = 0
    amount: Nanos = ZERO
    oldest_at: datetime | None = None
    overdue: int = 0
    """Whose node is gone or whose time is up, for longer than a sweep takes."""


class DaySpend(msgspec.Struct, frozen=True, kw_only=True):
    """What one day of 24 hours cost, counted back from now."""

    age_days: int
    charge: Nanos
    calls: int
    tokens: int


class SpenderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One key and model: the last day, and the days before together."""

    key_id: UUID
    key_name: str
    key_prefix: str
    project_name: str
    model: str
    charge: Nanos
    calls: int
    tokens: int
    before_charge: Nanos
    before_calls: int
    before_tokens: int


class SpendingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How credit was spent lately."""

    days: tuple[DaySpend, ...] = ()
    """Those that had calls; age zero is the last 24 hours."""
    known_days: int = 0
    """For how many days before the last one the organisation has existed, as far as one looks."""
    spenders: tuple[SpenderFacts, ...] = ()
    """The dearest of the last day first."""
    retried_calls: int = 0
    """Of the last day: sent again by their clients."""
    looked_at_calls: int = 0
    """Of the last day: the newest, at most so many as are looked at."""


class QuarantineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Commands that wait for a ruling."""

    count: int
    oldest_at: datetime
    first_number: int
    command: str
    error: str


class ExhaustedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Our own account at a provider, of which operators were told that it is used up."""

    provider: str
    account: str
    at: datetime


class InstallationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """This installation."""

    sandbox: bool
    gateways_alive: int
    gateway_seen_at: datetime | None
    """By the real clock."""
    real_time: datetime
    providers: tuple[str, ...]
    priced_currencies: tuple[str, ...]
    """Currencies in which any model of those providers has a price."""
    clock_moved: bool = False
    exhausted: tuple[ExhaustedAccount, ...] = ()
    """Of the last day: the newest of each account."""


class ModelFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue says of a model's name."""

    asked: str
    known: bool
    """Some provider's price list has it."""
    sold_by: tuple[str, ...] = ()
    """Providers that have a standard price of it in the organisation's currency now."""
    priced_in: tuple[str, ...] = ()
    """Other currencies it is priced in."""
    lanes: tuple[str, ...] = ()
    """Tiers that have a price now."""
    nearest: tuple[str, ...] = ()
    """Names that can be called and look like it."""


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """Another organisation of the same people that has credit (ORG-04)."""

    id: UUID
    name: str
    currency: str
    available: Nanos
    members: tuple[str, ...] = ()
    """Who is a member of both; empty where nobody is a member of anything."""


class BooksDifference(msgspec.Struct, frozen=True):
    """Something that the books check found."""

    code: str
    message: str


class KeyAsked(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key that was given as text."""

    prefix: str
    """Its first letters: all that may be repeated."""
    found: KeyRecord | None = None
    management_name: str | None = None
    """It is a key of the management API."""
    management_revoked_at: datetime | None = None
    several: int = 0
    """So many keys have that prefix."""
    kind: str = ""
    """``live``, ``test`` or ``admin``, as the text says; ``provider`` for a provider's own key."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one diagnosis."""

    at: datetime
    """Engine time."""
    complaint: Complaint
    organization: OrganizationFacts | None = None
    organizations: int = 0
    """How many there are in the installation."""
    project: ProjectFacts | None = None
    key: KeyRecord | None = None
    key_asked: KeyAsked | None = None
    call: CallRecord | None = None
    usable_keys: tuple[KeyRecord, ...] = ()
    """Active ones of the project, or of the organisation, newest first."""
    money: MoneyFacts | None = None
    limits: tuple[LimitRecord, ...] = ()
    tier: TierFacts | None = None
    refusals: tuple[RefusalGroup, ...] = ()
    endings: tuple[EndingGroup, ...] = ()
    holds: HoldsFacts | None = None
    spending: SpendingFacts | None = None
    installation: InstallationFacts | None = None
    quarantine: QuarantineFacts | None = None
    model: ModelFinding | None = None
    neighbours: tuple[Neighbour, ...] = ()
    books: tuple[BooksDifference, ...] | None = None
    """None where they were not checked."""
    books_note: str = ""
    owners: tuple[str, ...] = ()
    """Owners of the organisation."""

    @property
    def currency(self) -> str:
        """The organisation's."""
        return "" if self.organization is None else self.organization.currency
