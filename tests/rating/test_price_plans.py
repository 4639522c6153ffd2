"""Price plans: what a row of the book becomes, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.rating.charge import rate
from farebox.rating.price_book import PRICE_NANOS_MAX, PriceVersion, check_version
from farebox.rating.price_plans import (
    BASIS_POINTS,
    OwnRow,
    PlanTerms,
    PlanVersion,
    check_terms,
    marked_up,
    plan_in_force,
    planned_id,
    planned_version,
    price_with_margin,
)
from farebox.rating.units import Lane, Unit
from farebox.rating.usage import Usage

AT = datetime(2026, 11, 1, tzinfo=UTC)
BOOK = PriceVersion(
    id=UUID(int=5),
    provider="openai",
    model="gpt-5.4",
    lane=Lane.STANDARD,
    currency="USD",
    effective_at=AT,
    source="genai-prices",
    long_context_over=272_000,
    base=((Unit.INPUT, 2_500_000_000), (Unit.CACHED_INPUT, 250_000_000), (Unit.OUTPUT, 15 * 10**9)),
    long=((Unit.INPUT, 5_000_000_000), (Unit.CACHED_INPUT, 500_000_000), (Unit.OUTPUT, 22 * 10**9)),
)

prices = st.integers(0, 10**12)
shares = st.integers(0, BASIS_POINTS - 1)
markups = st.integers(-BASIS_POINTS, 30_000)


def plan(number: int = 1, at: datetime = AT, **terms: Any) -> PlanVersion:
    """A version of a plan."""
    return PlanVersion(
        id=UUID(int=100 + number),
        plan_id=UUID(int=9),
        plan_name="Reseller",
        number=number,
        effective_at=at,
        terms=PlanTerms(**terms),
    )


def test_without_terms_prices_pass_through() -> None:
    """The very same row, with its own id: nothing is derived where nothing differs."""
    assert planned_version(BOOK, None) is BOOK
    assert planned_version(BOOK, plan()) is BOOK
    assert planned_version(BOOK, plan(free_models=("gpt-4*",))) is BOOK


def test_a_percentage_is_on_every_unit_of_both_tables() -> None:
    """20 % on input, cached input and output, above the long-context line too."""
    made = planned_version(BOOK, plan(markup=2_000))
    assert dict(made.base) == {
        Unit.INPUT: 3_000_000_000,
        Unit.CACHED_INPUT: 300_000_000,
        Unit.OUTPUT: 18 * 10**9,
    }
    assert dict(made.long)[Unit.INPUT] == 6_000_000_000
    assert (made.model, made.lane, made.effective_at) == (BOOK.model, BOOK.lane, BOOK.effective_at)
    assert made.long_context_over == BOOK.long_context_over
    assert made.source == "genai-prices; plan Reseller v1"
    check_version(made)


def test_own_rows_stand_before_the_percentage() -> None:
    """The model's own row before a family's, the longer beginning first, only in its lane."""
    rows = (
        OwnRow(models="gpt-*", base=((Unit.INPUT, 1),)),
        OwnRow(models="gpt-5*", base=((Unit.INPUT, 2),)),
        OwnRow(models="gpt-5.4", base=((Unit.INPUT, 3 * 10**9),), long=((Unit.INPUT, 7 * 10**9),)),
        OwnRow(models="gpt-5.4", lane=Lane.FLEX, base=((Unit.INPUT, 4),)),
    )
    made = planned_version(BOOK, plan(markup=1_000, own_rows=rows))
    assert dict(made.base)[Unit.INPUT] == 3 * 10**9
    assert dict(made.long)[Unit.INPUT] == 7 * 10**9
    assert dict(made.base)[Unit.OUTPUT] == 16_500_000_000  # what it does not list: 10 % on top
    other = structs.replace(BOOK, model="gpt-5.5", long=(), long_context_over=None)
    assert dict(planned_version(other, plan(own_rows=rows)).base)[Unit.INPUT] == 2
    third = structs.replace(other, model="gpt-4o")
    assert dict(planned_version(third, plan(own_rows=rows)).base)[Unit.INPUT] == 1
    flex = structs.replace(BOOK, lane=Lane.FLEX)
    assert dict(planned_version(flex, plan(own_rows=rows)).base)[Unit.INPUT] == 4


def test_an_own_base_price_holds_above_the_line_too_where_no_other_is_given() -> None:
    """A plan that names one price means it for short and long calls alike."""
    row = OwnRow(models="gpt-5.4", base=((Unit.INPUT, 9 * 10**9),))
    made = planned_version(BOOK, plan(own_rows=(row,)))
    assert dict(made.base)[Unit.INPUT] == dict(made.long)[Unit.INPUT] == 9 * 10**9
    assert dict(made.long)[Unit.OUTPUT] == dict(BOOK.long)[Unit.OUTPUT]


def test_a_free_model_is_charged_nothing_and_costs_what_it_costs() -> None:
    """Every unit at zero, whatever margin is asked for; the book's row is untouched."""
    made = planned_version(BOOK, plan(free_models=("gpt-5*",), minimum_margin=5_000))
    usage = Usage(units=((Unit.INPUT, 1_000), (Unit.OUTPUT, 10)), reasoning_tokens=0)
    assert rate(usage, made).total == 0
    assert rate(usage, BOOK).total > 0
    assert made.id != BOOK.id


