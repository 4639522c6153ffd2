"""The native API on a database: everything a request works with, on one connection of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from farebox.kit.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError
from farebox.kit.ids import RANDOM_BYTES, format_id, uuid7, uuid7_from_millis
from farebox.ledger.commands import AnyCommand, Refused, Result, SetLimit
from farebox.ledger.grants import Grant
from farebox.ledger.scopes import ScopeKind
from farebox.operations.administration import Administration
from farebox.operations.api_ports import ApiConnection, ApiSession, ProviderOrder
from farebox.operations.audit_log import AuditNote, Facts, made
from farebox.operations.audited_money import audited, limit_before
from farebox.operations.balance import Balance, GrantView, LimitPage, LimitView
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.call_facts import CallFacts
from farebox.operations.documents import Document, document
from farebox.operations.idempotency import RequestStore
from farebox.operations.own_prices import own_name, refuse_unlikely, with_facts
from farebox.operations.people import People
from farebox.operations.price_plans import PlanDesk
from farebox.operations.shadow_limits import ShadowRefusals
from farebox.operations.tiers import TierDesk
from farebox.providers.base_urls import parse_base_url
from farebox.providers.openai_compatible import OpenAICompatibleUpstream
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.storage import balance_store
from farebox.storage.anomaly_store import PostgresAnomalyStore
from farebox.storage.audit_log_store import PostgresAuditLog, append_event
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.catalogue_store import (
    NewProvider,
    ProviderRow,
    changing_catalogue,
    load_catalogue,
    read_providers,
    read_revision,
)
from farebox.storage.clock_store import PostgresClock
from farebox.storage.console_store import find_model_bearer, find_session
from farebox.storage.content_store import PostgresContentStore
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.people_store import PostgresPeopleStore
from farebox.storage.plan_store import PostgresPlanStore
from farebox.storage.quarantine_store import PostgresQuarantineStore
from farebox.storage.request_store import PostgresRequestStore
from farebox.storage.shadow_store import read_shadow_refusals
from farebox.storage.standing_store import management_key_standing, user_standing
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.storage.tier_store import PostgresTierStore
from farebox.storage.usage_store import PostgresUsageStore
from farebox.system.clock import unix_millis
from farebox.system.secrets import SecretBox, random_bytes
from farebox.tenancy.actors import Actor, Via
from farebox.tenancy.api_keys import KeyKind
from farebox.tenancy.names import parse_identifier
from farebox.tenancy.permissions import Standing

SUBMIT_SECONDS: Final = 20.0
"""How long a write waits for the engine while the database comes back."""

_OUR_FAULTS: Final = (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError)
"""A database that refuses a statement is not away: it is told as a fault, and logged as one."""

_Connection = AsyncConnection[tuple[Any, ...]]


class DatabaseApiDesk:
    """Implements ``operations.api_ports.ApiDesk``."""

    def __init__(
        self, pool: Pool, bookkeeper: Bookkeeper, home: Path, *, key_kind: KeyKind
    ) -> None:
        """Put it together.

        Args:
            pool: Of connections in autocommit mode.
            bookkeeper: Started; money moves through it alone.
            home: Where the key of stored secrets lies.
            key_kind: What new keys open.
        """
        self._pool = pool
        self._bookkeeper = bookkeeper
        self._secrets = SecretBox(home)
        self._key_kind = key_kind
        self._book: PriceBook | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ApiConnection]:
        """See the port."""
        try:
            async with borrowed(self._pool) as connection:
                yield _ApiConnection(self, connection)
        except UnavailableError as error:
            if isinstance(error.__cause__, _OUR_FAULTS):
                raise error.__cause__ from None
            raise

    def new_id(self, at: datetime | None = None) -> UUID:
        """See the port."""
        chance = random_bytes(RANDOM_BYTES)
        if at is not None:
            return uuid7(at, chance)
        return uuid7_from_millis(unix_millis(), chance)

    def mark(self, data: bytes) -> bytes:
        """See the port."""
        return self._secrets.mark(data)

    def seal(self, body: bytes) -> bytes:
        """See the port."""
        return self._secrets.seal(body.decode())

    def open(self, sealed: bytes) -> bytes:
        """See the port."""
        return self._secrets.open(sealed).encode()

    async def price_book(self, connection: _Connection) -> PriceBook:
        """The book of now; it is built once for each revision of the catalogue."""
        revision = await read_revision(connection)
        if self._book is None or self._book.revision != revision:
            self._book = (await load_catalogue(connection)).prices
        return self._book

    async def submit(self, command: AnyCommand) -> Result:
        """Have the engine decide; refusals are raised."""
        try:
            async with asyncio.timeout(SUBMIT_SECONDS):
                result = await self._bookkeeper.submit(command)
        except TimeoutError as error:
            raise UnavailableError(
                "The database did not answer in time; ask again with the same Idempotency-Key."
            ) from error
        if isinstance(result, Refused):
            raise RefusedError(result.code, result.message)
        return result

    def session(self, connection: _Connection, by: Actor) -> ApiSession:
        """Everything in somebody's name."""
        tenants = PostgresTenantStore(connection, by)
        people_store = PostgresPeopleStore(connection, by)
        audit = PostgresAuditLog(connection, by)
        plan_store = PostgresPlanStore(connection, by)
        tier_store = PostgresTierStore(connection, by)

        async def submit(command: AnyCommand) -> Result:
            before: Facts | None = None
            if isinstance(command, SetLimit):
                standing = await balance_store.list_limits(
                    connection, command.organization_id, scopes=[command.scope.number]
                )
                before = limit_before(command, standing)
            return await audited(audit, self.submit, command, before=before)

        return ApiSession(
            administration=Administration(tenants, chance=random_bytes, key_kind=self._key_kind),
            tenants=tenants,
            people=People(people_store, chance=random_bytes),
            people_store=people_store,
            audit=audit,
            money=_Money(connection),
            usage=PostgresUsageStore(connection),
            content=PostgresContentStore(connection, by),
            catalogue=_CatalogueDesk(self, connection, by, self._secrets),
            plans=PlanDesk(plan_store, chance=random_bytes),
            plan_store=plan_store,
            tiers=TierDesk(tier_store, self.submit, chance=random_bytes),
            tier_store=tier_store,
            alert_store=PostgresAnomalyStore(connection, by),
            quarantine=PostgresQuarantineStore(connection, by),
            clock=PostgresClock(connection, by),
            submit=submit,
            plain_submit=self.submit,
        )


