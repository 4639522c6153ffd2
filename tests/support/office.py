"""An office: every use case of the management plane on one fresh database, in somebody's name."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection

from farebox.ledger.commands import AnyCommand, Result
from farebox.operations.administration import Administration
from farebox.operations.people import People, User
from farebox.operations.price_plans import PlanDesk
from farebox.operations.tenants import OrganizationProfile, Project
from farebox.operations.tiers import TierDesk
from farebox.storage.audit_log_store import PostgresAuditLog
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.people_store import PostgresPeopleStore
from farebox.storage.plan_store import PostgresPlanStore
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.storage.tier_store import PostgresTierStore
from farebox.tenancy.actors import Actor, ActorKind, Door
from farebox.tenancy.api_keys import KeyKind

CLERK = Actor(kind=ActorKind.SHELL, id="clerk", name="clerk", door=Door.CLI)
"""Whoever does things in tests."""


_seeds = itertools.count(1)


class Office:
    """The use cases; made by :func:`open_office` alone."""

    def __init__(
        self, dsn: str, connection: AsyncConnection[tuple[Any, ...]], engine: PostgresBatchStore
    ) -> None:
        chance = random.Random(next(_seeds)).randbytes  # no two offices make the same ids
        self.dsn = dsn
        self.connection = connection
        self._engine = engine
        self.tenants = PostgresTenantStore(connection, CLERK)
        self.administration = Administration(self.tenants, chance=chance, key_kind=KeyKind.TEST)
        self.people_store = PostgresPeopleStore(connection, CLERK)
        self.people = People(self.people_store, chance=chance)
        self.log = PostgresAuditLog(connection, CLERK)
        self.tier_store = PostgresTierStore(connection, CLERK)
        self.tiers = TierDesk(self.tier_store, self.submit, chance=chance)
        self.plan_store = PostgresPlanStore(connection, CLERK)
        self.plans = PlanDesk(self.plan_store, chance=chance)

    async def submit(self, command: AnyCommand) -> Result:
        """Have the engine decide a command."""
        (result,) = await self._engine.run([command], resent=False)
        return result

    async def organization(self, name: str = "Acme", **facts: Any) -> OrganizationProfile:
        """An organisation."""
        return await self.administration.create_organization(name, **facts)

    async def project(self, organization: OrganizationProfile, name: str = "web") -> Project:
        """A project of it."""
        return await self.administration.create_project(name, organization.id)

    async def user(self, name: str = "ada", **facts: Any) -> User:
        """Somebody with a login."""
        return await self.people.create_user(f"{name}@example.org", "hash", **facts)

    async def actions(self) -> list[str]:
        """What the audit log has, in order."""
        return [event.action for event in reversed(await self.log.events(limit=1_000))]

    async def one(self, sql: str, *values: object) -> Any:
        """One value of the database."""
        cursor = await self.connection.execute(sql.encode(), values or None)
        row = await cursor.fetchone()
        assert row is not None
        return row[0]


@asynccontextmanager
async def open_office(dsn: str) -> AsyncIterator[Office]:
    """Open an office on a database."""
    connector = Connector(dsn, name="test", durable=False)
    engine = PostgresBatchStore(connector)
    try:
        async with await connector.connect() as connection:
            yield Office(dsn, connection, engine)
    finally:
        await engine.aclose()
