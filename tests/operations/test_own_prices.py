"""Prices by hand: which model is meant, and what is known of it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.operations.own_prices import own_name, refuse_unlikely, with_facts
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.units import Lane, Unit

VERSION = PriceVersion(
    id=UUID(int=1),
    provider="openai",
    model="gpt-5.4",
    lane=Lane.STANDARD,
    currency="USD",
    effective_at=datetime(2026, 1, 1, tzinfo=UTC),
    source="test",
    long_context_over=None,
    base=((Unit.INPUT, 1), (Unit.OUTPUT, 2)),
)
FACTS = ModelFacts(
    "openai", "gpt-5.4", context_window=1_000, output_max=100, aliases=("gpt-5.4-2026",)
)


def book() -> PriceBook:
    """One model with one other name."""
    return PriceBook([VERSION], [FACTS], revision=1)


def test_a_price_is_for_a_model_and_not_for_its_alias() -> None:
    """Decision 9: two rows of one model would make its price a matter of spelling."""
    assert own_name(book(), "openai", "GPT-5.4") == "gpt-5.4"
    assert own_name(book(), "openai", "brand-new") == "brand-new"
    with pytest.raises(InvalidInputError, match="another name of gpt-5"):
        own_name(book(), "openai", "gpt-5.4-2026")


def test_what_the_operator_says_of_a_model_stands_beside_what_is_known() -> None:
    """A new price forgets nothing; a new fact takes the place of the old one."""
    assert with_facts(book(), VERSION, None, None) == FACTS
    assert with_facts(book(), VERSION, 5, None) == structs.replace(FACTS, context_window=5)
    assert with_facts(book(), VERSION, None, 7).output_max == 7


@pytest.mark.parametrize(
    ("prices", "unit"),
    [
        ({"input": 1, "output": 2}, None),
        ({"input": 99, "output": 1}, None),
        ({"input": 0, "output": 0}, None),
        ({"input": 100, "output": 2}, "input"),
        ({"input": 1, "output": 2_000_000}, "output"),
    ],
)
def test_a_price_a_hundred_times_off_is_a_slip_of_the_unit(
    prices: dict[str, int], unit: str | None
) -> None:
    """Field bugs 31, 32: refused with its unit and both prices, unless it is the first of all."""
    base = tuple((Unit(name), price) for name, price in prices.items())
    for changes in ({}, {"model": "gpt-5.4-2026"}):
        version = structs.replace(VERSION, base=base, **changes)
        if unit is None:
            refuse_unlikely(book(), version)
            continue
        with pytest.raises(InvalidInputError, match="per million units") as caught:
            refuse_unlikely(book(), version, prefix="prices.")
        assert caught.value.field == f"prices.{unit}"
        refuse_unlikely(book(), structs.replace(version, model="brand-new"))
    cheaper = structs.replace(VERSION, base=((Unit.OUTPUT, 500),))
    dear = PriceBook([cheaper], [FACTS], revision=1)
    with pytest.raises(InvalidInputError, match="250 times less"):
        refuse_unlikely(dear, VERSION)
