"""Keys for models, the service accounts that own them, and keys that manage an organisation.

A key's text is in the answer to its making, and nowhere else.
"""

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
    PageQuery,
    ProjectId,
    ServiceAccountId,
    Text,
    UserId,
    page_of,
    read_cursor,
    read_instant,
    shown,
)
from farebox.console.api.projects import find_open_project, find_project
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import ConflictError, NotFoundError
from farebox.kit.ids import parse_id
from farebox.operations import tenants
from farebox.operations.documents import document
from farebox.operations.key_administration import MadeKey
from farebox.operations.key_rotation import limit_copier
from farebox.operations.tenants import ListedKey, ManagementKey
from farebox.tenancy.api_keys import KeyState
from farebox.tenancy.permissions import Action, Role


class Key(Struct, frozen=True, kw_only=True):
    """A key for models; its text is not kept."""

    object: Literal["key"] = "key"
    id: KeyId
    name: str
    prefix: str
    state: str
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


class ServiceAccount(Struct, frozen=True, kw_only=True):
    """A program that owns keys."""

    object: Literal["service_account"] = "service_account"
    id: ServiceAccountId
    organization_id: OrganizationId
    project_id: ProjectId
    project_name: str
    name: str
    purpose: str
    created_at: Instant
    disabled_at: Instant | None


class ServiceAccountOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new service account."""

    name: Name
    project_id: ProjectId
    purpose: Text = ""


class ManagementKeyRow(Struct, frozen=True, kw_only=True):
    """A key of this API; it never calls a model."""

    object: Literal["management_key"] = "management_key"
    id: KeyId
    name: str
    prefix: str
    organization_id: OrganizationId | None
    role: Role | None
    state: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class NewManagementKey(ManagementKeyRow, frozen=True, kw_only=True):
    """One as it was made."""

    key: str
    """Its text: shown now and never again."""


class ManagementKeyOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new management key of the organisation."""

    name: Name
    role: Role
    expires_at: InstantIn | None = None


async def list_keys(context: Context) -> Page[Key]:
    """Keys, revoked ones too, in the order of their making."""
    query, session = context.query_as(KeyQuery), context.session
    project = None if query.project_id is None else await find_project(context, query.project_id)
    place = read_cursor(query.cursor)
    found = await session.tenants.keys(
        organization_id=context.organization.id,
        project_id=None if project is None else project.id,
        after=None if place is None else parse_id("key", place, field="cursor"),
        limit=query.limit + 1,
    )
    now = await session.now()
    rows = [_key_row(key, now) for key in found]
    return page_of(Key, rows, query.limit, [row["id"] for row in rows])


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


async def rotate_key(context: Context) -> NewKey:
    """Make its successor, with the same limits; both work while they overlap."""
    key, session = await _find_key(context), context.session
    # Known before its successor's limits are set: they would be left behind.
    if key.replaced_by_id is not None or key.state_at(await session.now()) is not KeyState.ACTIVE:
        raise ConflictError("The key was rotated already, or opens nothing any more.")
    overlap = timedelta(hours=context.body_as(Rotation).overlap_hours)
    organization_id = context.organization.id
    limits = await session.money.limits(organization_id)
    prepare = limit_copier(session.audit, session.plain_submit, organization_id, limits, key.id)
    made = await session.administration.rotate_key(key.id, overlap=overlap, prepare=prepare)
    return await _new_key(context, made)


async def revoke_key(context: Context) -> Key:
    """End it: when this is answered, no further call of it is admitted anywhere."""
    key = await _find_key(context)
    await context.session.administration.revoke_key(key.id)
    return await show_key(context)


async def list_service_accounts(context: Context) -> Page[ServiceAccount]:
    """Service accounts, disabled ones too."""
    query = context.query_as(PageQuery)
    place = read_cursor(query.cursor)
    found = await context.session.tenants.service_accounts(
        organization_id=context.organization.id,
        after=None if place is None else parse_id("svc", place, field="cursor"),
        limit=query.limit + 1,
    )
    rows = [document(account, of="svc") for account in found]
    return page_of(ServiceAccount, rows, query.limit, [row["id"] for row in rows])


async def create_service_account(context: Context) -> ServiceAccount:
    """Make one."""
    order = context.body_as(ServiceAccountOrder)
    project = await find_open_project(context, order.project_id)
    made = await context.session.administration.create_service_account(
        order.name, project.id, purpose=order.purpose
    )
    return shown(ServiceAccount, made, of="svc")


async def disable_service_account(context: Context) -> ServiceAccount:
    """End one, and its keys with it."""
    account = await _find_account(context)
    disabled = await context.session.administration.disable_service_account(account.id)
    return shown(ServiceAccount, disabled, of="svc")