def test_a_discount_may_go_below_cost_unless_a_margin_is_asked_for() -> None:
    """No minimum margin is another thing than one of nothing: the latter never sells below cost."""
    for terms, price in (
        (PlanTerms(markup=-1_000), 900),
        (PlanTerms(markup=-1_000, minimum_margin=0), 1_000),
    ):
        book = structs.replace(BOOK, base=((Unit.INPUT, 1_000),), long=(), long_context_over=None)
        made = planned_version(book, structs.replace(plan(), terms=terms))
        assert dict(made.base)[Unit.INPUT] == price


@settings(deadline=None)
@given(prices, markups, st.none() | prices, shares)
def test_the_minimum_margin_is_kept_exactly(
    cost: int, markup: int, own: int | None, margin: int
) -> None:
    """Of every price at least that share remains after our cost; and nothing more is added."""
    rows = () if own is None else (OwnRow(models="gpt-5.4", base=((Unit.INPUT, own),)),)
    book = structs.replace(BOOK, base=((Unit.INPUT, cost),), long=(), long_context_over=None)
    terms = PlanTerms(markup=markup, minimum_margin=margin, own_rows=rows)
    made = planned_version(book, structs.replace(plan(), terms=terms))
    price = dict(made.base)[Unit.INPUT]
    assert (price - cost) * BASIS_POINTS >= price * margin
    wished = own if own is not None else marked_up(cost, markup)
    assert price == max(wished, price_with_margin(cost, margin))


@settings(deadline=None)
@given(prices, markups)
def test_a_markup_rounds_up_by_less_than_a_nano(price: int, markup: int) -> None:
    """Exact arithmetic, one rounding, upwards."""
    exact = Fraction(price * (BASIS_POINTS + markup), BASIS_POINTS)
    assert 0 <= marked_up(price, markup) - exact < 1


@settings(deadline=None)
@given(prices, shares)
def test_a_margin_price_is_the_lowest_that_keeps_it(cost: int, margin: int) -> None:
    """One nano less would not do."""
    price = price_with_margin(cost, margin)
    assert (price - cost) * BASIS_POINTS >= price * margin
    if price > 0:
        assert (price - 1 - cost) * BASIS_POINTS < (price - 1) * margin


def test_a_unit_that_is_billed_as_another_keeps_the_margin() -> None:
    """A cached price of the plan's own where the book has none: cached tokens cost us as input."""
    row = OwnRow(models="*", base=((Unit.CACHED_INPUT, 1),))
    book = structs.replace(BOOK, base=((Unit.INPUT, 1_000),), long=(), long_context_over=None)
    made = planned_version(book, plan(own_rows=(row,), minimum_margin=5_000))
    assert dict(made.base) == {Unit.INPUT: 2_000, Unit.CACHED_INPUT: 2_000}
    audio = OwnRow(models="*", base=((Unit.AUDIO_INPUT, 7),))
    made = planned_version(book, plan(own_rows=(audio,)))
    assert dict(made.base)[Unit.AUDIO_INPUT] == 7


@settings(deadline=None)
@given(st.uuids(), st.uuids())
def test_a_planned_rows_id_is_the_same_everywhere(price_id: UUID, version_id: UUID) -> None:
    """Stable, of version 8, and another for another price or plan version."""
    made = planned_id(price_id, version_id)
    assert made == planned_id(price_id, version_id)
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert made != planned_id(version_id, price_id) or price_id == version_id


def test_the_next_version_holds_from_its_instant_on() -> None:
    """Dated like prices: before the first there is none; of two at once the later number."""
    later = AT + timedelta(days=1)
    versions = [plan(1), plan(2, later), plan(3, later)]
    assert plan_in_force(versions, AT - timedelta(microseconds=1)) is None
    assert plan_in_force(versions, AT) == versions[0]
    assert plan_in_force(versions, later) == versions[2]
    dearer = [structs.replace(version, terms=PlanTerms(markup=1)) for version in versions]
    assert len({planned_version(BOOK, version).id for version in dearer}) == 3


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (PlanTerms(markup=-BASIS_POINTS - 1), "markup"),
        (PlanTerms(markup=1_000_001), "markup"),
        (PlanTerms(minimum_margin=BASIS_POINTS), "minimum_margin"),
        (PlanTerms(minimum_margin=-1), "minimum_margin"),
        (PlanTerms(free_models=("",)), "models"),
        (PlanTerms(free_models=("a",) * 201), "own_rows"),
        (PlanTerms(own_rows=(OwnRow(models="*x", base=((Unit.INPUT, 1),)),)), "models"),
        (PlanTerms(own_rows=(OwnRow(models="a", base=()),)), "own_rows"),
        (PlanTerms(own_rows=(OwnRow(models="a", base=((Unit.INPUT, 1),)),) * 2), "own_rows"),
        (PlanTerms(own_rows=(OwnRow(models="a", base=((Unit.INPUT, 1),) * 2),)), "own_rows"),
        (PlanTerms(own_rows=(OwnRow(models="a", base=((Unit.INPUT, -1),)),)), "input"),
        (
            PlanTerms(own_rows=(OwnRow(models="a", base=((Unit.INPUT, PRICE_NANOS_MAX + 1),)),)),
            "input",
        ),
    ],
)
def test_terms_that_cannot_be_rated_are_named(terms: PlanTerms, field: str) -> None:
    """Every bound has an error that names its field."""
    with pytest.raises(InvalidInputError) as caught:
        check_terms(terms)
    assert caught.value.field == field


def test_good_terms_pass() -> None:
    """What the tests above rate from is allowed."""
    check_terms(PlanTerms(markup=-500, minimum_margin=9_999, free_models=("a", "b*")))
