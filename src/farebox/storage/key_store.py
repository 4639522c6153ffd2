"""API keys and management keys on PostgreSQL: found by digest, made, revoked, listed.

A key's text is never stored. Revocation takes the organisation's row first, like every write of an
organisation's rows, so it is ordered against every admission (ENGINE.md, "A batch").
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import structs
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation

from farebox.kit.errors import NotFoundError, RefusedError
from farebox.kit.ids import format_id, parse_id
from farebox.operations.audit_log import AuditNote, Facts, made
from farebox.operations.documents import document, instant
from farebox.operations.key_administration import end_within, key_has_ended, rotated_already
from farebox.operations.tenants import (
    KeyDetails,
    ListedKey,
    ManagementKey,
    NewKey,
    NewManagementKey,
    OutputCap,
)
from farebox.storage.arrays import instants, uuids
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor, ActorKind
from farebox.tenancy.api_keys import KeyState, key_state
from farebox.tenancy.permissions import Role, covers

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
    allowed_models: tuple[str, ...] | None = None
    """The project's (ORG-17): names and beginnings with ``*``; None allows every model."""
    output_tokens_max: int | None = None
    """The most output tokens that a call of the project may ask for (SAV-12)."""
    plan_id: UUID | None = None
    """The organisation's price plan; None passes prices through."""
    content_days: int | None = None
    """For how long the project stores what calls say; None: not at all."""
    feature_caps: dict[str, OutputCap] = {}
    """Output caps of some features of the project."""

    def state_at(self, now: datetime) -> KeyState:
        """Whether it opens anything at that instant; ``admit`` decides it again, exactly."""
        return key_state(
            now,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
            project_archived_at=self.project_archived_at,
            organization_active=self.organization_active,
        )


async def find_key(connection: _Connection, digest: bytes) -> KeyRow | None:
    """The key with that digest, in whatever state; None where there is none."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("keys")["find_key"], (digest,), prepare=True)
    row = await cursor.fetchone()
    if row is None:
        return None
    models = None if row[15] is None else tuple(row[15])
    caps = msgspec.convert(row[19], dict[str, OutputCap])
    values = [*row[:11], *map(_instant, row[11:14]), row[14], models, *row[16:19], caps]
    for index in _OF_ITS_PROJECT:
        values[index] = _shared(values[index])
    return KeyRow(*values)


_OF_ITS_PROJECT: Final = (2, 3, 4, 5, 7, 8, 9)
"""Ids and texts in ``find_key`` that all keys of a project have in common."""


@lru_cache(maxsize=1 << 12)
def _shared(value: UUID | str) -> UUID | str:
    """One object for equal values: a gateway keeps thousands of keys of the same projects."""
    return value


async def find_management_key(connection: _Connection, digest: bytes) -> ManagementKey | None:
    """The management key with that digest, revoked or not; None where there is none."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("keys")["find_management_key"], (digest,), prepare=True)
    row = await cursor.fetchone()
    return None if row is None else _management_key(row)


async def insert_key(connection: _Connection, new: NewKey, *, by: Actor = SYSTEM) -> None:
    """Add a key to a project.

    Raises:
        NotFoundError: There is no such project, or it has no such owner.
    """
    async with connection.transaction():
        await _ask(connection, "lock_organization_of_project", (new.project_id,), file="tenants")
        await _insert(connection, new, replaces_id=None)
        key = await _key(connection, new.id)
        note = made("key", format_id("key", key.id), key.organization_id, _facts(key))
        await append_event(connection, by, note)


async def rotate_key(
    connection: _Connection,
    new: NewKey,
    *,
    replaces: UUID,
    old_ends_at: datetime,
    by: Actor = SYSTEM,
) -> None:
    """Add a key in the place of another, which ends then, or earlier if it did anyway (ORG-16).

    Raises:
        NotFoundError: There is no such project.
        ConflictError: The old key was replaced already, or opens nothing any more.
    """
    try:
        async with connection.transaction():
            await _ask(connection, "lock_organization_of_key", (replaces,))
            if not await _ask(connection, "end_key", {"id": replaces, "ends_at": old_ends_at}):
                raise key_has_ended()
            await _insert(connection, new, replaces_id=replaces)
            old, key = await _key(connection, replaces), await _key(connection, new.id)
            note = AuditNote(
                action="key.rotated",
                subject_kind="key",
                subject_id=format_id("key", replaces),
                organization_id=key.organization_id,
                before={"id": format_id("key", replaces), "expires_at": instant(old.expires_at)},
                after=_facts(key),
            )
            await append_event(connection, by, note)
    except UniqueViolation as error:
        raise rotated_already() from error


