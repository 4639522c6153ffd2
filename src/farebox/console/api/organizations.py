"""Organisations: listed, made with all that belongs to them, changed."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Amount,
    AmountIn,
    Instant,
    InvitationId,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    PlanId,
    ProjectId,
    page_by_id,
    read_id_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, RefusedError
from farebox.kit.ids import format_id, parse_id
from farebox.kit.money import parse_amount
from farebox.ledger.commands import SetFloor, SetZone
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.documents import document
from farebox.operations.people import MadeInvitation
from farebox.operations.provisioning import Order, provision
from farebox.operations.tenants import OrganizationChange, OrganizationProfile, Project
from farebox.tenancy.invitations import LASTS, LASTS_MAX
from farebox.tenancy.permissions import Action, Role


class Organization(Struct, frozen=True, kw_only=True):
    """The one that owns balance, keys, usage and credits."""

    object: Literal["organization"] = "organization"
    id: OrganizationId
    name: str
    currency: str
    zone: str
    active: bool
    billing_mode: str
    floor: Amount
    on_overrun: OnOverrun
    on_lapse: OnLapse
    plan_id: PlanId | None
    plan_name: str | None
    created_at: Instant
    role: Role | None = None
    """What whoever asks is in it; None for an operator who is no member."""


class OrganizationOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new organisation."""

    name: Name
    currency: Annotated[str, Meta(pattern="^[A-Za-z]{3}$")] = "USD"
    zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    on_overrun: OnOverrun = OnOverrun.ABSORB
    on_lapse: OnLapse = OnLapse.METERED
    plan_id: PlanId | None = None
    split: bool = False
    """Begin with the usual projects."""
    owner_email: Annotated[str, Meta(min_length=3, max_length=254)] | None = None
    """Invite its owner."""
    invitation_days: Annotated[int, Meta(ge=1, le=LASTS_MAX.days)] = LASTS.days


class NewOrganization(Struct, frozen=True, kw_only=True):
    """What was made."""

    organization: Organization
    projects: list[ProjectId]
    invitation_id: InvitationId | None
    invitation_token: str | None
    """Shown now and never again; whoever has it becomes the owner."""


class OrganizationPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed; what is left out stays."""

    name: Name | None = None
    zone: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    active: bool | None = None
    on_overrun: OnOverrun | None = None
    on_lapse: OnLapse | None = None


class Floor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far below zero an organisation may go."""

    floor: AmountIn


async def list_organizations(context: Context) -> Page[Organization]:
    """Those that whoever asks has to do with; an operator has with all."""
    query, standing = context.query_as(PageQuery), context.standing
    found = await context.session.tenants.organizations(
        among=None if standing.operator else standing.roles,
        after=read_id_cursor("org", query.cursor),
        limit=query.limit + 1,
    )
    return page_by_id(Organization, [_row(context, each) for each in found], query.limit)


async def create_organization(context: Context) -> NewOrganization:
    """Made whole or not at all: with its projects and its owner's invitation."""
    order, session = context.body_as(OrganizationOrder), context.session
    plan_id = None if order.plan_id is None else parse_id("plan", order.plan_id, field="plan_id")
    if order.owner_email is not None:
        wanted = Order(
            name=order.name,
            owner_email=order.owner_email,
            currency=order.currency,
            zone=order.zone,
            plan_id=plan_id,
            split=order.split,
            invitation_lasts=timedelta(days=order.invitation_days),
            organization_id=context.effect_id,
        )
        async with session.tenants.together():
            made = await provision(session.administration, session.people, wanted)
            profile = await _with_rules(context, order, made.organization)
        return _made(context, profile, made.projects, made.invitation)
    async with session.tenants.together():
        profile = await session.administration.create_organization(
            order.name,
            currency=order.currency,
            zone=order.zone,
            on_overrun=order.on_overrun,
            on_lapse=order.on_lapse,
            plan_id=plan_id,
            organization_id=context.effect_id,
        )
        split = await session.administration.create_split(profile.id) if order.split else []
    return _made(context, profile, split, None)


async def show_organization(context: Context) -> Organization:
    """One of them."""
    return shown(Organization, context.organization, of="org", role=_role(context))


