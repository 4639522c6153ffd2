"""Exact charges: published examples, the long-context line, and arithmetic that adds up."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.money import UNITS_PER_PRICE, format_amount
from farebox.rating.charge import BILLED_AS, rate, rate_dearest, unit_price
from farebox.rating.units import INPUT_UNITS, Lane, Unit, UnpricedError
from farebox.rating.usage import Usage
from tests.support.price_versions import version

DOLLAR = 10**9


# gpt-5.4 as published: $2.50, $0.25, $15; above 272,000 input tokens $5, $0.50, $22.50.
GPT54 = version(
    {
        Unit.INPUT: 2_500_000_000,
        Unit.CACHED_INPUT: 250_000_000,
        Unit.OUTPUT: 15 * DOLLAR,
        Unit.WEB_SEARCH: 10_000 * DOLLAR,
    },
    {
        Unit.INPUT: 5 * DOLLAR,
        Unit.CACHED_INPUT: 500_000_000,
        Unit.OUTPUT: 22_500_000_000,
        Unit.WEB_SEARCH: 10_000 * DOLLAR,
    },
    over=272_000,
)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ({Unit.INPUT: 20_000, Unit.CACHED_INPUT: 80_000, Unit.OUTPUT: 1_000}, "0.085"),
        ({Unit.INPUT: 272_000}, "0.68"),
        ({Unit.INPUT: 272_001}, "1.360005"),
        ({Unit.INPUT: 1, Unit.CACHED_INPUT: 272_000}, "0.136005"),
        ({Unit.INPUT: 500_000, Unit.CACHED_INPUT: 500_000, Unit.OUTPUT: 1_000_000}, "25.25"),
        ({Unit.INPUT: 18_059_974}, "90.29987"),
        ({Unit.WEB_SEARCH: 3}, "0.03"),
        ({}, "0.00"),
    ],
)
def test_published_examples(usage: dict[Unit, int], dollars: str) -> None:
    """DED-06, DED-08, DED-09, DED-10: measured examples come out to the nanodollar."""
    assert format_amount(rate(Usage.of(usage), GPT54).total) == dollars


def test_one_token_over_the_line_reprices_the_whole_call() -> None:
    """Above the line input, cached input and output all change; tool calls are what they were."""
    below = rate(Usage.of({Unit.INPUT: 1, Unit.CACHED_INPUT: 271_999, Unit.OUTPUT: 10}), GPT54)
    above = rate(Usage.of({Unit.INPUT: 2, Unit.CACHED_INPUT: 271_999, Unit.OUTPUT: 10}), GPT54)
    assert (below.long_context, above.long_context) == (False, True)
    assert [line.price for line in below.lines] == [2_500_000_000, 250_000_000, 15 * DOLLAR]
    assert [line.price for line in above.lines] == [5 * DOLLAR, 500_000_000, 22_500_000_000]


def test_output_tokens_do_not_make_a_call_long() -> None:
    """The line is one of input tokens alone."""
    assert not rate(Usage.of({Unit.INPUT: 272_000, Unit.OUTPUT: 10**6}), GPT54).long_context


def test_every_kind_of_input_counts_towards_the_line() -> None:
    """Cached, written, image and audio tokens are input tokens too."""
    prices = dict.fromkeys(INPUT_UNITS, 10)
    tiered = version(prices, dict.fromkeys(INPUT_UNITS, 20), over=len(INPUT_UNITS) - 1)
    rated = rate(Usage.of(dict.fromkeys(INPUT_UNITS, 1)), tiered)
    assert {line.price for line in rated.lines} == {20}


def test_lines_are_rounded_half_to_even_one_by_one() -> None:
    """ENGINE.md: a line is an exact product, rounded once; halves go to the even nano."""
    half = version({Unit.INPUT: 500_000, Unit.OUTPUT: 500_000, Unit.CACHED_INPUT: 1})
    usage = Usage.of({Unit.INPUT: 1, Unit.CACHED_INPUT: 500_001, Unit.OUTPUT: 3})
    rated = rate(usage, half)
    assert [line.amount for line in rated.lines] == [0, 1, 2]
    assert rated.total == 3


@pytest.mark.parametrize(
    ("unit", "prices", "price"),
    [
        (Unit.CACHED_INPUT, {Unit.INPUT: 8}, 8),
        (Unit.CACHE_WRITE, {Unit.INPUT: 8}, 8),
        (Unit.IMAGE_INPUT, {Unit.INPUT: 8}, 8),
        (Unit.CACHED_IMAGE_INPUT, {Unit.INPUT: 8}, 8),
        (Unit.CACHED_IMAGE_INPUT, {Unit.INPUT: 8, Unit.CACHED_INPUT: 2}, 2),
        (Unit.CACHED_IMAGE_INPUT, {Unit.CACHED_INPUT: 2, Unit.IMAGE_INPUT: 9}, 9),
        (Unit.CACHED_AUDIO_INPUT, {Unit.INPUT: 8, Unit.AUDIO_INPUT: 32}, 32),
        (Unit.CACHED_AUDIO_INPUT, {Unit.AUDIO_INPUT: 32, Unit.CACHED_AUDIO_INPUT: 4}, 4),
        (Unit.CACHED_INPUT, {Unit.INPUT: 8, Unit.CACHED_INPUT: 0}, 0),
    ],
)
def test_what_a_unit_without_its_own_price_is_billed_as(
    unit: Unit, prices: dict[Unit, int], price: int
) -> None:
    """Cached tokens without a discount, writes without a fee, images in text models are input."""
    assert unit_price(unit, prices) == price
    assert rate(Usage.of({unit: 1_000_000}), version(prices)).total == price


@pytest.mark.parametrize(
    "unit",
    [
        Unit.AUDIO_INPUT,
        Unit.CACHED_AUDIO_INPUT,
        Unit.AUDIO_OUTPUT,
        Unit.IMAGE_OUTPUT,
        Unit.VIDEO_INPUT,
        Unit.CACHE_WRITE_LONG,
        Unit.WEB_SEARCH,
        Unit.FILE_SEARCH,
        Unit.AUDIO_SECOND,
    ],
)
def test_a_unit_without_any_price_is_refused(unit: Unit) -> None:
    """Audio as text, 12-hour writes as short ones, tool calls for nothing: none is charged."""
    text = version({Unit.INPUT: 1, Unit.OUTPUT: 1, Unit.CACHE_WRITE: 1}, lane=Lane.FLEX)
    with pytest.raises(UnpricedError) as caught:
        rate(Usage.of({unit: 1}), text)
    assert caught.value.reason == "unpriced_unit"
    assert unit.value in caught.value.message
    assert "flex" in caught.value.message


def test_a_stand_in_is_never_cheaper_than_what_it_stands_for_by_rule() -> None:
    """The stand-ins are input units for input units, so a direction is never confused."""
    for unit, stand_ins in BILLED_AS.items():
        assert {unit, *stand_ins} <= INPUT_UNITS


def test_a_price_per_request_is_charged_once() -> None:
    """A provider that bills each request is charged one for any usage, none for no usage."""
    asked = version({Unit.INPUT: 10**9, Unit.OUTPUT: 10**9, Unit.REQUEST: 12_000 * DOLLAR})
    rated = rate(Usage.of({Unit.INPUT: 1_000, Unit.OUTPUT: 1_000}), asked)
    assert format_amount(rated.total) == "0.014"
    assert [line.unit for line in rated.lines] == [Unit.INPUT, Unit.OUTPUT, Unit.REQUEST]
    assert rate(Usage(), asked).total == 0
    told = rate(Usage.of({Unit.REQUEST: 2}), asked)
    assert [line.quantity for line in told.lines] == [2]


def test_an_unknown_tier_is_charged_at_the_dearest_lane() -> None:
    """ENGINE.md: an answer with an unknown tier is charged at the hold's dearest lane."""
    standard = version({Unit.INPUT: 5, Unit.OUTPUT: 10})
    priority = version({Unit.INPUT: 10, Unit.OUTPUT: 20}, lane=Lane.PRIORITY)
    usage = Usage.of({Unit.INPUT: 10**6})
    rated, chosen = rate_dearest(usage, [standard, priority])
    assert (rated.total, chosen.lane) == (10, Lane.PRIORITY)
    assert rate_dearest(usage, [standard])[0] == rate(usage, standard)
    cached = Usage.of({Unit.CACHED_INPUT: 10**6})  # billed as input, as ever
    assert rate_dearest(cached, [standard])[0] == rate(cached, standard)