async def _insert(connection: _Connection, new: NewKey, *, replaces_id: UUID | None) -> None:
    values = structs.asdict(new) | {"replaces_id": replaces_id}
    (may,) = await _ask(connection, "owner_is_here", values)
    if not may[0]:
        raise NotFoundError(
            "The owner of a key is a service account of its project, or a member of its "
            "organisation; there is none with that id."
        )
    if not await _ask(connection, "insert_key", values):
        raise NotFoundError("There is no such project.")


async def revoke_key(connection: _Connection, key_id: UUID, *, by: Actor = SYSTEM) -> datetime:
    """Revoke a key; when it returns, no further call of that key is admitted anywhere.

    The row stays, so that whoever still uses the key is told that it was revoked (ORG-16).

    Returns:
        When it was revoked: now, or earlier if it was revoked already.

    Raises:
        NotFoundError: There is no such key.
    """
    async with connection.transaction():
        await _ask(connection, "lock_organization_of_key", (key_id,))
        found = await list_keys(connection, key_id=key_id, limit=1)
        if not found:
            raise NotFoundError("There is no such key.")
        rows = await _ask(connection, "revoke_key", (key_id,))
        revoked_at = utc(rows[0][0])
        if found[0].revoked_at is None:
            note = _revoked("key", key_id, found[0].organization_id, found[0].name, revoked_at)
            await append_event(connection, by, note)
    return revoked_at