async def list_management_keys(context: Context) -> Page[ManagementKeyRow]:
    """Keys that manage this organisation."""
    query, session = context.query_as(PageQuery), context.session
    place = read_cursor(query.cursor)
    found = await session.tenants.management_keys(
        organization_id=context.organization.id,
        after=None if place is None else parse_id("key", place, field="cursor"),
        limit=query.limit + 1,
    )
    now = await session.now()
    rows = [_management_row(key, now) for key in found]
    return page_of(ManagementKeyRow, rows, query.limit, [row["id"] for row in rows])


async def create_management_key(context: Context) -> NewManagementKey:
    """Make one."""
    order, session = context.body_as(ManagementKeyOrder), context.session
    made = await session.administration.create_management_key(
        order.name,
        organization_id=context.organization.id,
        role=order.role,
        expires_at=read_instant(order.expires_at, field="expires_at"),
    )
    (key,) = await session.tenants.management_keys(key_id=made.id, limit=1)
    row = _management_row(key, await session.now())
    return msgspec.convert(row | {"key": made.text}, NewManagementKey)


async def revoke_management_key(context: Context) -> ManagementKeyRow:
    """End one."""
    session, key_id = context.session, context.ids["key_id"]
    wanted = {"key_id": key_id, "organization_id": context.organization.id}
    if not await session.tenants.management_keys(**wanted, limit=1):
        raise NotFoundError("There is no such management key.")
    await session.administration.revoke_management_key(key_id)
    (key,) = await session.tenants.management_keys(**wanted, limit=1)
    return msgspec.convert(_management_row(key, await session.now()), ManagementKeyRow)


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


async def _find_account(context: Context) -> tenants.ServiceAccount:
    found = await context.session.tenants.service_accounts(
        account_id=context.ids["service_account_id"],
        organization_id=context.organization.id,
        limit=1,
    )
    if not found:
        raise NotFoundError("There is no such service account.")
    return found[0]


def _key_row(key: ListedKey, now: datetime) -> dict[str, Any]:
    return document(key, of="key") | {"state": key.state_at(now).value}


def _management_row(key: ManagementKey, now: datetime) -> dict[str, Any]:
    return document(key, of="key") | {"state": key.state_at(now).value}


_ONE: Final = "/organizations/{organization_id}"
_KEYS: Final = f"{_ONE}/keys"
_KEY: Final = _KEYS + "/{key_id}"
_ACCOUNTS: Final = f"{_ONE}/service-accounts"
_MANAGEMENT: Final = f"{_ONE}/management-keys"

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
        action=Action.KEYS_CHANGE,
        body=Rotation,
        answer=NewKey,
        status=201,
        secret=True,
        atomic=False,
    ),
    Route(
        method="GET",
        path=_ACCOUNTS,
        name="listServiceAccounts",
        summary="Service accounts",
        tag="service accounts",
        handler=list_service_accounts,
        action=Action.KEYS_VIEW,
        query=PageQuery,
        answer=Page[ServiceAccount],
    ),
    Route(
        method="POST",
        path=_ACCOUNTS,
        name="createServiceAccount",
        summary="Make a service account",
        tag="service accounts",
        handler=create_service_account,
        action=Action.KEYS_CHANGE,
        body=ServiceAccountOrder,
        answer=ServiceAccount,
        status=201,
    ),
    Route(
        method="DELETE",
        path=_ACCOUNTS + "/{service_account_id}",
        name="disableServiceAccount",
        summary="End a service account and its keys",
        tag="service accounts",
        handler=disable_service_account,
        action=Action.KEYS_CHANGE,
        answer=ServiceAccount,
    ),
    Route(
        method="GET",
        path=_MANAGEMENT,
        name="listManagementKeys",
        summary="Keys that manage the organisation",
        tag="management keys",
        handler=list_management_keys,
        action=Action.MANAGEMENT_KEYS_CHANGE,
        query=PageQuery,
        answer=Page[ManagementKeyRow],
    ),
    Route(
        method="POST",
        path=_MANAGEMENT,
        name="createManagementKey",
        summary="Make a key that manages the organisation in a role",
        tag="management keys",
        handler=create_management_key,
        action=Action.MANAGEMENT_KEYS_CHANGE,
        body=ManagementKeyOrder,
        answer=NewManagementKey,
        status=201,
        secret=True,
    ),
    Route(
        method="DELETE",
        path=_MANAGEMENT + "/{key_id}",
        name="revokeManagementKey",
        summary="End a management key at once",
        tag="management keys",
        handler=revoke_management_key,
        action=Action.MANAGEMENT_KEYS_CHANGE,
        answer=ManagementKeyRow,
    ),
)
