"""What is on sale: prices of the book and as a plan makes them, and the providers behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    AccountId,
    Amount,
    AmountIn,
    Cursor,
    Instant,
    InstantIn,
    Limit,
    Name,
    Page,
    PageQuery,
    PriceId,
    ProviderId,
    Text,
    page_of,
    read_cursor,
    read_instant,
    read_number_cursor,
    write_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import format_amount, parse_amount
from farebox.operations.administration import parse_currency
from farebox.operations.api_ports import ProviderOrder
from farebox.operations.catalogue_import import OPERATOR
from farebox.operations.documents import instant
from farebox.rating.price_book import PRICE_NANOS_MAX, PriceVersion
from farebox.rating.price_plans import plan_in_force, planned_version
from farebox.rating.units import Lane, Unit
from farebox.tenancy.names import parse_identifier, parse_name
from farebox.tenancy.permissions import Action

Prices = dict[Unit, Amount]
"""Unit -> price of a million, in the currency's major unit."""

Secret = Annotated[str, Meta(min_length=1, max_length=8192, pattern="^[!-~]+$")]


class Price(Struct, frozen=True, kw_only=True):
    """A dated row of prices; never edited."""

    object: Literal["price"] = "price"
    id: PriceId
    provider: str
    model: str
    lane: Lane
    currency: str
    effective_at: Instant
    source: str
    prices: Prices
    long_context_over: int | None
    long_context_prices: Prices


class PriceOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price by hand, from now or a later instant on."""

    provider: Name
    """The price list."""
    model: Name
    lane: Lane = Lane.STANDARD
    currency: Annotated[str, Meta(pattern="^[A-Za-z]{3}$")] = "USD"
    effective_at: InstantIn | None = None
    prices: dict[Unit, AmountIn]
    """Of a million units; input and output are needed."""
    context_window: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    output_max: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    confirm: bool = False
    """It is meant to be a hundred times the price in force, or a hundredth."""


class PriceQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which prices."""

    provider: Text | None = None
    model: Text | None = None
    lane: Lane | None = None
    every_version: bool = False
    """Past and coming ones too."""
    limit: Limit = 50
    cursor: Cursor | None = None


class Provider(Struct, frozen=True, kw_only=True):
    """Where calls are sent to; its key is never shown."""

    object: Literal["provider"] = "provider"
    id: ProviderId
    name: str
    kind: str
    price_list: str
    base_url: str
    api_version: str | None
    account_id: AccountId
    account: str
    has_key: bool
    created_at: Instant


class ProviderOrderBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider to add."""

    name: Name
    kind: Literal["openai", "azure"] = "openai"
    base_url: Annotated[str, Meta(min_length=1, max_length=2048)]
    price_list: Name | None = None
    api_version: Annotated[str, Meta(max_length=64, pattern="^[A-Za-z0-9.-]+$")] | None = None
    account: Name | None = None
    api_key: Secret | None = None
    """Stored encrypted; never shown again."""


async def list_prices(context: Context) -> Page[Price]:
    """The book's rows."""
    now = await context.session.now()
    book = await context.session.catalogue.price_book()
    return _page(context, book.versions(), now)


async def list_own_prices(context: Context) -> Page[Price]:
    """What calls cost the organisation: the book's rows in its currency, as its plan rates them."""
    session, profile = context.session, context.organization
    now = await session.now()
    book = await session.catalogue.price_book()
    plan = None
    if profile.plan_id is not None:
        plan = plan_in_force(await session.plan_store.versions(profile.plan_id), now)
    mine = (planned_version(v, plan) for v in book.versions() if v.currency == profile.currency)
    return _page(context, mine, now)


async def set_price(context: Context) -> Price:
    """Set a price from now on; what was charged stays as it was."""
    order, session = context.body_as(PriceOrder), context.session
    now = await session.now()
    effective_at = read_instant(order.effective_at, field="effective_at") or now
    if effective_at < now:
        raise InvalidInputError(
            "effective_at", "must not lie in the past: what was charged stays as it was"
        )
    for needed in (Unit.INPUT, Unit.OUTPUT):
        if needed not in order.prices:
            raise InvalidInputError(f"prices.{needed.value}", "is required")
    version = PriceVersion(
        id=context.effect_id,
        provider=parse_identifier(order.provider, field="provider"),
        model=parse_name(order.model, field="model"),
        lane=order.lane,
        currency=parse_currency(order.currency),
        effective_at=effective_at,
        source=OPERATOR,
        long_context_over=None,
        base=read_prices(order.prices, field="prices"),
    )
    made, _ = await session.catalogue.set_price(
        version,
        context_window=order.context_window,
        output_max=order.output_max,
        confirmed=order.confirm,
    )
    return _price(made)


async def list_providers(context: Context) -> Page[Provider]:
    """In the order of preference."""
    query = context.query_as(PageQuery)
    skipped = read_number_cursor(query.cursor) or 0
    rows = (await context.session.catalogue.providers())[skipped : skipped + query.limit + 1]
    return page_of(Provider, rows, query.limit, [skipped + query.limit] * len(rows))


