"""The organisation's row: totals kept apart from the rows they sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.support.ledger_scenes import Scene

TERMS = ("granted", "owed", "spent", "reserved", "unreserved", "frozen", "expired", "refunded")


@pytest.mark.parametrize("term", TERMS)
def test_a_total_that_moves_alone_is_seen(term: str) -> None:
    """DED-16: granted + owed = spent + reserved + unreserved + frozen + expired + refunded."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    assert scene.org.is_balanced()
    assert not structs.replace(scene.org, **{term: getattr(scene.org, term) + 1}).is_balanced()


@given(st.integers(1, 100), st.integers(1, 100))
def test_amounts_keep_the_currency_of_their_organization(first: int, second: int) -> None:
    """CRD-17: one currency per organisation; amounts add up exactly and never mix."""
    euro = Scene()
    euro.org.currency = "EUR"
    dollar = Scene(ledger=euro.ledger)
    euro.give("paid", first, "purchased")
    dollar.give("paid", second, "purchased")
    assert (euro.org.currency, euro.org.granted) == ("EUR", first)
    assert (dollar.org.currency, dollar.org.granted) == ("USD", second)


def test_a_balance_breaks_down_by_lot() -> None:
    """CRD-12, CRD-13: what expired is apart from what was used, and every lot tells its own."""
    scene = Scene()
    scene.give("gift", 4)
    scene.give("paid", 6, "purchased")
    scene.hold("one", 5)
    scene.charge("one", 5)
    by_source = {lot.source.value: lot.remaining for lot in scene.grants()}
    assert by_source == {"free": 0, "purchased": 5}
    assert (scene.org.spent, scene.org.expired, scene.available) == (5, 0, 5)
