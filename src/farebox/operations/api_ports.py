"""What one request of the native API works with, and the port that opens it.

A request has one connection: who asks is found out on it, and everything is then done in their
name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from farebox.ledger.commands import AnyCommand, Result
from farebox.ledger.grants import Grant
from farebox.ledger.scopes import ScopeKind
from farebox.operations.administration import Administration
from farebox.operations.alerts import AlertStore
from farebox.operations.audit_log import AuditLog
from farebox.operations.audited_money import Submit
from farebox.operations.balance import Balance, GrantView, LimitPage, LimitView
from farebox.operations.call_facts import CallFacts
from farebox.operations.clock import Clock
from farebox.operations.content import ContentStore
from farebox.operations.documents import Document
from farebox.operations.idempotency import RequestStore
from farebox.operations.people import People, PeopleStore
from farebox.operations.price_plans import PlanDesk, PlanStore
from farebox.operations.quarantine import QuarantineStore
from farebox.operations.shadow_limits import ShadowRefusals
from farebox.operations.tenants import TenantStore
from farebox.operations.tiers import TierDesk, TierStore
from farebox.operations.usage import UsageStore
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.tenancy.actors import Actor, Via
from farebox.tenancy.permissions import Standing


class MoneyViews(Protocol):
    """Reads an organisation's money."""

    async def balance(self, organization_id: UUID) -> Balance:
        """Its balance at this instant."""

    async def grants(
        self, organization_id: UUID, *, before: int | None, limit: int
    ) -> Sequence[GrantView]:
        """Every grant there ever was, newest first; ``before`` is the last sequence seen."""

    async def grant(self, grant_id: UUID) -> Grant:
        """A grant's row.

        Raises:
            NotFoundError: There is none.
        """

    async def limits(self, organization_id: UUID, *, scopes: Iterable[int]) -> Sequence[LimitView]:
        """The limits of scopes, by their numbers, with their counters."""

    async def limit_page(
        self,
        organization_id: UUID,
        *,
        kind: ScopeKind | None,
        ref: str | None,
        begin: int,
        limit: int,
    ) -> LimitPage:
        """The limits of so many scopes in the order of their numbers, narrowed by what is given."""

    async def scope_names(
        self, organization_id: UUID, *, projects: Sequence[UUID], keys: Sequence[UUID]
    ) -> Mapping[str, str]:
        """Names of the organisation's projects and keys, by the reference that their scope has."""

    async def shadow_refusals(
        self, organization_id: UUID, limits: Sequence[LimitView]
    ) -> Sequence[ShadowRefusals | None]:
        """What each of a page of limits would have refused; None for one that is not in shadow."""

    async def history(
        self, organization_id: UUID, *, before: int | None, limit: int
    ) -> Sequence[msgspec.Struct]:
        """The journal, newest first; ``before`` is the id of the last posting seen."""

    async def call(self, call_id: UUID) -> CallFacts | None:
        """Everything of one call."""

    async def calls_kept_from(self) -> datetime | None:
        """The beginning of the months that retention has not dropped; None: it dropped none."""


class ProviderOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that an operator wants to add."""

    name: str
    kind: str
    base_url: str
    price_list: str | None
    api_version: str | None
    account: str | None
    secret: str | None
    """Stored encrypted, never shown."""


class CatalogueDesk(Protocol):
    """Reads and changes what is on sale; changes are noted in the caller's name."""

    async def price_book(self) -> PriceBook:
        """Every price version there is."""

    async def set_price(
        self,
        version: PriceVersion,
        *,
        context_window: int | None,
        output_max: int | None,
        confirmed: bool,
    ) -> tuple[PriceVersion, ModelFacts]:
        """Add an operator's price; one that is far from the price in force must be confirmed.

        Raises:
            InvalidInputError: Naming the field.
        """

    async def providers(self) -> list[Document]:
        """Every provider, without its secret, in the order they were added."""

    async def add_provider(self, order: ProviderOrder) -> Document:
        """Add one.

        Raises:
            InvalidInputError: Naming the field.
            ConflictError: There is one of that name.
        """

    async def remove_provider(self, provider_id: UUID) -> None:
        """Take one out of service and forget its secret.

        Raises:
            NotFoundError: There is none.
        """


@dataclass(frozen=True, slots=True)
class ApiSession:
    """Everything that a request may do, in the name of whoever asks."""

    administration: Administration
    tenants: TenantStore
    people: People
    people_store: PeopleStore
    audit: AuditLog
    money: MoneyViews
    usage: UsageStore
    content: ContentStore
    catalogue: CatalogueDesk
    plans: PlanDesk
    plan_store: PlanStore
    tiers: TierDesk
    tier_store: TierStore
    alert_store: AlertStore
    quarantine: QuarantineStore
    clock: Clock
    submit: Submit
    """Has the engine decide a command and notes it in the audit log; refusals are raised."""
    plain_submit: Submit
    """The same without the note, for :func:`farebox.operations.audited_money.audited`."""

    async def now(self) -> datetime:
        """The database's time."""
        return await self.tenants.now()


class ApiConnection(Protocol):
    """One connection, before it is known who asks."""

    @property
    def requests(self) -> RequestStore:
        """Where writes are remembered by the key that their client chose."""

    async def key_standing(self, digest: bytes, via: Via) -> Standing | None:
        """What a management key may do; None if it opens nothing."""

    async def person_standing(self, session_digest: bytes, via: Via) -> Standing | None:
        """What whoever is signed in may do; None for a session that has ended."""

    async def organization_of_key(self, digest: bytes) -> UUID | None:
        """Whose calls a key for models may see; None if it opens nothing."""

    def acting(self, by: Actor) -> ApiSession:
        """Everything else, in somebody's name."""


class ApiDesk(Protocol):
    """Opens connections, and keeps what is not for everybody's eyes."""

    def connect(self) -> AbstractAsyncContextManager[ApiConnection]:
        """A connection for one request.

        Raises:
            UnavailableError: The database is away.
        """

    def new_id(self, at: datetime | None = None) -> UUID:
        """A new id; by this process's clock where no instant is given."""

    def mark(self, data: bytes) -> bytes:
        """32 bytes that stand for the data, made with this house's own key."""

    def seal(self, body: bytes) -> bytes:
        """Encrypt an answer that holds a secret."""

    def open(self, sealed: bytes) -> bytes:
        """The other way round."""


__all__ = [
    "AnyCommand",
    "ApiConnection",
    "ApiDesk",
    "ApiSession",
    "CatalogueDesk",
    "MoneyViews",
    "ProviderOrder",
    "Result",
]
