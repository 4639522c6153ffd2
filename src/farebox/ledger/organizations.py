"""The organisation's row: the one lock, and totals that are kept apart from the grants they sum.

    granted + owed = spent + reserved + unreserved + frozen + expired + refunded

holds at every commit; the database checks it and ``books check`` recomputes every term.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos


class OnOverrun(StrEnum):
    """What happens to usage beyond a hold that fits neither balance nor limits."""

    ABSORB = "absorb"
    OWE = "owe"


class OnLapse(StrEnum):
    """What a hold that lapses charges."""

    METERED = "metered"
    NOTHING = "nothing"
    CEILING = "ceiling"


class Organization(msgspec.Struct):
    """One organisation's money row; the engine works on copies of it."""

    id: UUID
    currency: str
    zone: str
    active: bool
    floor: Nanos
    """How far below zero holds may go (``delayed_cutoff``); zero is strict (NEG-07)."""
    on_overrun: OnOverrun
    on_lapse: OnLapse
    last_time: datetime
    """Engine time never runs backwards for an organisation."""
    sequence: int
    """Numbers closed calls and grants, without gaps in the calls' journal."""
    granted: Nanos
    owed: Nanos
    spent: Nanos
    reserved: Nanos
    unreserved: Nanos
    frozen: Nanos
    expired: Nanos
    refunded: Nanos
    unsecured_held: Nanos
    absorbed: Nanos
    plan_id: UUID | None = None
    """The price plan by which its calls are rated; the engine only compares it."""

    def is_balanced(self) -> bool:
        """Tell whether the independent totals agree."""
        return self.granted + self.owed == (
            self.spent
            + self.reserved
            + self.unreserved
            + self.frozen
            + self.expired
            + self.refunded
        )
