"""Usage and trust tiers: the table, and where an organisation stands in it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Amount,
    AmountIn,
    Instant,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    TierId,
    page_of,
    read_number_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError
from farebox.kit.money import ZERO, Nanos, parse_amount
from farebox.operations.administration import parse_currency
from farebox.operations.documents import document
from farebox.tenancy import tiers
from farebox.tenancy.permissions import Action

Bound = Annotated[int, Meta(ge=0, le=10**15)]


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a model family in a minute or a UTC day; null sets no bound."""

    models: Annotated[str, Meta(min_length=1, max_length=256)]
    calls_per_minute: Bound | None = None
    tokens_per_minute: Bound | None = None
    calls_per_day: Bound | None = None
    tokens_per_day: Bound | None = None


class Tier(Struct, frozen=True, kw_only=True):
    """What a tier needs and what it allows."""

    object: Literal["tier"] = "tier"
    id: TierId
    currency: str
    position: int
    name: str
    purchases: Amount
    """Credit bought in all that it needs."""
    age_days: int
    monthly_maximum: Amount | None
    balance_maximum: Amount | None
    recharge_maximum: Amount | None
    rates: list[Rate]


class ChangedTier(Tier, frozen=True, kw_only=True):
    """One as it was set."""

    all_follow: bool
    """Whether every organisation has the limits already; else the worker gives them theirs, some
    two thousand a minute."""


class TierOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tier as it is to be."""

    position: Annotated[int, Meta(ge=0, le=1000)]
    purchases: AmountIn = "0"
    age_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    monthly_maximum: AmountIn | None = None
    balance_maximum: AmountIn | None = None
    recharge_maximum: AmountIn | None = None
    rates: Annotated[list[Rate], Meta(max_length=50)] = []


class Next(Struct, frozen=True, kw_only=True):
    """What is still needed for the next tier."""

    name: str
    purchases_missing: Amount
    old_enough_at: Instant | None


class Standing(Struct, frozen=True, kw_only=True):
    """Where an organisation stands."""

    object: Literal["tier_standing"] = "tier_standing"
    organization_id: OrganizationId
    currency: str
    tier: Tier | None
    fixed: bool
    """Given by hand: the rule does not move it."""
    purchased: Amount
    next: Next | None
    balance: Amount
    purchase_room: Amount | None
    recharge_room: Amount | None


class Choice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tier; null: the one that the rule says."""

    tier: Name | None


async def list_tiers(context: Context) -> Page[Tier]:
    """The table, by currency and position."""
    query = context.query_as(PageQuery)
    skipped = read_number_cursor(query.cursor) or 0
    found = (await context.session.tier_store.tiers())[skipped : skipped + query.limit + 1]
    rows = [document(tier, of="tier") for tier in found]
    return page_of(Tier, rows, query.limit, [skipped + query.limit] * len(rows))


async def set_tier(context: Context) -> ChangedTier:
    """Add a tier, or change the one of that name; organisations in it follow."""
    order = context.body_as(TierOrder)

    def bound(name: str) -> Nanos | None:
        text = getattr(order, name)
        return None if text is None else parse_amount(text, field=name)

    wanted = tiers.Tier(
        id=context.effect_id,
        currency=parse_currency(context.texts["currency"]),
        position=order.position,
        name=context.texts["tier_name"],
        purchases=bound("purchases") or ZERO,
        age_days=order.age_days,
        monthly_maximum=bound("monthly_maximum"),
        balance_maximum=bound("balance_maximum"),
        recharge_maximum=bound("recharge_maximum"),
        rates=tuple(
            tiers.TierRate(
                models=rate.models,
                calls_per_minute=rate.calls_per_minute,
                tokens_per_minute=rate.tokens_per_minute,
                calls_per_day=rate.calls_per_day,
                tokens_per_day=rate.tokens_per_day,
            )
            for rate in order.rates
        ),
    )
    put = await context.session.tiers.set_tier(wanted)
    return shown(ChangedTier, put.tier, of="tier", all_follow=put.all_follow)


async def remove_tier(context: Context) -> None:
    """Take a tier out of the table; nobody may stand in it."""
    session, texts = context.session, context.texts
    tier = await session.tiers.find_tier(texts["tier_name"], _currency(texts["currency"]))
    await session.tier_store.remove_tier(tier.id)


async def show_standing(context: Context) -> Standing:
    """Where an organisation stands, and what leads further."""
    found = await context.session.tiers.show(context.organization.id)
    return shown(Standing, found, of="tier")


async def choose_tier(context: Context) -> Standing:
    """Give an organisation a tier for good, or let the rule say."""
    name, session = context.body_as(Choice).tier, context.session
    tier = None
    if name is not None:
        tier = await session.tiers.find_tier(name, context.organization.currency)
    return shown(Standing, await session.tiers.assign(context.organization.id, tier), of="tier")


def _currency(text: str) -> str:
    try:
        return parse_currency(text)
    except InvalidInputError:
        return text[:3]


_TIERS: Final = "/tiers"
_TIER: Final = "/tiers/{currency}/{tier_name}"
_STANDING: Final = "/organizations/{organization_id}/tier"

ROUTES: Final = (
    Route(
        method="GET",
        path=_TIERS,
        name="listTiers",
        summary="Tiers by currency and position",
        tag="tiers",
        handler=list_tiers,
        action=Action.DEPLOYMENT_VIEW,
        query=PageQuery,
        answer=Page[Tier],
    ),
    Route(
        method="PUT",
        path=_TIER,
        name="setTier",
        summary="Add or change a tier; many organisations follow in the background",
        tag="tiers",
        handler=set_tier,
        action=Action.DEPLOYMENT_CHANGE,
        body=TierOrder,
        answer=ChangedTier,
        atomic=False,
    ),
    Route(
        method="DELETE",
        path=_TIER,
        name="removeTier",
        summary="Take a tier out of the table",
        tag="tiers",
        handler=remove_tier,
        action=Action.DEPLOYMENT_CHANGE,
        status=204,
    ),
    Route(
        method="GET",
        path=_STANDING,
        name="showTierStanding",
        summary="Where an organisation stands, and what leads further",
        tag="tiers",
        handler=show_standing,
        action=Action.BALANCE_VIEW,
        answer=Standing,
    ),
    Route(
        method="PUT",
        path=_STANDING,
        name="chooseTier",
        summary="Give an organisation a tier",
        tag="tiers",
        handler=choose_tier,
        action=Action.TIER_CHANGE,
        body=Choice,
        answer=Standing,
        atomic=False,
    ),
)