async def show_provider(context: Context) -> dict[str, Any]:
    """One of them."""
    wanted = format_id("prov", context.ids["provider_id"])
    for each in await context.session.catalogue.providers():
        if each["id"] == wanted:
            return each
    raise NotFoundError("There is no such provider.")


async def add_provider(context: Context) -> dict[str, Any]:
    """Add one; its key is stored encrypted."""
    body = context.body_as(ProviderOrderBody)
    return await context.session.catalogue.add_provider(
        ProviderOrder(
            name=body.name,
            kind=body.kind,
            base_url=body.base_url,
            price_list=body.price_list,
            api_version=body.api_version,
            account=body.account,
            secret=body.api_key,
        )
    )


async def remove_provider(context: Context) -> None:
    """Take one out of service and forget its key."""
    await context.session.catalogue.remove_provider(context.ids["provider_id"])


def read_prices(prices: Mapping[Unit, str], *, field: str) -> tuple[tuple[Unit, int], ...]:
    """Prices of a body, in the order of units.

    Raises:
        InvalidInputError: Naming the unit.
    """
    found = []
    for unit in Unit:
        if unit in prices:
            name = f"{field}.{unit.value}"
            price = parse_amount(prices[unit], field=name)
            if not 0 <= price <= PRICE_NANOS_MAX:
                raise InvalidInputError(name, "must be zero or more, and at most a million")
            found.append((unit, int(price)))
    return tuple(found)


def show_prices(table: Iterable[tuple[Unit, int]]) -> Prices:
    """Prices as documents show them."""
    return {unit: format_amount(price) for unit, price in table}


def _page(context: Context, versions: Iterable[PriceVersion], now: datetime) -> Page[Price]:
    query = context.query_as(PriceQuery)
    rows: dict[str, PriceVersion] = {}
    for version in versions:
        if query.every_version:
            rows[f"{_key(version)}\n{instant(version.effective_at)}\n{version.id.hex}"] = version
        elif version.effective_at <= now:
            standing = rows.get(_key(version))
            if standing is None or standing.effective_at <= version.effective_at:
                rows[_key(version)] = version
    place = read_cursor(query.cursor)
    wanted = sorted(
        name
        for name, version in rows.items()
        if (place is None or name > place) and _is_meant(version, query)
    )[: query.limit + 1]
    more = len(wanted) > query.limit
    return Page(
        data=[_price(rows[name]) for name in wanted[: query.limit]],
        next_cursor=write_cursor(wanted[query.limit - 1]) if more else None,
    )


def _key(version: PriceVersion) -> str:
    return f"{version.provider}\n{version.model}\n{version.lane.value}\n{version.currency}"


def _is_meant(version: PriceVersion, query: PriceQuery) -> bool:
    return (
        (query.provider is None or version.provider == query.provider)
        and (query.model is None or version.model == query.model)
        and (query.lane is None or version.lane is query.lane)
    )


def _price(version: PriceVersion) -> Price:
    return Price(
        id=format_id("price", version.id),
        provider=version.provider,
        model=version.model,
        lane=version.lane,
        currency=version.currency,
        effective_at=str(instant(version.effective_at)),
        source=version.source,
        prices=show_prices(version.base),
        long_context_over=version.long_context_over,
        long_context_prices=show_prices(version.long),
    )


_PROVIDERS: Final = "/providers"
_PROVIDER: Final = _PROVIDERS + "/{provider_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/prices",
        name="listPrices",
        summary="Prices of the book",
        tag="prices",
        handler=list_prices,
        action=Action.DEPLOYMENT_VIEW,
        query=PriceQuery,
        answer=Page[Price],
    ),
    Route(
        method="POST",
        path="/prices",
        name="setPrice",
        summary="Set a price by hand",
        tag="prices",
        handler=set_price,
        action=Action.DEPLOYMENT_CHANGE,
        body=PriceOrder,
        answer=Price,
        status=201,
    ),
    Route(
        method="GET",
        path="/organizations/{organization_id}/prices",
        name="listOwnPrices",
        summary="What calls cost the organisation",
        tag="prices",
        handler=list_own_prices,
        action=Action.PRICES_VIEW,
        query=PriceQuery,
        answer=Page[Price],
    ),
    Route(
        method="GET",
        path=_PROVIDERS,
        name="listProviders",
        summary="Providers",
        tag="providers",
        handler=list_providers,
        action=Action.DEPLOYMENT_VIEW,
        query=PageQuery,
        answer=Page[Provider],
    ),
    Route(
        method="POST",
        path=_PROVIDERS,
        name="addProvider",
        summary="Add a provider",
        tag="providers",
        handler=add_provider,
        action=Action.DEPLOYMENT_CHANGE,
        body=ProviderOrderBody,
        answer=Provider,
        status=201,
    ),
    Route(
        method="GET",
        path=_PROVIDER,
        name="showProvider",
        summary="A provider; its key is never shown",
        tag="providers",
        handler=show_provider,
        action=Action.DEPLOYMENT_VIEW,
        answer=Provider,
    ),
    Route(
        method="DELETE",
        path=_PROVIDER,
        name="removeProvider",
        summary="Take a provider out of service",
        tag="providers",
        handler=remove_provider,
        action=Action.DEPLOYMENT_CHANGE,
        status=204,
    ),
)
