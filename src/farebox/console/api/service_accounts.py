"""Service accounts: programs that own keys, which outlive whoever made them (ORG-18)."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from farebox.console.api.fields import (
    Instant,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    ProjectId,
    ServiceAccountId,
    Text,
    page_by_id,
    read_id_cursor,
    shown,
)
from farebox.console.api.projects import find_open_project
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import NotFoundError
from farebox.operations import tenants
from farebox.operations.documents import document
from farebox.tenancy.permissions import Action


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


async def list_service_accounts(context: Context) -> Page[ServiceAccount]:
    """Service accounts, disabled ones too."""
    query = context.query_as(PageQuery)
    found = await context.session.tenants.service_accounts(
        organization_id=context.organization.id,
        after=read_id_cursor("svc", query.cursor),
        limit=query.limit + 1,
    )
    rows = [document(account, of="svc") for account in found]
    return page_by_id(ServiceAccount, rows, query.limit)


async def show_service_account(context: Context) -> ServiceAccount:
    """One of them."""
    return shown(ServiceAccount, await _find_account(context), of="svc")


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


async def _find_account(context: Context) -> tenants.ServiceAccount:
    found = await context.session.tenants.service_accounts(
        account_id=context.ids["service_account_id"],
        organization_id=context.organization.id,
        limit=1,
    )
    if not found:
        raise NotFoundError("There is no such service account.")
    return found[0]


_ACCOUNTS: Final = "/organizations/{organization_id}/service-accounts"
_ACCOUNT: Final = _ACCOUNTS + "/{service_account_id}"

ROUTES: Final = (
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
        method="GET",
        path=_ACCOUNT,
        name="showServiceAccount",
        summary="A service account",
        tag="service accounts",
        handler=show_service_account,
        action=Action.KEYS_VIEW,
        answer=ServiceAccount,
    ),
    Route(
        method="DELETE",
        path=_ACCOUNT,
        name="disableServiceAccount",
        summary="End a service account and its keys",
        tag="service accounts",
        handler=disable_service_account,
        action=Action.KEYS_CHANGE,
        answer=ServiceAccount,
    ),
)
