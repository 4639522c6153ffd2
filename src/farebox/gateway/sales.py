"""What is on sale: the catalogue at the gateway, and the offer that fits a request.

The catalogue is read again as soon as its revision grows; an admission that was rated with an older
one is refused by the engine and rated anew, so an old price is never charged after a change has
committed. The time by which a price version is chosen is the database's, carried forward by a
monotonic clock between readings a second apart.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog
from msgspec import structs

from farebox.gateway.openai_errors import (
    GatewayError,
    invalid_request,
    unknown_model,
    unpriced_lane,
)
from farebox.kit.errors import UnavailableError
from farebox.operations.directory import Catalogue, Directory, ProviderOnSale
from farebox.operations.upstream import Upstream
from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.rating.price_plans import PlanVersion, plan_in_force, planned_version
from farebox.rating.units import Lane, UnpricedError, allowed_lanes

REFRESH_SECONDS: Final = 1.0

KEPT_MAX: Final = 1_000
"""Offers that are kept; a pattern may price names without end."""

_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)

logger: Final = structlog.get_logger("farebox.gateway")


class Offer(msgspec.Struct, frozen=True):
    """A model at a provider, with the prices that a request may be charged."""

    provider: ProviderOnSale
    upstream: Upstream
    model: str
    """The name that goes upstream: as the client wrote it, without the provider's prefix."""
    facts: ModelFacts
    versions: tuple[PriceVersion, ...]
    """Of every lane that the request allows, the one asked for first."""
    books: tuple[PriceVersion, ...]
    """The book's rows of those versions: what the call costs us."""
    plan: PlanVersion | None
    """The organisation's price plan, as it is in force at that instant."""
    names_tier: bool
    """Whether the standard tier must be asked for: the model has other lanes to be served in."""
    at: datetime
    """An instant whose prices these are: between it and the admission none began."""
    revision: int


