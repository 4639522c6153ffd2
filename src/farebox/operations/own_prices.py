"""Prices set by an operator: which model is meant, and what is known of it afterwards."""

from __future__ import annotations

from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.units import UnpricedError


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
