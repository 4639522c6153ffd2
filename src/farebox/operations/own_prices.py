"""Prices set by an operator: which model is meant, and what is known of it afterwards."""

from __future__ import annotations

from typing import Final

from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import format_amount
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.units import UnpricedError

UNLIKELY_FACTOR: Final = 100
"""No price moves by so much; who mixes up "per token", "per thousand" and "per million", or cents
and dollars, is off by at least as much."""


def own_name(book: PriceBook, provider: str, model: str) -> str:
    """The model to price: one of that name, or a new one; a listed alias is no model of its own.

    Raises:
        InvalidInputError: It is another model's alias.
    """
    try:
        meant = book.resolve(provider, model)
    except UnpricedError:
        return model
    if meant.lower() == model.lower():
        return meant
    if model.lower() in {alias.lower() for alias in book.facts(provider, meant).aliases}:
        raise InvalidInputError(
            "model", f"{model} of {provider} is another name of {meant}; use that"
        )
    return model


def refuse_unlikely(book: PriceBook, version: PriceVersion, *, prefix: str = "") -> None:
    """Refuse a price that is a hundred times the one in force, or a hundredth of it.

    It is a slip of the unit far more often than meant, and it charges or refuses everybody until
    somebody sees it; who means it says so.

    Args:
        book: What is in force.
        version: What is to be.
        prefix: Of the unit's name in the error.

    Raises:
        InvalidInputError: Names the unit, with both prices.
    """
    try:
        standing = book.version_at(
            version.provider,
            version.model,
            version.lane,
            version.effective_at,
            currency=version.currency,
        )
    except UnpricedError:
        return  # the first of its kind has nothing to be compared with
    prices = dict(standing.base)
    for unit, price in version.base:
        before = prices.get(unit, 0)
        low, high = sorted((before, price))
        if low > 0 and high >= UNLIKELY_FACTOR * low:
            raise InvalidInputError(
                prefix + unit.value,
                f"{format_amount(price)} is {high // low} times "
                f"{'more' if price > before else 'less'} than the price in force, "
                f"{format_amount(before)}; prices are per million units. If it is meant so, "
                "say that too (confirm)",
            )


def with_facts(
    book: PriceBook, version: PriceVersion, context_window: int | None, output_max: int | None
) -> ModelFacts:
    """What is known of the model, with what the operator says of it."""
    known = book.facts(version.provider, version.model)
    if known.model != version.model:  # a new model that a pattern had taken for another
        known = ModelFacts(version.provider, version.model)
    return structs.replace(
        known,
        context_window=known.context_window if context_window is None else context_window,
        output_max=known.output_max if output_max is None else output_max,
    )
