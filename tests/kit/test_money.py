"""Money: parsing, showing and rounding, exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import (
    AMOUNT_NANOS_MAX,
    NANOS_PER_UNIT,
    UNITS_PER_PRICE,
    format_amount,
    parse_amount,
    parse_positive_amount,
    price_half_even,
    price_up,
)

AMOUNTS = st.integers(-AMOUNT_NANOS_MAX, AMOUNT_NANOS_MAX)
QUANTITIES = st.integers(0, 10**13)
PRICES = st.integers(0, 10**13)


@given(AMOUNTS)
def test_an_amount_survives_being_shown(amount: int) -> None:
    """CRD-17: what is shown reads back as the same number of nanos."""
    assert parse_amount(format_amount(amount)) == amount


@given(AMOUNTS)
def test_a_shown_amount_is_plain(amount: int) -> None:
    """CRD-17: an amount is shown with two to nine decimals and no exponent."""
    whole, _, fraction = format_amount(amount).lstrip("-").partition(".")
    assert whole.isdigit()
    assert fraction.isdigit()
    assert 2 <= len(fraction) <= 9


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("5", 5 * NANOS_PER_UNIT),
        ("+5", 5 * NANOS_PER_UNIT),
        (" 5.00 ", 5 * NANOS_PER_UNIT),
        ("0", 0),
        ("-0", 0),
        ("0.000000001", 1),
        ("-0.000000001", -1),
        ("-3.50", -3_500_000_000),
        ("48.838375", 48_838_375_000),
        ("1000000000", AMOUNT_NANOS_MAX),
        ("-1000000000.000000000", -AMOUNT_NANOS_MAX),
        ("0000000005", 5 * NANOS_PER_UNIT),
    ],
)
def test_plain_decimals_are_read_exactly(text: str, nanos: int) -> None:
    """CRD-16: one credit is one unit of the currency, down to a nanodollar."""
    assert parse_amount(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "+", ".", ".5", "5.", "--5", "1.2.3", "0x10", "1_000", "1,000", "1 000"),
        *("NaN", "nan", "inf", "-Infinity", "1e3", "1e400", "1E-9", "five", "$5", "5 USD"),
        # Digits of other scripts, signs and separators that look like ours, and hidden characters.
        *(
            "\u0663",
            "\uff15",
            "\u0967.\u096b",
            "\u22125",
            "5\u20240",
            "\u00b2",
            "\u00bd",
            "5\u200b",
            "\u202e5",
            "5\n6",
            "5\x00",
        ),
        "9" * 11,
        "9" * 5_000,
        "0" * 64 + ".5",
    ],
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    """CRD-17: nothing but ASCII digits, one point and a sign is an amount."""
    with pytest.raises(InvalidInputError, match="must be a plain decimal number") as caught:
        parse_amount(text, field="price")
    assert caught.value.field == "price"
    assert len(str(caught.value)) < 200


@given(st.integers(-9_999_999_999, 9_999_999_999), st.text("0123456789", min_size=10, max_size=40))
def test_finer_than_a_nanodollar_is_refused_not_rounded(whole: int, fraction: str) -> None:
    """CRD-16: an amount that nanos cannot hold is never rounded."""
    with pytest.raises(InvalidInputError, match="finer than a nanodollar"):
        parse_amount(f"{whole}.{fraction}")


@pytest.mark.parametrize("text", ["1000000000.000000001", "-1000000000.01", "9999999999"])
def test_more_than_a_billion_is_refused(text: str) -> None:
    """CRD-17: an amount fits a 64-bit column, and so do sums of many."""
    with pytest.raises(InvalidInputError, match="must not be more than 1,000,000,000"):
        parse_amount(text)


@given(st.text())
def test_any_text_is_an_amount_or_an_error(text: str) -> None:
    """CRD-17: parsing never fails in another way, and never gives more than it allows."""
    try:
        amount = parse_amount(text)
    except InvalidInputError:
        return
    assert abs(amount) <= AMOUNT_NANOS_MAX


@pytest.mark.parametrize("text", ["0", "-0", "0.00", "-1", "-0.000000001"])
def test_a_positive_amount_is_more_than_zero(text: str) -> None:
    """TOP-01: nothing and less than nothing are refused, naming the field."""
    with pytest.raises(InvalidInputError, match="amount must be more than zero"):
        parse_positive_amount(text)
    assert parse_positive_amount("0.000000001") == 1


@given(QUANTITIES, PRICES)
def test_a_hold_is_never_below_its_charge(quantity: int, price: int) -> None:
    """DED-16: priced up, a ceiling covers the charge of the same usage and is under a nano more."""
    exact = Fraction(quantity * price, UNITS_PER_PRICE)
    assert exact <= price_up(quantity, price) < exact + 1
    assert price_up(quantity, price) >= price_half_even(quantity, price)


@given(QUANTITIES, PRICES)
def test_a_charge_is_the_exact_product_rounded_half_to_even(quantity: int, price: int) -> None:
    """DED-16: one exact product, rounded once, to the even neighbour at the middle."""
    assert price_half_even(quantity, price) == round(Fraction(quantity * price, UNITS_PER_PRICE))


@given(QUANTITIES, QUANTITIES, PRICES)
def test_price_grows_with_usage(quantity: int, more: int, price: int) -> None:
    """DED-06: more usage never costs less, and splitting it changes at most one nano."""
    together = price_half_even(quantity + more, price)
    apart = price_half_even(quantity, price) + price_half_even(more, price)
    assert price_half_even(quantity, price) <= together
    assert abs(together - apart) <= 1
    assert price_up(quantity, price) <= price_up(quantity + more, price)


@pytest.mark.parametrize("price_of", [price_up, price_half_even])
@pytest.mark.parametrize(("quantity", "price"), [(-1, 1), (1, -1)])
def test_negative_usage_or_prices_are_our_own_mistake(
    price_of: object, quantity: int, price: int
) -> None:
    """DED-16: a negative quantity or price is an assertion, never a charge."""
    assert callable(price_of)
    with pytest.raises(AssertionError):
        price_of(quantity, price)
