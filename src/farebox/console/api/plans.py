"""Price plans: listed, revised by new versions, given to organisations."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct

from farebox.console.api.catalogue import Prices, read_prices, show_prices
from farebox.console.api.fields import (
    AmountIn,
    Instant,
    InstantIn,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    PlanId,
    read_cursor,
    read_instant,
    write_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import format_id, parse_id
from farebox.operations import price_plans
from farebox.operations.documents import instant
from farebox.rating.price_plans import (
    FREE_MODELS_MAX,
    MARGIN_MAX,
    MARKUP_MAX,
    MARKUP_MIN,
    OWN_ROWS_MAX,
    OwnRow,
    PlanTerms,
    PlanVersion,
)
from farebox.rating.units import Lane, Unit
from farebox.tenancy.permissions import Action

Pattern = Annotated[str, Meta(min_length=1, max_length=256)]


class OwnPrices(Struct, frozen=True, kw_only=True):
    """Prices of the plan's own for a model or a family."""

    models: str
    lane: Lane
    prices: Prices
    long_context_prices: Prices


class OwnPricesOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same as it is to be."""

    models: Pattern
    lane: Lane = Lane.STANDARD
    prices: dict[Unit, AmountIn]
    long_context_prices: dict[Unit, AmountIn] = {}


class Version(Struct, frozen=True, kw_only=True):
    """What a plan says from an instant on; never edited."""

    number: int
    effective_at: Instant
    markup_basis_points: int
    """On top of the book's price, in 1/100 %; less than zero is a discount."""
    minimum_margin_basis_points: int | None
    """The share of the price that must remain after our cost; null sets none."""
    own_prices: list[OwnPrices]
    free_models: list[str]


class Plan(Struct, frozen=True, kw_only=True):
    """A price plan with what it says now."""

    object: Literal["price_plan"] = "price_plan"
    id: PlanId
    name: str
    created_at: Instant
    versions: int
    organizations: int
    version: Version | None
    """In force; null before the first begins."""


class PlanOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan, or the next version of the plan of that name; nothing is taken over."""

    name: Name
    effective_at: InstantIn | None = None
    markup_basis_points: Annotated[int, Meta(ge=MARKUP_MIN, le=MARKUP_MAX)] = 0
    minimum_margin_basis_points: Annotated[int, Meta(ge=0, le=MARGIN_MAX)] | None = None
    own_prices: Annotated[list[OwnPricesOrder], Meta(max_length=OWN_ROWS_MAX)] = []
    free_models: Annotated[list[Pattern], Meta(max_length=FREE_MODELS_MAX)] = []


class PlanChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which plan rates an organisation; null passes prices through."""

    plan_id: PlanId | None


class PlanOf(Struct, frozen=True, kw_only=True):
    """Which plan rates an organisation."""

    object: Literal["organization_plan"] = "organization_plan"
    organization_id: OrganizationId
    plan_id: PlanId | None
    plan_name: str | None


async def list_plans(context: Context) -> Page[Plan]:
    """In the order of their making."""
    query = context.query_as(PageQuery)
    place = read_cursor(query.cursor)
    found = await context.session.plan_store.plans(
        after=None if place is None else parse_id("plan", place, field="cursor"),
        limit=query.limit + 1,
    )
    last = format_id("plan", found[query.limit - 1].id) if len(found) > query.limit else None
    return Page(
        data=[_plan(plan) for plan in found[: query.limit]],
        next_cursor=None if last is None else write_cursor(last),
    )


async def show_plan(context: Context) -> Plan:
    """One plan."""
    return _plan(await _find(context, context.ids["plan_id"]))


async def list_versions(context: Context) -> Page[Version]:
    """All versions of a plan, the oldest first."""
    plan = await _find(context, context.ids["plan_id"])
    versions = await context.session.plan_store.versions(plan.id)
    return Page(data=[_version(version) for version in versions], next_cursor=None)


