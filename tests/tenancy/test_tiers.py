"""Tiers: who stands where, and what leads further."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.kit.money import Nanos
from farebox.tenancy.tiers import Record, Tier, ladder_of, next_tier, purchase_room, tier_for

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def tier(position: int, purchases: int, days: int = 0, **bounds: Any) -> Tier:
    """A tier of dollars."""
    return Tier(
        id=UUID(int=position + 1),
        currency="USD",
        position=position,
        name=f"T{position}",
        purchases=Nanos(purchases),
        age_days=days,
        **bounds,
    )


def record(purchased: int, days: int) -> Record:
    """An organisation that bought so much and is so old."""
    return Record(currency="USD", purchased=Nanos(purchased), made_at=NOW - timedelta(days=days))


tiers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=5).map(
    lambda needs: [tier(place, *need) for place, need in enumerate(needs)]
)
records = st.builds(record, st.integers(0, 6), st.integers(0, 6))


@settings(deadline=None)
@given(tiers, records)
def test_the_highest_tier_that_is_met_holds(table: list[Tier], behind: Record) -> None:
    """LIM-05: by purchases and age; whoever meets none stands in the lowest."""
    found = tier_for(table, behind, NOW)
    age = (NOW - behind.made_at).days
    met = [t for t in table if t.purchases <= behind.purchased and t.age_days <= age]
    if met:
        assert found == max(met, key=lambda t: t.position)
    else:
        assert found == (min(table, key=lambda t: t.position) if table else None)


@settings(deadline=None)
@given(tiers, records, st.integers(0, 3), st.integers(0, 3))
def test_more_never_leads_down(table: list[Tier], behind: Record, more: int, days: int) -> None:
    """Buying and waiting never make a tier lower."""
    before = tier_for(table, behind, NOW)
    after = tier_for(
        table,
        record(behind.purchased + more, (NOW - behind.made_at).days + days),
        NOW,
    )
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert after.position >= before.position


@settings(deadline=None)
@given(tiers, records)
def test_what_is_needed_leads_to_the_next_tier(table: list[Tier], behind: Record) -> None:
    """LIM-07: whoever does what is said stands there, or higher."""
    current = tier_for(table, behind, NOW)
    step = next_tier(table, current, behind, NOW)
    if step is None:
        assert current is None or current == ladder_of(table, "USD")[-1]
        return
    then = max(NOW, step.old_enough_at or NOW)
    richer = Record(
        currency="USD",
        purchased=Nanos(behind.purchased + step.purchases_missing),
        made_at=behind.made_at,
    )
    reached = tier_for(table, richer, then)
    assert reached is not None
    named = next(t for t in table if t.name == step.name)
    assert reached.position >= named.position
    assert current is None or named.position > current.position


def test_each_currency_has_a_ladder_of_its_own() -> None:
    """An organisation in euros does not stand in a tier of dollars."""
    euros = Record(currency="EUR", purchased=Nanos(9), made_at=NOW)
    assert tier_for([tier(0, 0)], euros, NOW) is None
    assert next_tier([tier(0, 0)], None, euros, NOW) is None


def test_there_is_room_up_to_the_bound() -> None:
    """LIM-07: the balance after a purchase is within the tier's; debt makes room, excess none."""
    bounded = tier(0, 0, balance_maximum=Nanos(100), recharge_maximum=Nanos(30))
    for balance, room, recharge in ((0, 100, 30), (80, 20, 20), (120, 0, 0), (-50, 150, 30)):
        assert purchase_room(bounded, Nanos(balance)) == room
        assert purchase_room(bounded, Nanos(balance), recharge=True) == recharge
    assert purchase_room(None, Nanos(0)) is None
    assert purchase_room(tier(0, 0), Nanos(0), recharge=True) is None
