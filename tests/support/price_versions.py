"""Versions of a price, for tests that rate."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from farebox.rating.price_book import PriceVersion
from farebox.rating.units import Lane, Unit


def version(
    base: dict[Unit, int],
    long: dict[Unit, int] | None = None,
    *,
    lane: Lane = Lane.STANDARD,
    over: int | None = None,
) -> PriceVersion:
    """A version with these tables."""
    return PriceVersion(
        id=UUID(int=1),
        provider="openai",
        model="gpt-5.4",
        lane=lane,
        currency="USD",
        effective_at=datetime(2026, 1, 1, tzinfo=UTC),
        source="operator",
        long_context_over=over,
        base=tuple(base.items()),
        long=tuple((long or {}).items()),
    )