class _ApiConnection:
    def __init__(self, desk: DatabaseApiDesk, connection: _Connection) -> None:
        self._desk = desk
        self._connection = connection

    @property
    def requests(self) -> RequestStore:
        return PostgresRequestStore(self._connection)

    async def key_standing(self, digest: bytes, via: Via) -> Standing | None:
        return await management_key_standing(self._connection, digest, via)

    async def person_standing(self, session_digest: bytes, via: Via) -> Standing | None:
        person = await find_session(self._connection, session_digest)
        if person is None:
            return None
        return await user_standing(self._connection, person.person_id, via)

    async def organization_of_key(self, digest: bytes) -> UUID | None:
        bearer = await find_model_bearer(self._connection, digest)
        return None if bearer is None else bearer.organization_id

    def acting(self, by: Actor) -> ApiSession:
        return self._desk.session(self._connection, by)


class _Money:
    """Implements ``operations.api_ports.MoneyViews``."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def balance(self, organization_id: UUID) -> Balance:
        return await balance_store.read_balance(self._connection, organization_id)

    async def grants(
        self, organization_id: UUID, *, before: int | None, limit: int
    ) -> Sequence[GrantView]:
        return await balance_store.list_grants(
            self._connection, organization_id, before=before, limit=limit
        )

    async def grant(self, grant_id: UUID) -> Grant:
        return await balance_store.find_grant(self._connection, grant_id)

    async def limits(self, organization_id: UUID, *, scopes: Iterable[int]) -> Sequence[LimitView]:
        return await balance_store.list_limits(self._connection, organization_id, scopes=scopes)

    async def limit_page(
        self,
        organization_id: UUID,
        *,
        kind: ScopeKind | None,
        ref: str | None,
        begin: int,
        limit: int,
    ) -> LimitPage:
        return await balance_store.page_limits(
            self._connection, organization_id, kind=kind, ref=ref, begin=begin, limit=limit
        )

    async def scope_names(
        self, organization_id: UUID, *, projects: Sequence[UUID], keys: Sequence[UUID]
    ) -> Mapping[str, str]:
        return await balance_store.read_scope_names(
            self._connection, organization_id, projects=projects, keys=keys
        )

    async def shadow_refusals(
        self, organization_id: UUID, limits: Sequence[LimitView]
    ) -> Sequence[ShadowRefusals | None]:
        return await read_shadow_refusals(self._connection, organization_id, limits)

    async def history(
        self, organization_id: UUID, *, before: int | None, limit: int
    ) -> Sequence[msgspec.Struct]:
        return await balance_store.list_history(
            self._connection, organization_id, before=before, limit=limit
        )

    async def call(self, call_id: UUID) -> CallFacts | None:
        return await PostgresCallStore(self._connection).find(call_id)

    async def calls_kept_from(self) -> datetime | None:
        return await PostgresCallStore(self._connection).kept_from()


class _CatalogueDesk:
    """Implements ``operations.api_ports.CatalogueDesk``."""

    def __init__(
        self, desk: DatabaseApiDesk, connection: _Connection, by: Actor, secrets: SecretBox
    ) -> None:
        self._desk = desk
        self._connection = connection
        self._by = by
        self._secrets = secrets

    async def price_book(self) -> PriceBook:
        return await self._desk.price_book(self._connection)

    async def set_price(
        self,
        version: PriceVersion,
        *,
        context_window: int | None,
        output_max: int | None,
        confirmed: bool,
    ) -> tuple[PriceVersion, ModelFacts]:
        async with changing_catalogue(self._connection) as change:
            standing = await change.check()
            model = own_name(standing, version.provider, version.model)
            version = msgspec.structs.replace(version, model=model)
            if not confirmed:
                refuse_unlikely(standing, version, prefix="prices.")
            await change.insert_price_versions([version])
            known = with_facts(await change.check(), version, context_window, output_max)
            await change.write_models([known])
            await change.check()
            facts = {
                **document(msgspec.structs.replace(version, base=(), long=()), of="price"),
                "base": {unit.value: price for unit, price in version.base},
            }
            await self._note(made("price", format_id("price", version.id), None, facts))
        return version, known

    async def providers(self) -> list[Document]:
        return [_described(row) for row in await read_providers(self._connection)]

    async def add_provider(self, order: ProviderOrder) -> Document:
        if order.api_version is not None and order.kind != "azure":
            raise InvalidInputError("api_version", "is for providers of kind azure only")
        style: Any = "azure" if order.kind == "azure" else "openai"
        name = parse_identifier(order.name)
        new = NewProvider(
            id=self._desk.new_id(),
            name=name,
            kind=order.kind,
            price_list=parse_identifier(order.price_list or order.kind, field="price_list"),
            base_url=parse_base_url(order.base_url, style=style),
            api_version=order.api_version,
            secret=None if order.secret is None else self._secrets.seal(order.secret),
            account_id=self._desk.new_id(),
            account_name=parse_identifier(order.account or name, field="account"),
        )
        # What cannot be spoken to is refused now, not at the first call.
        OpenAICompatibleUpstream(
            new.base_url, order.secret, style=style, api_version=new.api_version
        )
        async with changing_catalogue(self._connection) as change:
            described = _described(await change.add_provider(new))
            await self._note(made("provider", described["id"], None, described))
        return described

    async def remove_provider(self, provider_id: UUID) -> None:
        found = [row for row in await read_providers(self._connection) if row.id == provider_id]
        if not found:
            raise NotFoundError("There is no such provider.")
        async with changing_catalogue(self._connection) as change:
            await change.remove_provider(provider_id)
            described = _described(found[0])
            note = AuditNote(
                action="provider.removed",
                subject_kind="provider",
                subject_id=described["id"],
                before=described,
            )
            await self._note(note)

    async def _note(self, note: AuditNote) -> None:
        await append_event(self._connection, self._by, note)


def _described(row: ProviderRow) -> Document:
    """A provider without its secret."""
    facts = document(msgspec.structs.replace(row, secret=None), of="prov")
    del facts["secret"]
    account = facts.pop("account_name")
    return {"object": "provider", **facts, "account": account, "has_key": row.secret is not None}