async def note_uses(connection: _Connection, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
    """Note when keys were last used: key, project and instant of each (ORG-15)."""
    keys, projects, times = zip(*uses, strict=True)
    values = (uuids(keys), uuids(projects), instants(times))
    await connection.execute(queries("keys")["note_uses"], values)


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
    return [ListedKey(**_listed(row)) for row in await cursor.fetchall()]


async def read_details(connection: _Connection, digest: bytes) -> KeyDetails | None:
    """The key with that digest, in whatever state, with what its project allows; or None."""
    rows = await _ask(connection, "read_details", (digest,))
    if not rows:
        return None
    (row,) = rows
    return KeyDetails(
        **_listed(row),
        environment=row[20],
        default_output_tokens=row[21],
        allowed_models=None if row[22] is None else tuple(row[22]),
        output_tokens_max=row[23],
        feature_caps=msgspec.convert(row[24], dict[str, OutputCap]),
    )


def _listed(row: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of a ``ListedKey``."""
    return {
        "id": row[0],
        "name": row[1],
        "organization_id": row[2],
        "project_id": row[3],
        "project_name": row[4],
        "prefix": row[5],
        "created_at": utc(row[6]),
        "expires_at": _instant(row[7]),
        "revoked_at": _instant(row[8]),
        "project_archived_at": _instant(row[9]),
        "organization_active": row[10],
        "organization_name": row[11],
        "service_account_id": row[12],
        "service_account_name": row[13],
        "user_id": row[14],
        "user_email": row[15],
        "last_used_at": _instant(row[16]),
        "last_project_id": row[17],
        "replaces_id": row[18],
        "replaced_by_id": row[19],
    }


async def insert_management_key(
    connection: _Connection, new: NewManagementKey, *, by: Actor = SYSTEM
) -> None:
    """Add a key of the management API; made with another one, it ends no later than that one.

    Raises:
        InvalidInputError: ``expires_at`` lies after the end of the key that makes it.
        NotFoundError: There is no such organisation.
        RefusedError: ``permission_denied``: its maker may less than it would.
    """
    values = structs.asdict(new) | {"role": None if new.role is None else new.role.value}
    try:
        async with connection.transaction():
            if new.organization_id is not None:
                await _ask(connection, "lock_organization", (new.organization_id,), file="tenants")
            values["user_id"], values["expires_at"] = await _bounds(connection, new, by)
            await _ask(connection, "insert_management_key", values)
            (key,) = await list_management_keys(connection, key_id=new.id, limit=1)
            facts = document(key, of="key")
            note = made("management_key", facts["id"], new.organization_id, facts)
            await append_event(connection, by, note)
    except ForeignKeyViolation as error:
        raise NotFoundError("There is no such organisation.") from error


async def _bounds(
    connection: _Connection, new: NewManagementKey, by: Actor
) -> tuple[UUID | None, datetime | None]:
    """The person whose key it will be, None for one that is made at a shell; and its end.

    Decided under the organisation's lock: whoever loses the rights meanwhile comes before or after.
    """
    user_id = _id_of(by, ActorKind.USER, "user")
    key_id = _id_of(by, ActorKind.MANAGEMENT_KEY, "key")
    expires_at = new.expires_at
    if key_id is not None:
        ((user_id, stands, makers_end),) = await _ask(
            connection, "maker_of_management_key", (key_id,)
        )
        if not stands:
            raise RefusedError("permission_denied", "The key that asks was revoked meanwhile.")
        expires_at = end_within(expires_at, _instant(makers_end))
    if user_id is None:
        return None, expires_at
    values = {"user_id": user_id, "organization_id": new.organization_id}
    ((operator, role),) = await _ask(connection, "rights_of_maker", values)
    if not covers(None if role is None else Role(role), new.role, operator=operator):
        raise RefusedError("permission_denied", "A key opens no more than its maker may.")
    return user_id, expires_at


def _id_of(by: Actor, kind: ActorKind, prefix: str) -> UUID | None:
    if by.kind is not kind:
        return None
    return parse_id(prefix, by.id, field="actor")


async def revoke_keys_of_maker(
    connection: _Connection,
    user_id: UUID,
    *,
    organization_id: UUID | None = None,
    every: bool = False,
    by: Actor = SYSTEM,
) -> int:
    """Revoke the management keys that open more than their maker still may (ORG-14).

    Inside the transaction that takes the rights, which holds the organisations' rows.

    Args:
        connection: In a transaction.
        user_id: Their maker.
        organization_id: Those of one organisation; None: all of them.
        every: Whatever the maker may.
        by: Who takes the rights.

    Returns:
        How many were revoked.
    """
    values = {"user_id": user_id, "organization_id": organization_id}
    revoked = 0
    for key_id, role, operator, maker_role in await _ask(connection, "live_keys_of_maker", values):
        asked = None if role is None else Role(role)
        left = None if maker_role is None else Role(maker_role)
        if every or not covers(left, asked, operator=operator):
            await revoke_management_key(connection, key_id, by=by)
            revoked += 1
    return revoked


async def revoke_management_key(
    connection: _Connection, key_id: UUID, *, by: Actor = SYSTEM
) -> datetime:
    """Revoke a management key; the same instant again if it was revoked already.

    Raises:
        NotFoundError: There is no such key.
    """
    async with connection.transaction():
        await _ask(connection, "lock_organization_of_management_key", (key_id,))
        found = await list_management_keys(connection, key_id=key_id, limit=1)
        if not found:
            raise NotFoundError("There is no such key.")
        rows = await _ask(connection, "revoke_management_key", (key_id,))
        revoked_at = utc(rows[0][0])
        if found[0].revoked_at is None:
            key = found[0]
            note = _revoked("management_key", key_id, key.organization_id, key.name, revoked_at)
            await append_event(connection, by, note)
    return revoked_at


async def list_management_keys(
    connection: _Connection,
    *,
    key_id: UUID | None = None,
    organization_id: UUID | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> list[ManagementKey]:
    """Management keys in the order they were made, narrowed by what is given."""
    values = {
        "id": key_id,
        "organization_id": organization_id,
        "after": after,
        "limit": limit,
    }
    return [_management_key(row) for row in await _ask(connection, "list_management_keys", values)]


def _management_key(row: tuple[Any, ...]) -> ManagementKey:
    return ManagementKey(
        id=row[0],
        name=row[1],
        prefix=row[2],
        created_at=utc(row[3]),
        revoked_at=_instant(row[4]),
        expires_at=_instant(row[5]),
        organization_id=row[6],
        role=None if row[7] is None else Role(row[7]),
        user_id=row[8],
        user_email=row[9],
    )


async def _key(connection: _Connection, key_id: UUID) -> ListedKey:
    (key,) = await list_keys(connection, key_id=key_id, limit=1)
    return key


def _facts(key: ListedKey) -> Facts:
    """What the log keeps of a new key: never its text, which nothing here knows."""
    facts = document(key, of="key")
    kept = ("id", "name", "project_id", "project_name", "prefix", "expires_at", "replaces_id")
    return {name: facts[name] for name in (*kept, "service_account_id", "user_id")}


def _revoked(
    kind: str, key_id: UUID, organization_id: UUID | None, name: str, at: datetime
) -> AuditNote:
    return AuditNote(
        action=f"{kind}.revoked",
        subject_kind=kind,
        subject_id=format_id("key", key_id),
        organization_id=organization_id,
        before={"name": name, "revoked_at": None},
        after={"name": name, "revoked_at": instant(at)},
    )


async def _ask(
    connection: _Connection, name: str, values: Any, *, file: str = "keys"
) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries(file)[name], values)
    return await cursor.fetchall()


def _instant(value: datetime | None) -> datetime | None:
    return None if value is None else utc(value)
