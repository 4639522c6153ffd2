"""Service accounts on PostgreSQL; their keys are revoked with them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from msgspec import structs
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError
from farebox.operations.audit_log import changed, made
from farebox.operations.documents import document
from farebox.operations.tenants import NewServiceAccount, ServiceAccount
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]


async def insert(
    connection: _Connection, new: NewServiceAccount, *, by: Actor = SYSTEM
) -> ServiceAccount:
    """Add a service account to a project.

    Raises:
        NotFoundError: There is no such project.
        ConflictError: The project has one of that name.
    """
    try:
        async with connection.transaction():
            lock = queries("tenants")["lock_organization_of_project"]
            await connection.execute(lock, (new.project_id,))
            if not await _ask(connection, "insert", structs.asdict(new)):
                raise NotFoundError("There is no such project.")
            (account,) = await listed(connection, account_id=new.id, limit=1)
            facts = document(account, of="svc")
            note = made("service_account", facts["id"], account.organization_id, facts)
            await append_event(connection, by, note)
    except UniqueViolation as error:
        raise ConflictError(f"The project has a service account {new.name!r} already.") from error
    return account


async def disable(
    connection: _Connection, account_id: UUID, *, by: Actor = SYSTEM
) -> ServiceAccount:
    """End a service account: when it returns, no further call of its keys is admitted.

    Raises:
        NotFoundError: There is none.
    """
    async with connection.transaction():
        await _ask(connection, "lock_organization", (account_id,))
        before = await listed(connection, account_id=account_id, limit=1)
        if not before:
            raise NotFoundError("There is no such service account.")
        await _ask(connection, "disable", (account_id,))
        revoked = await _ask(connection, "revoke_keys", (account_id,))
        (account,) = await listed(connection, account_id=account_id, limit=1)
        old, new = document(before[0], of="svc"), document(account, of="svc")
        note = changed(
            "service_account.disabled",
            new["id"],
            account.organization_id,
            {**old, "keys_revoked": 0},
            {**new, "keys_revoked": len(revoked)},
        )
        await append_event(connection, by, note)
    return account


async def listed(
    connection: _Connection,
    *,
    account_id: UUID | None = None,
    name: str | None = None,
    project_id: UUID | None = None,
    organization_id: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[ServiceAccount]:
    """Service accounts in the order they were made, disabled ones too."""
    values = {
        "id": account_id,
        "name": name,
        "project_id": project_id,
        "organization_id": organization_id,
        "after": after,
        "limit": limit,
    }
    return [
        ServiceAccount(
            id=row[0],
            organization_id=row[1],
            project_id=row[2],
            project_name=row[3],
            name=row[4],
            purpose=row[5],
            created_at=utc(row[6]),
            disabled_at=None if row[7] is None else utc(row[7]),
        )
        for row in await _ask(connection, "list", values)
    ]


async def _ask(connection: _Connection, name: str, values: Any) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("service_accounts")[name], values)
    return await cursor.fetchall()