async def change_organization(context: Context) -> Organization:
    """Name, whether it is active, who bears overruns; the zone is set before."""
    patch = context.body_as(OrganizationPatch)
    change = OrganizationChange(
        name=patch.name, active=patch.active, on_overrun=patch.on_overrun, on_lapse=patch.on_lapse
    )
    profile = await context.session.administration.change_organization(
        context.organization.id, change
    )
    return shown(Organization, profile, of="org", role=_role(context))


async def check_and_set_zone(context: Context) -> None:
    """Refuse what is the operator's to change; the engine sets the zone, in its own transaction.

    Set twice, it is set once: a request that is repeated after a failure does no harm.
    """
    patch = context.body_as(OrganizationPatch)
    reserved = (patch.active, patch.on_overrun, patch.on_lapse)
    if any(each is not None for each in reserved) and not context.standing.operator:
        raise RefusedError(
            "permission_denied",
            "active, on_overrun and on_lapse are the operator's to say: whether an organisation "
            "is served, and who pays for what no hold covered.",
        )
    if patch.zone is not None:
        organization = context.organization
        await context.session.submit(SetZone(organization_id=organization.id, zone=patch.zone))


async def set_floor(context: Context) -> Organization:
    """How far below zero holds may go; it is credit that nobody paid for."""
    floor = parse_amount(context.body_as(Floor).floor, field="floor")
    if floor < 0:
        raise InvalidInputError("floor", "must be zero or more: it is how far below zero")
    organization_id = context.organization.id
    await context.session.submit(SetFloor(organization_id=organization_id, floor=floor))
    found = await context.session.tenants.organizations(organization_id=organization_id, limit=1)
    return shown(Organization, found[0], of="org", role=_role(context))


async def _with_rules(
    context: Context, order: OrganizationOrder, profile: OrganizationProfile
) -> OrganizationProfile:
    if (order.on_overrun, order.on_lapse) == (profile.on_overrun, profile.on_lapse):
        return profile
    change = OrganizationChange(on_overrun=order.on_overrun, on_lapse=order.on_lapse)
    return await context.session.administration.change_organization(profile.id, change)


def _made(
    context: Context,
    profile: OrganizationProfile,
    projects: list[Project],
    invitation: MadeInvitation | None,
) -> NewOrganization:
    return NewOrganization(
        organization=shown(
            Organization, profile, of="org", role=context.standing.role_in(profile.id)
        ),
        projects=[format_id("proj", each.id) for each in projects],
        invitation_id=None if invitation is None else format_id("inv", invitation.invitation.id),
        invitation_token=None if invitation is None else invitation.token,
    )


def _row(context: Context, profile: OrganizationProfile) -> dict[str, object]:
    return document(profile, of="org") | {"role": context.standing.role_in(profile.id)}


def _role(context: Context) -> Role | None:
    return context.standing.role_in(context.organization.id)


_ONE: Final = "/organizations/{organization_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/organizations",
        name="listOrganizations",
        summary="Organisations that you have to do with",
        tag="organizations",
        handler=list_organizations,
        query=PageQuery,
        answer=Page[Organization],
    ),
    Route(
        method="POST",
        path="/organizations",
        name="createOrganization",
        summary="Make an organisation, and invite its owner",
        tag="organizations",
        handler=create_organization,
        action=Action.ORGANIZATION_CREATE,
        body=OrganizationOrder,
        answer=NewOrganization,
        status=201,
        refusals=(404,),
        secret=True,
    ),
    Route(
        method="GET",
        path=_ONE,
        name="showOrganization",
        summary="An organisation",
        tag="organizations",
        handler=show_organization,
        action=Action.ORGANIZATION_VIEW,
        answer=Organization,
    ),
    Route(
        method="PATCH",
        path=_ONE,
        name="changeOrganization",
        summary="Change an organisation",
        tag="organizations",
        prepare=check_and_set_zone,
        handler=change_organization,
        action=Action.ORGANIZATION_CHANGE,
        body=OrganizationPatch,
        answer=Organization,
    ),
    Route(
        method="PUT",
        path=f"{_ONE}/floor",
        name="setFloor",
        summary="Set how far below zero an organisation may go",
        tag="organizations",
        handler=set_floor,
        action=Action.CREDIT_GRANT,
        body=Floor,
        answer=Organization,
        atomic=False,
    ),
)