def test_an_unexpected_unit_is_charged_at_the_dearest_price_of_its_direction() -> None:
    """A settled call must not fail for a unit that nobody foresaw: it is charged high, not lost."""
    prices = version({Unit.INPUT: 5, Unit.CACHE_WRITE: 6, Unit.OUTPUT: 10, Unit.WEB_SEARCH: 3})
    usage = {Unit.CACHE_WRITE_LONG: 10**6, Unit.AUDIO_OUTPUT: 10**6, Unit.FILE_SEARCH: 10**6}
    rated, _ = rate_dearest(Usage.of(usage), [prices])
    assert [line.price for line in rated.lines] == [6, 10, 3]
    with pytest.raises(UnpricedError):
        rate_dearest(Usage.of({Unit.OUTPUT: 1}), [version({Unit.INPUT: 5})])
    with pytest.raises(UnpricedError):
        rate_dearest(Usage.of({Unit.AUDIO_SECOND: 1}), [prices])


COUNTS = st.dictionaries(st.sampled_from(Unit), st.integers(0, 10**7))
PRICES = st.fixed_dictionaries({unit: st.integers(0, 10**12) for unit in Unit})


@given(counts=COUNTS, prices=PRICES)
def test_a_charge_is_the_sum_of_its_lines(counts: dict[Unit, int], prices: dict[Unit, int]) -> None:
    """Every line is the exact product but for half a nano, and the total is their sum."""
    rated = rate(Usage.of(counts), version(prices))
    assert rated.total == sum(line.amount for line in rated.lines)
    for line in rated.lines:
        exact = Fraction(line.quantity * line.price, UNITS_PER_PRICE)
        assert abs(line.amount - exact) <= Fraction(1, 2)


