"""Where all the credit that was ever granted is now, as parts of a bar that add up exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from farebox.kit.money import Nanos
from farebox.operations.balance import Balance

BAR_WIDTH: Final = 1_000
"""Of the drawing; the page stretches it."""

_VISIBLE_MIN: Final = 4
"""A part that is there at all can be seen."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what was granted (and owed)."""

    name: str
    amount: Nanos
    x: int
    width: int
    """Of the drawing; zero where there is nothing."""


def whereabouts(balance: Balance) -> tuple[Part, ...]:
    """Split granted plus owed: spent, held, left (what has not begun included), and the rest."""
    held = sum(grant.held for grant in balance.grants)
    gone = balance.spent + balance.expired + balance.refunded
    total = balance.granted + balance.owed
    amounts = {
        "spent": balance.spent,
        "held": held,
        "left": total - gone - held - balance.frozen,
        "frozen": balance.frozen,
        "expired": balance.expired,
        "refunded": balance.refunded,
    }
    parts = []
    x = 0
    for name, amount in amounts.items():
        width = _width(amount, total)
        parts.append(Part(name, Nanos(amount), x, width))
        x += width
    return tuple(parts)


def _width(amount: int, total: int) -> int:
    return max(_VISIBLE_MIN, amount * BAR_WIDTH // total) if amount > 0 else 0
