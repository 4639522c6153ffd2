"""Tenants on PostgreSQL: organisations, projects, keys, and the people of the console.

Whoever writes a row of an organisation takes the organisation's row first (ENGINE.md, "A batch").
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, convert, json, structs
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.audit_log import AuditNote, changed, made
from farebox.operations.clock import Deployment
from farebox.operations.documents import document
from farebox.operations.tenants import (
    ListedKey,
    ManagementKey,
    NewKey,
    NewManagementKey,
    NewOrganization,
    NewProject,
    NewServiceAccount,
    OrganizationChange,
    OrganizationProfile,
    OutputCap,
    Project,
    ProjectChange,
    ServiceAccount,
)
from farebox.storage import key_store, service_account_store
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]


CLOCK_END: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Far enough for any test, and far from where calendars end."""


class ConsoleUser(msgspec.Struct, frozen=True):
    """A person who may sign in to the console."""

    id: UUID
    email: str
    password_hash: str
    created_at: datetime


class PostgresTenantStore:
    """Implements ``operations.tenants.TenantStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by
        self._sql = queries("tenants")

    def together(self) -> AbstractAsyncContextManager[Any]:
        """See the port."""
        return self._connection.transaction()

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
            "plan_id": new.plan_id,
        }
        try:
            async with self._connection.transaction():
                await self._ask("insert_organization", values)
                profile = await self._organization(new.id)
                facts = document(profile, of="org")
                note = made("organization", facts["id"], new.id, facts)
                await append_event(self._connection, self._by, note)
        except UniqueViolation as error:
            raise await self._taken(new.name) from error
        except ForeignKeyViolation as error:
            raise NotFoundError("There is no such price plan.") from error
        return profile

    async def change_organization(
        self, organization_id: UUID, change: OrganizationChange
    ) -> OrganizationProfile:
        """See the port."""
        values = {
            "id": organization_id,
            "name": change.name,
            "active": change.active,
            "on_overrun": None if change.on_overrun is None else change.on_overrun.value,
            "on_lapse": None if change.on_lapse is None else change.on_lapse.value,
        }
        try:
            async with self._connection.transaction():
                if not await self._ask("lock_organization", (organization_id,)):
                    raise NotFoundError("There is no such organisation.")
                before = document(await self._organization(organization_id), of="org")
                await self._ask("change_organization", values)
                profile = await self._organization(organization_id)
                after = document(profile, of="org")
                note = changed("organization.changed", after["id"], organization_id, before, after)
                await append_event(self._connection, self._by, note)
        except UniqueViolation as error:
            raise await self._taken(change.name or "") from error
        return profile

    async def organizations(
        self,
        *,
        organization_id: UUID | None = None,
        name: str | None = None,
        among: Iterable[UUID] | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[OrganizationProfile]:
        """See the port."""
        values = {
            "id": organization_id,
            "name": name,
            "among": None if among is None else list(among),
            "after": after,
            "limit": limit,
        }
        return [_organization(row) for row in await self._ask("list_organizations", values)]

    async def insert_project(self, new: NewProject) -> Project:
        """See the port."""
        values = _project_values(new)
        try:
            async with self._connection.transaction():
                if not await self._ask("lock_organization", (new.organization_id,)):
                    raise NotFoundError("There is no such organisation.")
                await self._ask("insert_project", values)
                project = (await self.projects(project_id=new.id, limit=1))[0]
                facts = document(project, of="proj")
                note = made("project", facts["id"], new.organization_id, facts)
                await append_event(self._connection, self._by, note)
        except UniqueViolation as error:
            raise await self._taken_project(new.name, new.organization_id) from error
        return project

    async def change_project(self, project_id: UUID, change: ProjectChange) -> Project:
        """See the port."""
        given = {n: v for n, v in structs.asdict(change).items() if v is not UNSET}
        organization_id = UUID(int=0)
        try:
            async with self._connection.transaction():
                before = await self._lock_project(project_id)
                organization_id = before.organization_id
                values = _project_values(structs.replace(before, **given))
                await self._ask("write_project", values)
                return await self._changed_project("project.changed", before)
        except UniqueViolation as error:
            raise await self._taken_project(str(change.name), organization_id) from error

    async def archive_project(self, project_id: UUID) -> Project:
        """See the port."""
        async with self._connection.transaction():
            before = await self._lock_project(project_id)
            await self._ask("archive_project", (project_id,))
            return await self._changed_project("project.archived", before)

    async def _lock_project(self, project_id: UUID) -> Project:
        """Its organisation's lock, then the project as it is.

        Raises:
            NotFoundError: There is no such project.
        """
        await self._ask("lock_organization_of_project", (project_id,))
        found = await self.projects(project_id=project_id, limit=1)
        if not found:
            raise NotFoundError("There is no such project.")
        return found[0]

    async def _changed_project(self, action: str, before: Project) -> Project:
        """The project as it is now; gateways hear of it, and the log."""
        project = (await self.projects(project_id=before.id, limit=1))[0]
        old, new = document(before, of="proj"), document(project, of="proj")
        if old != new:
            await self._ask("grow_directory", None)
        note = changed(action, new["id"], project.organization_id, old, new)
        await append_event(self._connection, self._by, note)
        return project

    async def projects(
        self,
        *,
        project_id: UUID | None = None,
        name: str | None = None,
        organization_id: UUID | None = None,
        without_owner: bool = False,
        after: UUID | None = None,
        limit: int,
    ) -> list[Project]:
        """See the port."""
        values = {
            "id": project_id,
            "name": name,
            "organization_id": organization_id,
            "without_owner": without_owner,
            "after": after,
            "limit": limit,
        }
        return [_project(row) for row in await self._ask("list_projects", values)]

    # Keys and their owners.

    async def insert_key(self, new: NewKey) -> None:
        """See the port."""
        await key_store.insert_key(self._connection, new, by=self._by)

    async def rotate_key(self, new: NewKey, *, replaces: UUID, old_ends_at: datetime) -> None:
        """See the port."""
        await key_store.rotate_key(
            self._connection, new, replaces=replaces, old_ends_at=old_ends_at, by=self._by
        )

    async def revoke_key(self, key_id: UUID) -> datetime:
        """See the port."""
        return await key_store.revoke_key(self._connection, key_id, by=self._by)

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

    async def insert_service_account(self, new: NewServiceAccount) -> ServiceAccount:
        """See the port."""
        return await service_account_store.insert(self._connection, new, by=self._by)

    async def disable_service_account(self, account_id: UUID) -> ServiceAccount:
        """See the port."""
        return await service_account_store.disable(self._connection, account_id, by=self._by)

    async def service_accounts(
        self,
        *,
        account_id: UUID | None = None,
        name: str | None = None,
        project_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ServiceAccount]:
        """See the port."""
        return await service_account_store.listed(
            self._connection,
            account_id=account_id,
            name=name,
            project_id=project_id,
            organization_id=organization_id,
            after=after,
            limit=limit,
        )

    async def insert_management_key(self, new: NewManagementKey) -> None:
        """See the port."""
        await key_store.insert_management_key(self._connection, new, by=self._by)

    async def revoke_management_key(self, key_id: UUID) -> datetime:
        """See the port."""
        return await key_store.revoke_management_key(self._connection, key_id, by=self._by)

    async def management_keys(
        self,
        *,
        key_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ManagementKey]:
        """See the port."""
        return await key_store.list_management_keys(
            self._connection,
            key_id=key_id,
            organization_id=organization_id,
            after=after,
            limit=limit,
        )

    async def _organization(self, organization_id: UUID) -> OrganizationProfile:
        return (await self.organizations(organization_id=organization_id, limit=1))[0]

    async def _taken(self, name: str) -> ConflictError:
        taken = await self.organizations(name=name, limit=1)
        which = f" ({format_id('org', taken[0].id)})" if taken else ""
        return ConflictError(f"There is an organisation {name!r} already{which}.")

    async def _taken_project(self, name: str, organization_id: UUID) -> ConflictError:
        taken = await self.projects(name=name, organization_id=organization_id, limit=1)
        which = f" ({format_id('proj', taken[0].id)})" if taken else ""
        return ConflictError(f"The organisation has a project {name!r} already{which}.")

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


async def advance_clock(
    connection: _Connection, by: timedelta, *, actor: Actor = SYSTEM
) -> Deployment:
    """Move the sandbox's clock forwards (DESIGN.md, decision 17).

    Args:
        connection: In autocommit mode.
        by: How far.
        actor: Who does it.

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
    async with connection.transaction():
        cursor = await connection.execute(queries("tenants")["advance_clock"], (by,))
        row = await cursor.fetchone()
        assert row is not None
        moved = Deployment(row[0], row[1], utc(row[2]))
        await connection.execute(queries("nodes")["make_partitions"])
        note = changed(
            "deployment.clock_advanced",
            "deployment",
            None,
            {"offset_seconds": int(before.clock_offset.total_seconds())},
            {"offset_seconds": int(moved.clock_offset.total_seconds())},
        )
        await append_event(connection, actor, note)
    return moved


