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
from farebox.tenancy.permissions import Action, Role, may

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

    async def organizations(self, person_id: UUID, *, limit: int) -> list[OrganizationName]:
        """See the port."""
        async with borrowed(self._pool) as connection:
            found = await _seen(connection, person_id, limit=limit)
        return [OrganizationName(row[0], row[1]) for row in found]

    async def find_organization(self, person_id: UUID, text: str) -> OrganizationName | None:
        """See the port."""
        by_id = looks_like_id("org", text)
        wanted = parse_id("org", text, field="organization") if by_id else None
        async with borrowed(self._pool) as connection:
            found = await _seen(
                connection, person_id, wanted=wanted, name=None if by_id else text, limit=1
            )
        return OrganizationName(found[0][0], found[0][1]) if found else None

    async def view_organization(
        self, person_id: UUID, organization_id: UUID, *, holds: int, calls: int
    ) -> OrganizationView:
        """See the port."""
        one = (organization_id,)
        async with borrowed(self._pool) as connection, connection.transaction():
            await connection.execute(queries("catalogue")["read_only_snapshot"])
            seen = await _seen(connection, person_id, wanted=organization_id, limit=1)
            if not seen:
                raise NotFoundError("There is no such organisation.")
            _, _, operator, role = seen[0]
            known = None if role is None else Role(role)
            if not may(Action.CALLS_VIEW, operator=operator, role=known):
                holds = calls = 0
            organizations = await _all(connection, "balance", "read_organization", one)
            grants = await _all(connection, "balance", "read_grants_with_money", one)
            facts = await _all(connection, "console", "read_page_facts", one)
            # At least one, for how many there are.
            page = {"organization_id": organization_id, "limit": max(holds, 1)}
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
            holds=tuple(map(_hold, held))[:holds],
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


async def _seen(
    connection: _Connection,
    person_id: UUID,
    *,
    wanted: UUID | None = None,
    name: str | None = None,
    limit: int,
) -> list[tuple[Any, ...]]:
    """Organisations that a person may see: id, name, whether as an operator, and their role."""
    values = {"person_id": person_id, "id": wanted, "name": name, "limit": limit}
    return await _all(connection, "console", "list_seen_organizations", values)


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