class Sales:
    """The catalogue, kept fresh."""

    def __init__(
        self,
        directory: Directory,
        *,
        monotonic: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with nothing.

        Args:
            directory: Reads the catalogue.
            monotonic: Measures time between readings.
            on_change: Called when prices, plans or what is kept with keys has changed.
        """
        self._directory = directory
        self._monotonic = monotonic
        self._on_change = on_change
        self._directory_revision = 0
        self._planned: set[UUID] = set()
        self._planned_new: dict[UUID, tuple[UUID, UUID, UUID]] = {}
        self._catalogue: Catalogue | None = None
        self._changes: list[datetime] = []
        """When any price of the catalogue begins, in order."""
        self._kept: dict[tuple[str, str | None, str, UUID | None], Offer] = {}
        """Offers made since a price began; the same request is offered the same."""
        self._kept_from, self._kept_until = _NEVER, _NEVER
        self._upstreams: dict[UUID, Upstream] = {}
        self._read: tuple[datetime, float] | None = None
        self._task: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Load the catalogue and begin to watch it.

        Raises:
            UnavailableError: The database is away.
        """
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def aclose(self) -> None:
        """Stop watching and close the upstreams."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for upstream in self._upstreams.values():
            await upstream.aclose()

    @property
    def now(self) -> datetime:
        """Engine time, as far as it is known here."""
        assert self._read is not None
        at, read = self._read
        return at + timedelta(seconds=self._monotonic() - read)

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue as last read."""
        assert self._catalogue is not None
        return self._catalogue

    async def refresh(self) -> None:
        """Read the revision, and the catalogue if it grew.

        Raises:
            UnavailableError: The database is away.
        """
        async with self._loading:
            revision, now, directory_revision = await self._directory.catalogue_now()
            self._read = (now, self._monotonic())
            stale = self._catalogue is None or self._catalogue.revision != revision
            if stale or directory_revision != self._directory_revision:
                self._directory_revision = directory_revision
                self._on_change()
            if stale:
                catalogue, upstreams = await self._directory.load_catalogue()
                self._catalogue = catalogue
                changes = {v.effective_at for v in catalogue.prices.versions()}
                changes |= {v.effective_at for plan in catalogue.plans.values() for v in plan}
                self._changes = sorted(changes)
                self._kept_until = self._kept_from
                # Running calls keep the upstream they began with; it closes when they end.
                self._upstreams = upstreams

    def models(self) -> list[tuple[str, str]]:
        """Every model that can be called by its plain name, with its provider's name."""
        found: dict[str, str] = {}
        for provider in self.catalogue.providers:
            for model in self.catalogue.prices.models(provider.price_list):
                lanes = self.catalogue.prices.lanes(provider.price_list, model)
                if Lane.STANDARD in lanes:
                    found.setdefault(model, provider.name)
        return sorted(found.items())

    def offer(
        self, model: str, *, service_tier: str | None, currency: str, plan_id: UUID | None = None
    ) -> Offer:
        """The offer for a request, at the prices of the organisation's plan.

        Raises:
            GatewayError: 404 for an unknown model, 400 for a tier that has no price.
        """
        now = self.now
        if not self._kept_from <= now < self._kept_until:
            self._forget(now)
        key = (model, service_tier, currency, plan_id)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._made(model, service_tier, currency, now)
            if plan_id is not None:
                kept = self._under_plan(kept, plan_id, now)
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[key] = kept
        return kept

    def _forget(self, now: datetime) -> None:
        """Make offers anew: another price has begun, or there is another catalogue."""
        self._kept.clear()
        place = bisect_right(self._changes, now)
        self._kept_from = self._changes[place - 1] if place else _NEVER
        self._kept_until = self._changes[place] if place < len(self._changes) else _FOREVER

    def _made(self, model: str, service_tier: str | None, currency: str, now: datetime) -> Offer:
        try:
            lanes = allowed_lanes(service_tier)
        except UnpricedError as error:
            raise invalid_request(error.message, param="service_tier") from error
        refusal: GatewayError | None = None
        for provider, name in self._candidates(model):
            try:
                return self._offer(provider, name, lanes, service_tier, currency, now)
            except UnpricedError as error:
                if error.reason == "unpriced_lane":
                    refusal = unpriced_lane(error.message, named=service_tier is not None)
        raise refusal or unknown_model(model)

    def _candidates(self, model: str) -> list[tuple[ProviderOnSale, str]]:
        """Providers to look at: the one that a prefix names, else all in order."""
        prefix, separator, rest = model.partition("/")
        providers = self.catalogue.providers
        named = [(p, rest) for p in providers if separator and p.name == prefix]
        return named + [(p, model) for p in providers]

    def _offer(
        self,
        provider: ProviderOnSale,
        model: str,
        lanes: tuple[Lane, ...],
        service_tier: str | None,
        currency: str,
        now: datetime,
    ) -> Offer:
        prices = self.catalogue.prices
        available = prices.lanes(provider.price_list, model, currency=currency)
        wanted = lanes
        if service_tier == "auto":
            wanted = tuple(lane for lane in lanes if lane in available) or lanes
        versions = tuple(
            prices.version_at(provider.price_list, model, lane, now, currency=currency)
            for lane in wanted
        )
        return Offer(
            provider=provider,
            upstream=self._upstreams[provider.id],
            model=model,
            facts=prices.facts(provider.price_list, model),
            versions=versions,
            books=versions,
            plan=None,
            names_tier=bool({Lane.FLEX, Lane.PRIORITY} & set(available)),
            at=now,
            revision=self.catalogue.revision,
        )

    def _under_plan(self, offer: Offer, plan_id: UUID, now: datetime) -> Offer:
        """The offer at the prices of a plan; its ceilings and charges know nothing more of it."""
        plan = plan_in_force(self.catalogue.plans.get(plan_id, ()), now)
        if plan is None:
            return offer
        versions = tuple(planned_version(book, plan) for book in offer.books)
        for version, book in zip(versions, offer.books, strict=True):
            if version is not book and version.id not in self._planned:
                self._planned.add(version.id)
                self._planned_new[version.id] = (version.id, book.id, plan.id)
        return structs.replace(offer, versions=versions, plan=plan)

    async def remember(self) -> None:
        """Write down what new prices under plans stand for, so that a call stays explainable.

        Raises:
            UnavailableError: The database is away; they are written the next time.
        """
        new = list(self._planned_new.values())
        if new:
            await self._directory.remember_planned(new)
            # Other calls may have written the same meanwhile, or have brought more: those stay.
            for planned_id, _, _ in new:
                self._planned_new.pop(planned_id, None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except UnavailableError:
                # What was read stays good; every admission checks the revision anyway.
                continue
            except Exception as error:  # noqa: BLE001 - a row that cannot be read must not end the watch
                logger.error("catalogue_unreadable", error=repr(error))  # noqa: TRY400
