"""Usage times price: exact line items, each rounded once, half to even.

The lines are the answer to "why did this cost that": their amounts add up to the charge, and each
is checkable with a pocket calculator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from farebox.kit.money import Nanos, price_half_even
from farebox.rating.price_book import PriceVersion
from farebox.rating.units import INPUT_UNITS, OUTPUT_UNITS, TOOL_UNITS, Unit, UnpricedError
from farebox.rating.usage import Usage

BILLED_AS: Final = MappingProxyType(
    {
        # A provider that publishes no cached price gives no discount: cached tokens are input
        # (genai-prices leaves them in the input count; OpenAI's gpt-4o-2024-05-13).
        Unit.CACHED_INPUT: (Unit.INPUT,),
        # Writing to a cache costs extra only where a price says so (OpenAI: from GPT-5.6 on).
        Unit.CACHE_WRITE: (Unit.INPUT,),
        # OpenAI's chat models count an image in tokens and bill them "at normal text token rates".
        Unit.IMAGE_INPUT: (Unit.INPUT,),
        # A cached image without a price of its own: no discount on an image price; where images
        # are text, it is cached text.
        Unit.CACHED_IMAGE_INPUT: (Unit.IMAGE_INPUT, Unit.CACHED_INPUT, Unit.INPUT),
        # No discount published: audio is audio. Audio itself never falls back: text is much
        # cheaper, so charging audio as text would be a gift.
        Unit.CACHED_AUDIO_INPUT: (Unit.AUDIO_INPUT,),
    }
)
"""What a unit without a price of its own is billed as: the first of these that has one.

Whatever is not listed is refused without its own price: audio and video cost many times what text
does, generated images too, and a longer cache costs more than a short one (2.5 times the input
price at OpenAI), so no other row may stand in for theirs.
"""


class Line(msgspec.Struct, frozen=True):
    """One line item."""

    unit: Unit
    quantity: int
    price: int
    """Nanos per million units."""
    amount: Nanos


class Rated(msgspec.Struct, frozen=True):
    """What a usage costs, and why."""

    lines: tuple[Line, ...]
    total: Nanos
    long_context: bool = False
    """Whether the whole call was priced by the long-context table."""


def unit_price(unit: Unit, prices: Mapping[Unit, int]) -> int | None:
    """The price of a unit in a table, by :data:`BILLED_AS` where it has no row; None if unpriced.

    >>> unit_price(Unit.CACHED_INPUT, {Unit.INPUT: 2_500_000_000})
    2500000000
    """
    price = prices.get(unit)
    if price is None:
        for stand_in in BILLED_AS.get(unit, ()):
            if (price := prices.get(stand_in)) is not None:
                break
    return price


def require_price(unit: Unit, prices: Mapping[Unit, int], version: PriceVersion) -> int:
    """The same, refused where there is none.

    Raises:
        UnpricedError: ``unpriced_unit``.
    """
    price = unit_price(unit, prices)
    if price is None:
        raise UnpricedError(
            "unpriced_unit",
            f"{version.model} of {version.provider} has no price for {unit} in the {version.lane}"
            " lane; leave that out of the request or add its price.",
        )
    return price


def rate(usage: Usage, version: PriceVersion) -> Rated:
    """Price a usage exactly.

    More input tokens than ``long_context_over``, cached ones too, price the whole call by the
    ``long`` table, output too. A price per request is charged once for any usage at all.

    Raises:
        UnpricedError: ``unpriced_unit``: something was used that this version has no price for.
    """
    return _rate(usage, version, require_price)


def rate_dearest(usage: Usage, versions: Sequence[PriceVersion]) -> tuple[Rated, PriceVersion]:
    """Price a usage when an answer does not say enough to price it exactly.

    ENGINE.md, "Ceilings": an unknown tier in an answer is charged at the hold's dearest lane and
    marked estimated. The same serves for a unit that an answer was not expected to have: it is
    charged at the dearest price of its direction.

    Args:
        usage: What was used.
        versions: The lanes that the hold allowed; at least one.

    Returns:
        The rating and the version it came from.

    Raises:
        UnpricedError: ``unpriced_unit``: no lane has any price of that direction.
    """
    rated = [(_rate(usage, version, _dearest_price), version) for version in versions]
    return max(rated, key=lambda each: each[0].total)


def _dearest_price(unit: Unit, prices: Mapping[Unit, int], version: PriceVersion) -> int:
    if (price := unit_price(unit, prices)) is not None:
        return price
    for direction in (INPUT_UNITS, OUTPUT_UNITS, TOOL_UNITS):
        if unit in direction and (priced := direction & prices.keys()):
            return max(prices[each] for each in priced)
    return require_price(unit, prices, version)


def _rate(
    usage: Usage,
    version: PriceVersion,
    price_for: Callable[[Unit, Mapping[Unit, int], PriceVersion], int],
) -> Rated:
    over = version.long_context_over
    long_context = over is not None and usage.input_total > over
    prices = dict(version.long if long_context else version.base)
    counts = usage.units
    if counts and Unit.REQUEST in prices and not usage.count(Unit.REQUEST):
        counts += ((Unit.REQUEST, 1),)
    lines = []
    total = 0
    for unit, quantity in counts:
        price = prices.get(unit)
        if price is None:
            price = price_for(unit, prices, version)
        amount = price_half_even(quantity, price)
        lines.append(Line(unit, quantity, price, amount))
        total += amount
    return Rated(tuple(lines), Nanos(total), long_context)
