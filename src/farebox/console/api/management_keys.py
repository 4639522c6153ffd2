"""Keys that manage an organisation: keys of this API, each with one role; none calls a model."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from farebox.console.api.fields import (
    Instant,
    InstantIn,
    KeyId,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    UserId,
    page_by_id,
    read_id_cursor,
    read_instant,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import NotFoundError
from farebox.operations.documents import document
from farebox.operations.tenants import ManagementKey
from farebox.tenancy.permissions import Action, Role


class ManagementKeyRow(Struct, frozen=True, kw_only=True):
    """A key of this API; it never calls a model."""

    object: Literal["management_key"] = "management_key"
    id: KeyId
    name: str
    prefix: str
    organization_id: OrganizationId | None
    role: Role | None
    user_id: UserId | None
    """Who made it, or made the key that made it: it opens no more than they may, and is revoked
    when they may less. Null for one that was made at a shell."""
    user_email: str | None
    state: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class NewManagementKey(ManagementKeyRow, frozen=True, kw_only=True):
    """One as it was made."""

    key: str
    """Its text: shown now and never again."""


class ManagementKeyOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new management key of the organisation.

    Made with a key that ends, it ends no later: without expires_at at the same instant, which the
    answer tells; a later one is refused.
    """

    name: Name
    role: Role
    expires_at: InstantIn | None = None


async def list_management_keys(context: Context) -> Page[ManagementKeyRow]:
    """Keys that manage this organisation."""
    query, session = context.query_as(PageQuery), context.session
    found = await session.tenants.management_keys(
        organization_id=context.organization.id,
        after=read_id_cursor("key", query.cursor),
        limit=query.limit + 1,
    )
    now = await session.now()
    rows = [_management_row(key, now) for key in found]
    return page_by_id(ManagementKeyRow, rows, query.limit)


async def show_management_key(context: Context) -> ManagementKeyRow:
    """One of them."""
    row = _management_row(await _find(context), await context.session.now())
    return msgspec.convert(row, ManagementKeyRow)


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
    key = await _find(context)
    await context.session.administration.revoke_management_key(key.id)
    return await show_management_key(context)


async def _find(context: Context) -> ManagementKey:
    found = await context.session.tenants.management_keys(
        key_id=context.ids["key_id"], organization_id=context.organization.id, limit=1
    )
    if not found:
        raise NotFoundError("There is no such management key.")
    return found[0]


def _management_row(key: ManagementKey, now: datetime) -> dict[str, Any]:
    return document(key, of="key") | {"state": key.state_at(now).value}


_MANAGEMENT: Final = "/organizations/{organization_id}/management-keys"
_ONE: Final = _MANAGEMENT + "/{key_id}"

ROUTES: Final = (
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
        method="GET",
        path=_ONE,
        name="showManagementKey",
        summary="A key that manages the organisation",
        tag="management keys",
        handler=show_management_key,
        action=Action.MANAGEMENT_KEYS_CHANGE,
        answer=ManagementKeyRow,
    ),
    Route(
        method="DELETE",
        path=_ONE,
        name="revokeManagementKey",
        summary="End a management key at once",
        tag="management keys",
        handler=revoke_management_key,
        action=Action.MANAGEMENT_KEYS_CHANGE,
        answer=ManagementKeyRow,
    ),
)
