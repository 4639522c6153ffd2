"""Price plans: what an organisation is charged, where that is not what the provider charges us.

A plan is versioned and never edited (DESIGN.md, decision 16). A version rates a row of the price
book into another row of the same shape, so that ceilings, charges and line items need to know
nothing of plans. The new row has an id of its own, the same wherever it is computed, and the book's
row stays what the call costs us.

All is whole numbers: a price is nanos per million units, a share is basis points (1/100 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.kit.patterns import is_pattern, matches
from farebox.rating.charge import unit_price
from farebox.rating.price_book import PRICE_NANOS_MAX, PriceVersion
from farebox.rating.units import Lane, Unit

BASIS_POINTS: Final = 10_000
"""One hundred percent."""

MARKUP_MIN: Final = -BASIS_POINTS
"""A discount of one hundred percent: a gift."""

MARKUP_MAX: Final = 1_000_000
"""A hundred times the price is more than anybody means."""

MARGIN_MAX: Final = BASIS_POINTS - 1
"""A margin of the whole price cannot be had: costs are more than nothing."""

OWN_ROWS_MAX: Final = 2_000
FREE_MODELS_MAX: Final = 200


class OwnRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices of the plan's own for a model or a family; other units follow the rest of the plan."""

    models: str
    """A model's name, or the beginning of one and ``*``."""
    lane: Lane = Lane.STANDARD
    base: tuple[tuple[Unit, int], ...]
    """Nanos per million units."""
    long: tuple[tuple[Unit, int], ...] = ()
    """The same above the model's long-context line; without a row there, the base row holds."""


class PlanTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a plan says; without anything it passes the book's prices through."""

    markup: int = 0
    """Basis points on top of the book's price; less than zero is a discount."""
    minimum_margin: int | None = None
    """The share of the customer's price, in basis points, that must remain after our cost: it
    lifts every price that would leave less, the plan's own rows too, but not free models. Zero
    never sells below cost; None may."""
    own_rows: tuple[OwnRow, ...] = ()
    free_models: tuple[str, ...] = ()
    """Names, or beginnings with ``*``: charged nothing. What they cost us is ours."""


class PlanVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan says from an instant on."""

    id: UUID
    plan_id: UUID
    plan_name: str
    number: int
    effective_at: datetime
    terms: PlanTerms


def check_terms(terms: PlanTerms) -> None:
    """Refuse terms that could not be rated from.

    Raises:
        InvalidInputError: Naming the field.
    """
    if not MARKUP_MIN <= terms.markup <= MARKUP_MAX:
        raise InvalidInputError(
            "markup", f"must be from {MARKUP_MIN} to {MARKUP_MAX} basis points (1/100 %)"
        )
    if terms.minimum_margin is not None and not 0 <= terms.minimum_margin <= MARGIN_MAX:
        raise InvalidInputError(
            "minimum_margin", f"must be from 0 to {MARGIN_MAX} basis points (1/100 %)"
        )
    if len(terms.own_rows) > OWN_ROWS_MAX or len(terms.free_models) > FREE_MODELS_MAX:
        raise InvalidInputError(
            "own_rows", f"must be at most {OWN_ROWS_MAX}, free_models at most {FREE_MODELS_MAX}"
        )
    for pattern in (*terms.free_models, *(row.models for row in terms.own_rows)):
        if not is_pattern(pattern):
            raise InvalidInputError(
                "models", f"must be names, or beginnings with * at their end (got {pattern[:40]!r})"
            )
    keys = [(row.models, row.lane) for row in terms.own_rows]
    if len(set(keys)) != len(keys):
        raise InvalidInputError("own_rows", "must have one row per model and lane")
    for row in terms.own_rows:
        _check_row(row)


def _check_row(row: OwnRow) -> None:
    if not row.base:
        raise InvalidInputError("own_rows", f"has no price for {row.models[:80]}")
    for table in (row.base, row.long):
        if len(dict(table)) != len(table):
            raise InvalidInputError("own_rows", f"prices a unit of {row.models[:80]} twice")
        for unit, price in table:
            if not 0 <= price <= PRICE_NANOS_MAX:
                raise InvalidInputError(
                    unit.value, f"must be from 0 to {PRICE_NANOS_MAX} nanos per million units"
                )


def plan_in_force(versions: Sequence[PlanVersion], at: datetime) -> PlanVersion | None:
    """Of one plan's versions the latest that began; of two at one instant the later number."""
    begun = [version for version in versions if version.effective_at <= at]
    return max(begun, key=lambda each: (each.effective_at, each.number), default=None)


