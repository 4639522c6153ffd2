"""Usage and trust tiers: what an organisation must have bought, and what it may then do.

The table is data (LIM-05, LIM-07): a tier needs purchases and age, and sets the money of a month,
rates, the balance that may be held and the amount of one recharge. An organisation stands in the
highest tier whose needs it meets, unless somebody gave it one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from farebox.kit.money import ZERO, Nanos


class TierRate(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a model family, per window aligned to the minute or the UTC day."""

    models: str
    """A model's name, or the beginning of one and ``*``; ``*`` alone means every model."""
    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_per_day: int | None = None
    tokens_per_day: int | None = None


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table; None sets no bound."""

    id: UUID
    currency: str
    """Its amounts are in it, and it is for organisations whose credit is."""
    position: int
    """The order; the lowest is where everybody begins."""
    name: str
    purchases: Nanos = ZERO
    """Credit bought in all, less what was refunded, that it needs."""
    age_days: int = 0
    """Days since the organisation was made that it needs."""
    monthly_maximum: Nanos | None = None
    balance_maximum: Nanos | None = None
    """The most credit that may be held at one time (LIM-07)."""
    recharge_maximum: Nanos | None = None
    """The most that one automatic recharge may buy (LIM-07)."""
    rates: tuple[TierRate, ...] = ()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation has behind it."""

    currency: str
    purchased: Nanos
    made_at: datetime


class NextTier(msgspec.Struct, frozen=True, kw_only=True):
    """What is still needed for the next tier (LIM-07)."""

    name: str
    purchases_missing: Nanos
    old_enough_at: datetime | None
    """None where it is old enough already."""


def tier_for(tiers: Sequence[Tier], record: Record, now: datetime) -> Tier | None:
    """The highest tier of the currency whose needs are met; None where there is none at all.

    Where not even the lowest is met, the lowest holds: nobody is without bounds because they are
    new.
    """
    ladder = ladder_of(tiers, record.currency)
    met = [tier for tier in ladder if _is_met(tier, record, now)]
    return met[-1] if met else next(iter(ladder), None)


def next_tier(
    tiers: Sequence[Tier], current: Tier | None, record: Record, now: datetime
) -> NextTier | None:
    """What leads to the next tier; None at the top."""
    position = -1 if current is None else current.position
    for tier in ladder_of(tiers, record.currency):
        if tier.position > position:
            old_enough_at = record.made_at + timedelta(days=tier.age_days)
            return NextTier(
                name=tier.name,
                purchases_missing=Nanos(max(0, tier.purchases - record.purchased)),
                old_enough_at=old_enough_at if old_enough_at > now else None,
            )
    return None


def purchase_room(tier: Tier | None, balance: Nanos, *, recharge: bool = False) -> Nanos | None:
    """The most that may be bought now; None where nothing bounds it (LIM-07, DOC-13).

    Args:
        tier: Where the organisation stands.
        balance: What it has, held money included; less than zero makes more room.
        recharge: Whether Farebox buys by itself.
    """
    if tier is None:
        return None
    bounds = []
    if tier.balance_maximum is not None:
        bounds.append(max(0, tier.balance_maximum - balance))
    if recharge and tier.recharge_maximum is not None:
        bounds.append(tier.recharge_maximum)
    return Nanos(min(bounds)) if bounds else None


def ladder_of(tiers: Sequence[Tier], currency: str) -> list[Tier]:
    """The tiers of a currency, the lowest first."""
    mine = [tier for tier in tiers if tier.currency == currency]
    return sorted(mine, key=lambda tier: tier.position)


def _is_met(tier: Tier, record: Record, now: datetime) -> bool:
    is_old_enough = now >= record.made_at + timedelta(days=tier.age_days)
    return record.purchased >= tier.purchases and is_old_enough
