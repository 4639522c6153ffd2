"""Keys for models: made, rotated, ended; a key's text is in the answer to its making alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Cursor,
    Instant,
    InstantIn,
    KeyId,
    Limit,
    Name,
    OrganizationId,
    Page,
    ProjectId,
    ServiceAccountId,
    UserId,
    page_by_id,
    read_id_cursor,
    read_instant,
)
from farebox.console.api.projects import find_open_project, find_project
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import ConflictError, NotFoundError
from farebox.kit.ids import parse_id
from farebox.ledger.scopes import ScopeKind, scope_number
from farebox.operations.documents import document
from farebox.operations.key_administration import MadeKey
from farebox.operations.key_rotation import limit_copier
from farebox.operations.tenants import ListedKey
from farebox.tenancy.api_keys import KeyState
from farebox.tenancy.permissions import Action


class Key(Struct, frozen=True, kw_only=True):
    """A key for models; its text is not kept."""

    object: Literal["key"] = "key"
    id: KeyId
    name: str
    prefix: str
    state: str
    organization_id: OrganizationId
    organization_name: str
    project_id: ProjectId
    project_name: str
    service_account_id: ServiceAccountId | None
    service_account_name: str | None
    user_id: UserId | None
    user_email: str | None
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None
    last_used_at: Instant | None
    """To the minute."""
    last_project_id: ProjectId | None
    """Of that use."""
    replaces_id: KeyId | None
    replaced_by_id: KeyId | None


class NewKey(Key, frozen=True, kw_only=True):
    """A key as it was made."""

    key: str
    """Its text: shown now and never again."""


class KeyOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new key; a service account or a member may own it."""

    name: Name
    project_id: ProjectId
    expires_at: InstantIn | None = None
    service_account_id: ServiceAccountId | None = None
    user_id: UserId | None = None


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key gives way to its successor."""

    overlap_hours: Annotated[int, Meta(ge=0, le=90 * 24)] = 24
    """How long both work."""


class KeyQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys."""

    project_id: ProjectId | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


async def list_keys(context: Context) -> Page[Key]:
    """Keys, revoked ones too, in the order of their making."""
    query, session = context.query_as(KeyQuery), context.session
    project = None if query.project_id is None else await find_project(context, query.project_id)
    found = await session.tenants.keys(
        organization_id=context.organization.id,
        project_id=None if project is None else project.id,
        after=read_id_cursor("key", query.cursor),
        limit=query.limit + 1,
    )
    now = await session.now()
    rows = [_key_row(key, now) for key in found]
    return page_by_id(Key, rows, query.limit)


async def create_key(context: Context) -> NewKey:
    """Make a key."""
    order, session = context.body_as(KeyOrder), context.session
    project = await find_open_project(context, order.project_id)
    account_id = None
    if order.service_account_id is not None:
        account_id = parse_id("svc", order.service_account_id, field="service_account_id")
    user_id = None if order.user_id is None else parse_id("user", order.user_id, field="user_id")
    made = await session.administration.create_key(
        order.name,
        project.id,
        expires_at=read_instant(order.expires_at, field="expires_at"),
        service_account_id=account_id,
        user_id=user_id,
    )
    return await _new_key(context, made)


async def show_key(context: Context) -> Key:
    """One key."""
    key = await _find_key(context)
    return msgspec.convert(_key_row(key, await context.session.now()), Key)


async def copy_limits(context: Context) -> None:
    """Give the key that is to be made the limits of the old one, before it opens anything."""
    key, session = await _find_key(context), context.session
    # Known before its successor's limits are set: they would be left behind.
    if key.replaced_by_id is not None or key.state_at(await session.now()) is not KeyState.ACTIVE:
        raise ConflictError("The key was rotated already, or opens nothing any more.")
    organization_id = context.organization.id
    scope = scope_number(ScopeKind.KEY, key.id.hex)
    limits = await session.money.limits(organization_id, scopes=[scope])
    copier = limit_copier(session.audit, session.plain_submit, organization_id, limits, key.id)
    await copier(context.effect_id)


async def rotate_key(context: Context) -> NewKey:
    """Make its successor, with the same limits; both work while they overlap."""
    key = await _find_key(context)
    overlap = timedelta(hours=context.body_as(Rotation).overlap_hours)
    made = await context.session.administration.rotate_key(
        key.id, overlap=overlap, new_id=context.effect_id
    )
    return await _new_key(context, made)


async def revoke_key(context: Context) -> Key:
    """End it: when this is answered, no further call of it is admitted anywhere."""
    key = await _find_key(context)
    await context.session.administration.revoke_key(key.id)
    return await show_key(context)


async def _new_key(context: Context, made: MadeKey) -> NewKey:
    (key,) = await context.session.tenants.keys(key_id=made.id, limit=1)
    row = _key_row(key, await context.session.now())
    return msgspec.convert(row | {"key": made.text}, NewKey)


async def _find_key(context: Context) -> ListedKey:
    found = await context.session.tenants.keys(
        key_id=context.ids["key_id"], organization_id=context.organization.id, limit=1
    )
    if not found:
        raise NotFoundError("There is no such key.")
    return found[0]


def _key_row(key: ListedKey, now: datetime) -> dict[str, Any]:
    return document(key, of="key") | {"state": key.state_at(now).value}


_KEYS: Final = "/organizations/{organization_id}/keys"
_KEY: Final = _KEYS + "/{key_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path=_KEYS,
        name="listKeys",
        summary="Keys for models",
        tag="keys",
        handler=list_keys,
        action=Action.KEYS_VIEW,
        query=KeyQuery,
        answer=Page[Key],
    ),
    Route(
        method="POST",
        path=_KEYS,
        name="createKey",
        summary="Make a key for models",
        tag="keys",
        handler=create_key,
        action=Action.KEYS_CHANGE,
        body=KeyOrder,
        answer=NewKey,
        status=201,
        secret=True,
    ),
    Route(
        method="GET",
        path=_KEY,
        name="showKey",
        summary="A key for models",
        tag="keys",
        handler=show_key,
        action=Action.KEYS_VIEW,
        answer=Key,
    ),
    Route(
        method="DELETE",
        path=_KEY,
        name="revokeKey",
        summary="End a key at once",
        tag="keys",
        handler=revoke_key,
        action=Action.KEYS_CHANGE,
        answer=Key,
    ),
    Route(
        method="POST",
        path=_KEY + "/rotate",
        name="rotateKey",
        summary="Make a key in the place of another",
        tag="keys",
        handler=rotate_key,
        prepare=copy_limits,
        prepare_stays=True,
        action=Action.KEYS_CHANGE,
        body=Rotation,
        answer=NewKey,
        status=201,
        secret=True,
    ),
)
