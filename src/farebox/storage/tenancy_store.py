"""Tenants on PostgreSQL: organisations, projects, keys, and the people of the console.

Whoever writes a row of an organisation takes the organisation's row first (ENGINE.md, "A batch").
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.tenants import (
    ListedKey,
    NewKey,
    NewManagementKey,
    NewOrganization,
    NewProject,
    OrganizationChange,
    OrganizationProfile,
    Project,
)
from farebox.storage import key_store
from farebox.storage.rows import utc
from farebox.storage.sql import queries

_Connection = AsyncConnection[tuple[Any, ...]]


CLOCK_END: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Far enough for any test, and far from where calendars end."""


class Deployment(msgspec.Struct, frozen=True):
    """What this installation is, and its time."""

    sandbox: bool
    clock_offset: timedelta
    """How far the sandbox's clock was moved; zero in a real installation."""
    now: datetime


class ConsoleUser(msgspec.Struct, frozen=True):
    """A person who may sign in to the console."""

    id: UUID
    email: str
    password_hash: str
    created_at: datetime


class PostgresTenantStore:
    """Implements ``operations.tenants.TenantStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._sql = queries("tenants")

    async def now(self) -> datetime:
        """See the port."""
        rows = await self._ask("read_now", None)
        return utc(rows[0][0])

    async def insert_organization(self, new: NewOrganization) -> OrganizationProfile:
        """See the port."""
        values = {
            "id": new.id,
            "name": new.name,
            "currency": new.currency,
            "zone": new.zone,
            "floor": new.floor,
            "on_overrun": new.on_overrun.value,
            "on_lapse": new.on_lapse.value,
        }
        try:
            rows = await self._ask("insert_organization", values)
        except UniqueViolation as error:
            raise await self._taken(new.name) from error
        return _organization(rows[0])

    async def change_organization(
        self, organization_id: UUID, change: OrganizationChange
    ) -> OrganizationProfile:
        """See the port."""
        values = {
            "id": organization_id,
            "name": change.name,
            "zone": change.zone,
            "active": change.active,
            "on_overrun": None if change.on_overrun is None else change.on_overrun.value,
            "on_lapse": None if change.on_lapse is None else change.on_lapse.value,
        }
        try:
            async with self._connection.transaction():
                locked = await self._ask("lock_organization", (organization_id,))
                if not locked:
                    raise NotFoundError("There is no such organisation.")
                if change.zone not in {None, locked[0][0]}:
                    await self._refuse_limits(organization_id)
                rows = await self._ask("change_organization", values)
        except UniqueViolation as error:
            raise await self._taken(change.name or "") from error
        return _organization(rows[0])

    async def organizations(
        self,
        *,
        organization_id: UUID | None = None,
        name: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[OrganizationProfile]:
        """See the port."""
        values = {"id": organization_id, "name": name, "after": after, "limit": limit}
        return [_organization(row) for row in await self._ask("list_organizations", values)]

    async def insert_project(self, new: NewProject) -> Project:
        """See the port."""
        try:
            async with self._connection.transaction():
                if not await self._ask("lock_organization", (new.organization_id,)):
                    raise NotFoundError("There is no such organisation.")
                await self._ask(
                    "insert_project",
                    {
                        "id": new.id,
                        "organization_id": new.organization_id,
                        "name": new.name,
                        "environment": new.environment,
                        "default_output_tokens": new.default_output_tokens,
                        "slices": new.slices,
                    },
                )
        except UniqueViolation as error:
            taken = await self.projects(name=new.name, organization_id=new.organization_id, limit=1)
            which = f" ({format_id('proj', taken[0].id)})" if taken else ""
            raise ConflictError(
                f"The organisation has a project {new.name!r} already{which}."
            ) from error
        return (await self.projects(project_id=new.id, limit=1))[0]

    async def projects(
        self,
        *,
        project_id: UUID | None = None,
        name: str | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Project]:
        """See the port."""
        values = {
            "id": project_id,
            "name": name,
            "organization_id": organization_id,
            "after": after,
            "limit": limit,
        }
        return [
            Project(
                id=row[0],
                organization_id=row[1],
                organization_name=row[2],
                name=row[3],
                environment=row[4],
                default_output_tokens=row[5],
                created_at=utc(row[6]),
                archived_at=None if row[7] is None else utc(row[7]),
                slices=row[8],
            )
            for row in await self._ask("list_projects", values)
        ]

    async def insert_key(self, new: NewKey) -> None:
        """See the port."""
        await key_store.create_key(
            self._connection,
            key_id=new.id,
            project_id=new.project_id,
            name=new.name,
            digest=new.digest,
            prefix=new.prefix,
            expires_at=new.expires_at,
        )

    async def revoke_key(self, key_id: UUID) -> datetime:
        """See the port."""
        return await key_store.revoke_key(self._connection, key_id)

    async def keys(
        self,
        *,
        key_id: UUID | None = None,
        name: str | None = None,
        project_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ListedKey]:
        """See the port."""
        return await key_store.list_keys(
            self._connection,
            key_id=key_id,
            name=name,
            project_id=project_id,
            organization_id=organization_id,
            after=after,
            limit=limit,
        )

    async def insert_management_key(self, new: NewManagementKey) -> None:
        """See the port."""
        await key_store.create_management_key(
            self._connection, key_id=new.id, name=new.name, digest=new.digest, prefix=new.prefix
        )

    async def _refuse_limits(self, organization_id: UUID) -> None:
        """A window that was opened by the old zone would not be found by the new one."""
        rows = await self._ask("count_limits", (organization_id,))
        if rows[0][0]:
            raise RefusedError(
                "zone_has_limits",
                "zone cannot change while a limit counts months by the old one: remove the limit "
                "(farebox limits set --org O --monthly none), change the zone, set it again.",
            )

    async def _taken(self, name: str) -> ConflictError:
        taken = await self.organizations(name=name, limit=1)
        which = f" ({format_id('org', taken[0].id)})" if taken else ""
        return ConflictError(f"There is an organisation {name!r} already{which}.")

    async def _ask(self, name: str, values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], values)
        return await cursor.fetchall()


async def read_deployment(connection: _Connection) -> Deployment:
    """What this installation is."""
    cursor = await connection.execute(queries("tenants")["read_deployment"])
    row = await cursor.fetchone()
    assert row is not None
    return Deployment(row[0], row[1], utc(row[2]))


async def advance_clock(connection: _Connection, by: timedelta) -> Deployment:
    """Move the sandbox's clock forwards (DESIGN.md, decision 17).

    Raises:
        RefusedError: ``not_a_sandbox``: real credit expires by real time alone;
            ``end_of_time``: it would pass :data:`CLOCK_END`.
    """
    before = await read_deployment(connection)
    if not before.sandbox:
        raise RefusedError(
            "not_a_sandbox", "The clock moves in a sandbox only; this installation is a real one."
        )
    if before.now + by > CLOCK_END:
        raise RefusedError("end_of_time", f"A sandbox's clock goes to {CLOCK_END:%Y} at most.")
    cursor = await connection.execute(queries("tenants")["advance_clock"], (by,))
    row = await cursor.fetchone()
    assert row is not None
    return Deployment(row[0], row[1], utc(row[2]))


async def put_console_user(
    connection: _Connection, *, user_id: UUID, email: str, password_hash: str
) -> UUID:
    """Make the person with that address, or give them a new password and end their sessions.

    Returns:
        The person's id: the given one, or the one they had.
    """
    sql = queries("tenants")
    async with connection.transaction():
        cursor = await connection.execute(
            sql["put_console_user"],
            {"id": user_id, "email": email, "password_hash": password_hash},
        )
        row = await cursor.fetchone()
        assert row is not None
        found: UUID = row[0]
        await connection.execute(sql["end_console_sessions"], (found,))
    return found


async def find_console_user(connection: _Connection, email: str) -> ConsoleUser | None:
    """The person with that address, in whatever case."""
    cursor = await connection.execute(queries("tenants")["find_console_user"], (email,))
    row = await cursor.fetchone()
    return None if row is None else ConsoleUser(row[0], row[1], row[2], utc(row[3]))


async def read_console_user(connection: _Connection, user_id: UUID) -> ConsoleUser | None:
    """The person with that id."""
    cursor = await connection.execute(queries("tenants")["read_console_user"], (user_id,))
    row = await cursor.fetchone()
    return None if row is None else ConsoleUser(row[0], row[1], row[2], utc(row[3]))


def _organization(row: tuple[Any, ...]) -> OrganizationProfile:
    return OrganizationProfile(
        id=row[0],
        name=row[1],
        currency=row[2],
        zone=row[3],
        active=row[4],
        billing_mode=row[5],
        floor=Nanos(row[6]),
        on_overrun=OnOverrun(row[7]),
        on_lapse=OnLapse(row[8]),
        created_at=utc(row[9]),
    )
