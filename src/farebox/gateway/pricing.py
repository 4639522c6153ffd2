"""From the usage of an answer to the lines of a charge, with an answer for every doubt.

The lane is the one that the answer reports; an unknown one is charged as the dearest that was held,
marked estimated, and so is a unit that has no price (ENGINE.md, "Ceilings"). Nothing is ever
charged at another lane's price in silence.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from farebox.gateway.sales import Offer
from farebox.kit.money import Nanos
from farebox.ledger.commands import LineItem
from farebox.ledger.commands import Usage as Counts
from farebox.operations.directory import Catalogue
from farebox.rating.charge import Rated, rate, rate_dearest
from farebox.rating.price_book import PriceVersion
from farebox.rating.price_plans import planned_version
from farebox.rating.units import Lane, Unit, UnpricedError, served_lane
from farebox.rating.usage import Usage

_CACHED = (Unit.CACHED_INPUT, Unit.CACHED_AUDIO_INPUT, Unit.CACHED_IMAGE_INPUT)
_WRITTEN = (Unit.CACHE_WRITE, Unit.CACHE_WRITE_LONG)


class Priced(msgspec.Struct, frozen=True):
    """A usage at the book's price."""

    total: Nanos
    """What the customer pays."""
    cost: Nanos
    """What the call costs us: the same usage at the book's own price."""
    lines: tuple[LineItem, ...]
    counts: Counts
    lane: str
    price_id: UUID
    estimated: bool = False
    reason: str = ""


def price(offer: Offer, catalogue: Catalogue, usage: Usage, service_tier: str | None) -> Priced:
    """Price what a call used.

    Args:
        offer: What was held: the price versions of every lane that the request allowed.
        catalogue: For a lane that was not held but is reported all the same.
        usage: What it used.
        service_tier: The tier that the answer reports; None where it reports none. Then only the
            lane that was asked for can have served it; of several the dearest is charged.
    """
    lane = served_lane(service_tier) if service_tier else None
    if service_tier is None and len(offer.versions) == 1:
        lane = offer.versions[0].lane
    found = None if lane is None else _version(offer, catalogue, lane)
    estimated, reason = False, ""
    if found is None:
        rated, version = rate_dearest(usage, offer.versions)
        book = offer.books[offer.versions.index(version)]
        estimated, reason = True, "unknown_service_tier"
    else:
        version, book = found
        try:
            rated = rate(usage, version)
        except UnpricedError:
            rated, version = rate_dearest(usage, [version])
            estimated, reason = True, "unpriced_unit"
    return Priced(
        total=rated.total,
        cost=rated.total if book is version else _cost(usage, book),
        lines=_lines(rated),
        counts=_counts(usage),
        lane=version.lane.value,
        price_id=version.id,
        estimated=estimated,
        reason=reason,
    )


def tier_of(reported: object) -> str | None:
    """The tier that an answer reports; a value of another kind is an unknown tier, not none."""
    if reported is None or isinstance(reported, str):
        return reported
    return repr(reported)


def _cost(usage: Usage, book: PriceVersion) -> Nanos:
    """A usage at the book's price; at its dearest where a unit has none."""
    try:
        return rate(usage, book).total
    except UnpricedError:
        return rate_dearest(usage, [book])[0].total


def _version(
    offer: Offer, catalogue: Catalogue, lane: Lane
) -> tuple[PriceVersion, PriceVersion] | None:
    """The version of a lane and its row in the book: one that was held, else the one beside it."""
    for version, book in zip(offer.versions, offer.books, strict=True):
        if version.lane is lane:
            return version, book
    held = offer.versions[0]
    try:
        book = catalogue.prices.version_at(
            held.provider,
            held.model,
            lane,
            offer.at,
            currency=held.currency,
        )
    except UnpricedError:
        return None
    return planned_version(book, offer.plan), book


def _lines(rated: Rated) -> tuple[LineItem, ...]:
    return tuple(
        LineItem(line.unit.value, line.quantity, line.price, line.amount) for line in rated.lines
    )


def _counts(usage: Usage) -> Counts:
    cached = written = 0
    for unit, count in usage.units:
        if unit in _CACHED:
            cached += count
        elif unit in _WRITTEN:
            written += count
    return Counts(
        input_tokens=usage.input_total,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=usage.output_total,
        reasoning_tokens=usage.reasoning_tokens,
    )