async def put_console_user(
    connection: _Connection,
    *,
    user_id: UUID,
    email: str,
    password_hash: str,
    operator: bool = False,
    by: Actor = SYSTEM,
) -> UUID:
    """Make the person with that address, or give them a new password and end their sessions.

    A login that was closed is open again, which the audit log says.

    Args:
        connection: In autocommit mode.
        user_id: For somebody new.
        email: Found again in whatever case.
        password_hash: Never noted anywhere else.
        operator: Whether they administer the deployment; the first person does in any case.
        by: Who does it.

    Returns:
        The person's id: the given one, or the one they had.
    """
    sql = queries("tenants")
    values = {
        "id": user_id,
        "email": email,
        "password_hash": password_hash,
        "operator": operator,
    }
    async with connection.transaction():
        cursor = await connection.execute(sql["put_console_user"], values)
        row = await cursor.fetchone()
        assert row is not None
        found: UUID = row[0]
        await connection.execute(sql["end_console_sessions"], (found,))
        note = AuditNote(
            action="user.created" if row[2] else "user.password_set",
            subject_kind="user",
            subject_id=format_id("user", found),
            after={"email": email, "operator": row[1]} | ({"reopened": True} if row[3] else {}),
        )
        await append_event(connection, by, note)
    return found


async def find_console_user(connection: _Connection, email: str) -> ConsoleUser | None:
    """The person with that address, in whatever case; nobody whose login is closed."""
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
        plan_id=row[10],
        plan_name=row[11],
    )


def _project(row: tuple[Any, ...]) -> Project:
    return Project(
        id=row[0],
        organization_id=row[1],
        organization_name=row[2],
        name=row[3],
        environment=row[4],
        default_output_tokens=row[5],
        created_at=utc(row[6]),
        archived_at=None if row[7] is None else utc(row[7]),
        slices=row[8],
        purpose=row[9],
        owner=row[10],
        allowed_models=None if row[11] is None else tuple(row[11]),
        output_tokens_max=row[12],
        stores_content=row[13],
        content_retention_days=row[14],
        feature_caps=convert(row[15], dict[str, OutputCap]),
    )


def _project_values(project: NewProject) -> dict[str, Any]:
    caps = json.encode(project.feature_caps).decode()
    models = _array(project.allowed_models)
    return structs.asdict(project) | {"allowed_models": models, "feature_caps": caps}


def _array(values: tuple[str, ...] | None) -> list[str] | None:
    """The driver writes lists as arrays, and tuples as rows."""
    return None if values is None else list(values)
