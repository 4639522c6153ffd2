"""The one price book of a simulated world."""

from __future__ import annotations

from typing import Final

INPUT_PRICE: Final = 1_000_000
"""Nanos per million input tokens: a nano each, so that a ceiling can be any amount."""

OUTPUT_PRICES: Final = (1_000_000, 333_333, 15_000_000, 0)
"""Nanos per million output tokens, by model; one of them rounds."""

PRICE_TABLES: Final = tuple({"input": INPUT_PRICE, "output": price} for price in OUTPUT_PRICES)
"""As the books check wants them."""
