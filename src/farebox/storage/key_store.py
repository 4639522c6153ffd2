"""API keys and management keys on PostgreSQL: found by digest, made, revoked, listed.

A key's text is never stored. Revocation takes the organisation's row first, like every write of an
organisation's rows, so it is ordered against every admission (ENGINE.md, "A batch").
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.operations.tenants import ListedKey
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.api_keys import KeyState, key_state

_Connection = AsyncConnection[tuple[Any, ...]]


class KeyRow(msgspec.Struct, frozen=True, gc=False):
    """What a call needs to know of the key it came with, and whose it is (ORG-03)."""

    id: UUID
    name: str
    organization_id: UUID
    organization_name: str
    currency: str
    zone: str
    organization_active: bool
    project_id: UUID
    project_name: str
    environment: str
    """The project's; a call may name another."""
    default_output_tokens: int | None
    """The project's output limit for calls that name none; None means the shipped default."""
    project_archived_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    slices: bool = False
    """Whether the project's streams hold their output slice by slice."""

    def state_at(self, now: datetime) -> KeyState:
        """Whether it opens anything at that instant; ``admit`` decides it again, exactly."""
        return key_state(
            now,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
            project_archived_at=self.project_archived_at,
            organization_active=self.organization_active,
        )


class ManagementKeyRow(NamedTuple):
    """A key of the management API."""

    id: UUID
    name: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


async def find_key(connection: _Connection, digest: bytes) -> KeyRow | None:
    """The key with that digest, in whatever state; None where there is none."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("keys")["find_key"], (digest,), prepare=True)
    row = await cursor.fetchone()
    if row is None:
        return None
    return KeyRow(*row[:11], *map(_instant, row[11:14]), *row[14:])


async def find_management_key(connection: _Connection, digest: bytes) -> ManagementKeyRow | None:
    """The management key with that digest, revoked or not; None where there is none."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("keys")["find_management_key"], (digest,), prepare=True)
    row = await cursor.fetchone()
    return None if row is None else _management_key(row)


async def create_key(
    connection: _Connection,
    *,
    key_id: UUID,
    project_id: UUID,
    name: str,
    digest: bytes,
    prefix: str,
    expires_at: datetime | None = None,
) -> None:
    """Add a key to a project.

    Raises:
        NotFoundError: There is no such project.
    """
    values = {
        "id": key_id,
        "project_id": project_id,
        "name": name,
        "digest": digest,
        "prefix": prefix,
        "expires_at": expires_at,
    }
    async with connection.transaction():
        await _lock(connection, "lock_organization_of_project", project_id)
        cursor = await connection.execute(queries("keys")["insert_key"], values)
        if await cursor.fetchone() is None:
            raise NotFoundError("There is no such project.")


async def revoke_key(connection: _Connection, key_id: UUID) -> datetime:
    """Revoke a key; when it returns, no further call of that key is admitted anywhere.

    Returns:
        When it was revoked: now, or earlier if it was revoked already.

    Raises:
        NotFoundError: There is no such key.
    """
    async with connection.transaction():
        await _lock(connection, "lock_organization_of_key", key_id)
        cursor = await connection.execute(queries("keys")["revoke_key"], (key_id,))
        row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("There is no such key.")
    return utc(row[0])


async def list_keys(
    connection: _Connection,
    *,
    key_id: UUID | None = None,
    name: str | None = None,
    organization_id: UUID | None = None,
    project_id: UUID | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> list[ListedKey]:
    """Keys in the order they were made, narrowed by what is given; ``after`` is the last seen."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        queries("keys")["list_keys"],
        {
            "id": key_id,
            "name": name,
            "organization_id": organization_id,
            "project_id": project_id,
            "after": after,
            "limit": limit,
        },
    )
    return [
        ListedKey(
            id=row[0],
            name=row[1],
            organization_id=row[2],
            project_id=row[3],
            project_name=row[4],
            prefix=row[5],
            created_at=utc(row[6]),
            expires_at=_instant(row[7]),
            revoked_at=_instant(row[8]),
            project_archived_at=_instant(row[9]),
            organization_active=row[10],
            organization_name=row[11],
        )
        for row in await cursor.fetchall()
    ]


async def create_management_key(
    connection: _Connection, *, key_id: UUID, name: str, digest: bytes, prefix: str
) -> None:
    """Add a key of the management API."""
    values = {"id": key_id, "name": name, "digest": digest, "prefix": prefix}
    await connection.execute(queries("keys")["insert_management_key"], values)


async def revoke_management_key(connection: _Connection, key_id: UUID) -> datetime:
    """Revoke a management key; the same instant again if it was revoked already.

    Raises:
        NotFoundError: There is no such key.
    """
    cursor = await connection.execute(queries("keys")["revoke_management_key"], (key_id,))
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("There is no such management key.")
    return utc(row[0])


async def list_management_keys(
    connection: _Connection, *, after: UUID | None = None, limit: int = 100
) -> list[ManagementKeyRow]:
    """Management keys in the order they were made."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("keys")["list_management_keys"], {"after": after, "limit": limit})
    return [_management_key(row) for row in await cursor.fetchall()]


def _management_key(row: tuple[Any, ...]) -> ManagementKeyRow:
    return ManagementKeyRow(row[0], row[1], row[2], utc(row[3]), _instant(row[4]))


async def _lock(connection: _Connection, name: str, of: UUID) -> None:
    await connection.execute(queries("keys")[name], (of,))


def _instant(value: datetime | None) -> datetime | None:
    return None if value is None else utc(value)
