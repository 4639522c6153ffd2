"""Facts for the doctor out of what the stores know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from farebox.operations.diagnosis_facts import model_finding
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.units import Lane, Unit

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SELLERS = [("main", "openai"), ("spare", "openai"), ("eu", "mistral")]


def version(number: int, model: str, **changes: Any) -> PriceVersion:
    """A price of a model, in force since yesterday."""
    values: dict[str, Any] = {
        "id": UUID(int=number),
        "provider": "openai",
        "model": model,
        "lane": Lane.STANDARD,
        "currency": "USD",
        "effective_at": NOW - timedelta(days=1),
        "source": "test",
        "long_context_over": None,
        "base": ((Unit.INPUT, 1), (Unit.OUTPUT, 2)),
    }
    return PriceVersion(**(values | changes))


BOOK = PriceBook(
    [
        version(1, "gpt-5.4"),
        version(2, "gpt-5.4-mini"),
        version(3, "gpt-flex", lane=Lane.FLEX),
        version(4, "gpt-euro", currency="EUR"),
        version(5, "gpt-next", effective_at=NOW + timedelta(days=1)),
        version(6, "claude-x", provider="anthropic"),
    ],
    [ModelFacts(provider="openai", model="gpt-5.4", aliases=("gpt-5.4-2026-03-05",))],
    revision=1,
)


def found(name: str, currency: str = "USD") -> Any:
    """What the book says of a name."""
    return model_finding(BOOK, SELLERS, name, currency=currency, at=NOW)


@pytest.mark.parametrize(
    ("name", "sold_by"),
    [
        ("gpt-5.4", ("main", "spare")),
        ("GPT-5.4-2026-03-05", ("main", "spare")),
        ("spare/gpt-5.4", ("spare",)),
        ("main/gpt-5.4-mini", ("main",)),
        ("gpt-flex", ()),
        ("gpt-next", ()),
        ("claude-x", ()),
        ("gpt-9", ()),
    ],
)
def test_who_sells_a_model(name: str, sold_by: tuple[str, ...]) -> None:
    """D06: providers that were added and have a standard price now, by any of its names."""
    assert found(name).sold_by == sold_by


def test_why_nobody_sells_it() -> None:
    """D06: another tier, another currency, not yet, no such provider, no such model."""
    assert found("gpt-flex").lanes == ("flex",)
    assert (found("gpt-euro").known, found("gpt-euro").priced_in) == (True, ("EUR",))
    assert found("gpt-euro", "EUR").sold_by == ("main", "spare")
    assert (found("gpt-next").known, found("gpt-next").lanes) == (True, ())
    assert (found("claude-x").known, found("claude-x").lanes) == (True, ())
    assert not found("gpt-9").known


def test_what_looks_like_it() -> None:
    """D06: the nearest names that can be called, for a slip of the keyboard."""
    assert found("gpt-5.4-mni").nearest[0] == "gpt-5.4-mini"
    assert found("openai/GPT-5.4-mini-x").nearest[0] == "gpt-5.4-mini"
    assert found("gpt-5.4").nearest == ()
    assert found("zzz").nearest == ()