@given(counts=COUNTS, more=COUNTS, prices=PRICES)
def test_price_is_monotone_and_splits_fairly(
    counts: dict[Unit, int], more: dict[Unit, int], prices: dict[Unit, int]
) -> None:
    """Invariant 26: more tokens never cost less; splitting a usage moves at most a nano a line."""
    prices[Unit.REQUEST] = 0  # two requests cost two fees
    both = {unit: counts.get(unit, 0) + more.get(unit, 0) for unit in Unit}
    flat = version(prices)
    apart = rate(Usage.of(counts), flat).total + rate(Usage.of(more), flat).total
    together = rate(Usage.of(both), flat).total
    assert together >= rate(Usage.of(counts), flat).total
    assert abs(together - apart) <= 2 * len(Unit)


@given(counts=COUNTS, prices=PRICES, over=st.integers(0, 10**8))
def test_long_prices_apply_strictly_above_the_line(
    counts: dict[Unit, int], prices: dict[Unit, int], over: int
) -> None:
    """A call is priced by exactly one of the two tables, chosen by its input tokens alone."""
    doubled = {unit: 2 * price for unit, price in prices.items()}
    usage = Usage.of(counts)
    rated = rate(usage, version(prices, doubled, over=over))
    table = doubled if usage.input_total > over else prices
    assert rated.lines == rate(usage, version(table)).lines
