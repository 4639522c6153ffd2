"""The console's store on PostgreSQL: sessions, pages read in one snapshot, and bearers of keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.kit.ids import looks_like_id, parse_id
from farebox.kit.money import Nanos
from farebox.operations.balance import view_balance
from farebox.operations.console_views import (
    Bearer,
    OpenHold,
    OrganizationName,
    OrganizationView,
    Session,
    SignInFacts,
)
from farebox.storage import rows
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.key_store import find_key
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries
from farebox.storage.tenancy_store import PostgresTenantStore, find_console_user
from farebox.tenancy.api_keys import KeyState

SESSIONS_PER_PERSON_MAX: Final = 20
"""A person has a few browsers; what signs in more often is a script, and its sessions pile up."""

_OPEN_PASSED_MAX: Final = 200
"""So many open calls are passed over to find the last closed ones."""

_READS: Final = frozenset({KeyState.ACTIVE, KeyState.ORGANIZATION_INACTIVE})
"""A key of an organisation that is switched off still explains the calls it made."""

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresConsoleStore:
    """Implements ``operations.console_views.ConsoleStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ping(self) -> None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            await _all(connection, "console", "ping", None)

    # Sessions.

    async def find_sign_in(self, email: str) -> SignInFacts | None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            found = await find_console_user(connection, email)
        return None if found is None else SignInFacts(found.id, found.password_hash)

    async def open_session(self, digest: bytes, person_id: UUID, *, lasts: timedelta) -> None:
        """See the port."""
        values = {"digest": digest, "person_id": person_id, "lasts": lasts}
        kept = {"person_id": person_id, "kept": SESSIONS_PER_PERSON_MAX}
        sql = queries("console")
        async with borrowed(self._pool) as connection, connection.transaction():
            await connection.execute(sql["open_session"], values)
            await connection.execute(sql["drop_oldest_sessions"], kept)

    async def find_session(self, digest: bytes) -> Session | None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            return await find_session(connection, digest)

    async def end_session(self, digest: bytes) -> None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            await connection.execute(queries("console")["end_session"], (digest,))

    # Pages.

    async def organizations(self, *, limit: int) -> list[OrganizationName]:
        """See the port."""
        async with borrowed(self._pool) as connection:
            found = await PostgresTenantStore(connection).organizations(limit=limit)
        return [OrganizationName(profile.id, profile.name) for profile in found]

    async def find_organization(self, text: str) -> OrganizationName | None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            store = PostgresTenantStore(connection)
            if looks_like_id("org", text):
                wanted = parse_id("org", text, field="organization")
                found = await store.organizations(organization_id=wanted, limit=1)
            else:
                found = await store.organizations(name=text, limit=1)
        return OrganizationName(found[0].id, found[0].name) if found else None

    async def view_organization(
        self, organization_id: UUID, *, holds: int, calls: int
    ) -> OrganizationView:
        """See the port."""
        one = (organization_id,)
        async with borrowed(self._pool) as connection, connection.transaction():
            await connection.execute(queries("catalogue")["read_only_snapshot"])
            organizations = await _all(connection, "balance", "read_organization", one)
            if not organizations:
                raise NotFoundError("There is no such organisation.")
            grants = await _all(connection, "balance", "read_grants_with_money", one)
            facts = await _all(connection, "console", "read_page_facts", one)
            page = {"organization_id": organization_id, "limit": holds}
            held = await _all(connection, "console", "read_open_holds", page)
            open_count = held[0][-1] if held else 0
            # Open ones stand in the same list, mostly at its head.
            recent = await PostgresCallStore(connection).page(
                organization_id, after=None, limit=calls + min(open_count, _OPEN_PASSED_MAX)
            )
        organization = rows.organization(organizations[0])
        now = rows.utc(organizations[0][-1])
        return OrganizationView(
            id=organization_id,
            name=facts[0][0],
            active=organization.active,
            balance=view_balance(organization, [rows.grant(row) for row in grants], now),
            holds=tuple(map(_hold, held)),
            holds_count=open_count,
            calls=tuple(call for call in recent if call.status != "open")[:calls],
            clock_offset=facts[0][1],
        )


async def find_session(connection: _Connection, digest: bytes) -> Session | None:
    """The session with that digest, if it has not ended."""
    found = await _all(connection, "console", "find_session", (digest,))
    return Session(found[0][0], found[0][1], rows.utc(found[0][2])) if found else None


async def find_model_bearer(connection: _Connection, digest: bytes) -> Bearer | None:
    """Whoever holds the key for models with that digest; None if it opens nothing (any more)."""
    key = await find_key(connection, digest)
    if key is None:
        return None
    now = await PostgresTenantStore(connection).now()
    return Bearer(key.organization_id) if key.state_at(now) in _READS else None


async def _all(connection: _Connection, file: str, name: str, values: Any) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries(file)[name], values)
    return await cursor.fetchall()


def _hold(row: tuple[Any, ...]) -> OpenHold:
    return OpenHold(
        call_id=row[0],
        amount=Nanos(row[1]),
        model=row[2],
        endpoint=row[3],
        project_name=row[4],
        key_name=row[5],
        streamed=row[6],
        admitted_at=rows.utc(row[7]),
        latest_end=rows.utc(row[8]),
    )
