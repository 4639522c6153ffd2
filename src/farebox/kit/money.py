"""Money as whole nanodollars, and the only doors through which it is parsed, rounded or shown.

A nano is 1e-9 of a currency's major unit, so a 64-bit column holds about 9.2 billion dollars. No
float may come near: amounts enter as decimal text, leave as decimal text, and every rounding has a
name (DESIGN.md decision 8).
"""

from __future__ import annotations

import re
from typing import Final, NewType

from farebox.kit.errors import InvalidInputError

Nanos = NewType("Nanos", int)
"""A whole number of nanodollars (1e-9 of the major unit)."""

NANOS_PER_UNIT: Final = 1_000_000_000
"""Nanos in one dollar (or another currency's major unit)."""

UNITS_PER_PRICE: Final = 1_000_000
"""A price is nanos for this many metered units (tokens, characters, calls)."""

AMOUNT_NANOS_MAX: Final = Nanos(1_000_000_000 * NANOS_PER_UNIT)
"""A single amount may not pass one billion major units: sums of many still fit a 64-bit column."""

ZERO: Final = Nanos(0)

# Only the ten ASCII digits: other scripts' digits are numbers to Python, but no amounts to us.
_AMOUNT: Final = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,10})(?:\.(?P<fraction>[0-9]{1,9}))?")
_DECIMALS: Final = 9
_TEXT_LENGTH_MAX: Final = 64


def parse_amount(text: str, *, field: str = "amount") -> Nanos:
    """Read a decimal amount of the major unit, exactly.

    Args:
        text: For example ``"5"``, ``"0.000000001"`` or ``"-3.50"``; no exponent, no separators.
        field: The name of the input, for the error.

    Returns:
        The amount in nanos, sign kept.

    Raises:
        InvalidInputError: It is no plain decimal number, finer than a nanodollar, or larger than
            one billion; nothing is ever rounded here (ENGINE.md, "Ceilings").

    >>> parse_amount("48.838375")
    48838375000
    """
    stripped = text.strip()
    match = _AMOUNT.fullmatch(stripped) if len(stripped) <= _TEXT_LENGTH_MAX else None
    if match is None:
        finer = re.fullmatch(r"[+-]?[0-9]{1,10}\.[0-9]{10,40}", stripped)
        reason = (
            "is finer than a nanodollar; give at most nine decimals"
            if finer
            else "must be a plain decimal number such as 5 or 0.25"
        )
        raise InvalidInputError(field, f"{reason} (got {stripped[:40]!r})")
    fraction = (match["fraction"] or "").ljust(_DECIMALS, "0")
    magnitude = int(match["whole"]) * NANOS_PER_UNIT + int(fraction)
    if magnitude > AMOUNT_NANOS_MAX:
        raise InvalidInputError(field, "must not be more than 1,000,000,000")
    return Nanos(-magnitude if match["sign"] == "-" else magnitude)


def parse_positive_amount(text: str, *, field: str = "amount") -> Nanos:
    """Read an amount that must be more than zero; see :func:`parse_amount`.

    Raises:
        InvalidInputError: As there, and for zero or less.
    """
    amount = parse_amount(text, field=field)
    if amount <= 0:
        raise InvalidInputError(field, "must be more than zero")
    return amount


def format_amount(amount: int) -> str:
    """Write nanos as a decimal string of the major unit, at least two decimals, exactly.

    >>> format_amount(48838375000), format_amount(-1), format_amount(5 * NANOS_PER_UNIT)
    ('48.838375', '-0.000000001', '5.00')
    """
    whole, rest = divmod(abs(amount), NANOS_PER_UNIT)
    fraction = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{fraction}"


def price_up(quantity: int, price: int) -> Nanos:
    """What ``quantity`` units cost at most: rounds up, so a hold never falls short of its charge.

    Args:
        quantity: Units, zero or more.
        price: Nanos per million units, zero or more.
    """
    assert quantity >= 0, quantity
    assert price >= 0, price
    return Nanos(-(-quantity * price // UNITS_PER_PRICE))


def price_half_even(quantity: int, price: int) -> Nanos:
    """What ``quantity`` units cost: exact product, rounded once, half to even (ENGINE.md).

    Args:
        quantity: Units, zero or more.
        price: Nanos per million units, zero or more.

    >>> price_half_even(1, 500_000), price_half_even(3, 500_000)
    (0, 2)
    """
    assert quantity >= 0, quantity
    assert price >= 0, price
    whole, rest = divmod(quantity * price, UNITS_PER_PRICE)
    half = UNITS_PER_PRICE // 2
    if rest > half or (rest == half and whole % 2 == 1):
        whole += 1
    return Nanos(whole)