async def revise_plan(context: Context) -> Plan:
    """Make a plan, or its next version."""
    order = context.body_as(PlanOrder)
    terms = PlanTerms(
        markup=order.markup_basis_points,
        minimum_margin=order.minimum_margin_basis_points,
        own_rows=tuple(
            OwnRow(
                models=row.models,
                lane=row.lane,
                base=read_prices(row.prices, field="prices"),
                long=read_prices(row.long_context_prices, field="long_context_prices"),
            )
            for row in order.own_prices
        ),
        free_models=tuple(order.free_models),
    )
    version = await context.session.plans.revise(
        order.name, terms, effective_at=read_instant(order.effective_at, field="effective_at")
    )
    return _plan(await _find(context, version.plan_id))


async def choose_plan(context: Context) -> PlanOf:
    """Rate an organisation's calls by a plan from now on."""
    choice, session = context.body_as(PlanChoice), context.session
    plan_id = None if choice.plan_id is None else parse_id("plan", choice.plan_id, field="plan_id")
    await session.plans.assign(context.organization.id, plan_id)
    (profile,) = await session.tenants.organizations(
        organization_id=context.organization.id, limit=1
    )
    return PlanOf(
        organization_id=format_id("org", profile.id),
        plan_id=None if profile.plan_id is None else format_id("plan", profile.plan_id),
        plan_name=profile.plan_name,
    )


async def _find(context: Context, plan_id: UUID) -> price_plans.Plan:
    found = await context.session.plan_store.plans(plan_id=plan_id, limit=1)
    if not found:
        raise NotFoundError("There is no such price plan.")
    return found[0]


def _plan(plan: price_plans.Plan) -> Plan:
    return Plan(
        id=format_id("plan", plan.id),
        name=plan.name,
        created_at=str(instant(plan.created_at)),
        versions=plan.versions,
        organizations=plan.organizations,
        version=None if plan.version is None else _version(plan.version),
    )


def _version(version: PlanVersion) -> Version:
    terms = version.terms
    return Version(
        number=version.number,
        effective_at=str(instant(version.effective_at)),
        markup_basis_points=terms.markup,
        minimum_margin_basis_points=terms.minimum_margin,
        own_prices=[
            OwnPrices(
                models=row.models,
                lane=row.lane,
                prices=show_prices(row.base),
                long_context_prices=show_prices(row.long),
            )
            for row in terms.own_rows
        ],
        free_models=list(terms.free_models),
    )


_PLANS: Final = "/price-plans"

ROUTES: Final = (
    Route(
        method="GET",
        path=_PLANS,
        name="listPlans",
        summary="Price plans",
        tag="price plans",
        handler=list_plans,
        action=Action.DEPLOYMENT_VIEW,
        query=PageQuery,
        answer=Page[Plan],
    ),
    Route(
        method="POST",
        path=_PLANS,
        name="revisePlan",
        summary="Make a price plan, or its next version",
        tag="price plans",
        handler=revise_plan,
        action=Action.PLAN_CHANGE,
        body=PlanOrder,
        answer=Plan,
        status=201,
    ),
    Route(
        method="GET",
        path=_PLANS + "/{plan_id}",
        name="showPlan",
        summary="A price plan",
        tag="price plans",
        handler=show_plan,
        action=Action.DEPLOYMENT_VIEW,
        answer=Plan,
    ),
    Route(
        method="GET",
        path=_PLANS + "/{plan_id}/versions",
        name="listPlanVersions",
        summary="All versions of a price plan",
        tag="price plans",
        handler=list_versions,
        action=Action.DEPLOYMENT_VIEW,
        answer=Page[Version],
    ),
    Route(
        method="PUT",
        path="/organizations/{organization_id}/price-plan",
        name="choosePlan",
        summary="Rate an organisation by a price plan",
        tag="price plans",
        handler=choose_plan,
        action=Action.PLAN_CHANGE,
        body=PlanChoice,
        answer=PlanOf,
    ),
)