def planned_version(version: PriceVersion, plan: PlanVersion | None) -> PriceVersion:
    """A row of the book as the plan rates it; the row itself where nothing is another price.

    Args:
        version: The row in force: what the call costs us.
        plan: The plan's version in force; None passes prices through.
    """
    if plan is None:
        return version
    terms = plan.terms
    if any(matches(pattern, version.model) for pattern in terms.free_models):
        base = tuple((unit, 0) for unit, _ in version.base)
        long = tuple((unit, 0) for unit, _ in version.long)
    else:
        row = _own_row(terms.own_rows, version)
        own = {} if row is None else dict(row.base)
        own_long = own if row is None else own | dict(row.long)
        base = _table(version.base, own, terms)
        long = _table(version.long, own_long, terms) if version.long else ()
    if (base, long) == (version.base, version.long):
        return version
    return structs.replace(
        version,
        id=planned_id(version.id, plan.id),
        source=f"{version.source}; plan {plan.plan_name} v{plan.number}",
        base=base,
        long=long,
    )


def planned_id(price_id: UUID, plan_version_id: UUID) -> UUID:
    """The id of a book's row under a plan: the same in every process (version 8, RFC 9562)."""
    digest = blake2b(price_id.bytes + plan_version_id.bytes, digest_size=16).digest()
    number = int.from_bytes(digest) & ~(0xF << 76) & ~(0b11 << 62)
    return UUID(int=number | 0x8 << 76 | 0b10 << 62)


def marked_up(price: int, markup: int) -> int:
    """A price with so many basis points on top: rounds up to a whole nano per million units.

    >>> marked_up(2_500_000_000, 2_000), marked_up(1, 1), marked_up(1_000, -2_500)
    (3000000000, 2, 750)
    """
    return -(-price * (BASIS_POINTS + markup) // BASIS_POINTS)


def price_with_margin(cost: int, margin: int) -> int:
    """The lowest price of which so many basis points remain after the cost: rounds up.

    >>> price_with_margin(750, 2_500), price_with_margin(1, 3_333)
    (1000, 2)
    """
    return -(-cost * BASIS_POINTS // (BASIS_POINTS - margin))


def _table(
    book: tuple[tuple[Unit, int], ...], own: Mapping[Unit, int], terms: PlanTerms
) -> tuple[tuple[Unit, int], ...]:
    """One price table: the book's units, and those that the plan alone has a price for."""
    costs = dict(book)
    units = [*costs, *(unit for unit in Unit if unit in own and unit not in costs)]
    return tuple((unit, _price(unit_price(unit, costs), own.get(unit), terms)) for unit in units)


def _price(cost: int | None, own: int | None, terms: PlanTerms) -> int:
    """One price, from what the unit costs us and the plan's own price; either may be missing."""
    if cost is None:
        assert own is not None
        return own
    price = marked_up(cost, terms.markup) if own is None else own
    if terms.minimum_margin is not None:
        price = max(price, price_with_margin(cost, terms.minimum_margin))
    return min(price, PRICE_NANOS_MAX)


def _own_row(rows: Sequence[OwnRow], version: PriceVersion) -> OwnRow | None:
    """The row that is meant: the model's own before a family's, the longer beginning first."""
    mine = [row for row in rows if row.lane is version.lane and matches(row.models, version.model)]
    return max(mine, key=lambda row: (not row.models.endswith("*"), len(row.models)), default=None)
