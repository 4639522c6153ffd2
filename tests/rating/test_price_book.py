"""The price in force, by any name of a model, and never another lane's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.rating.price_book import (
    NAME_LENGTH_MAX,
    PRICE_NANOS_MAX,
    ModelFacts,
    PriceBook,
    PriceVersion,
    check_version,
)
from farebox.rating.units import Lane, Unit, UnpricedError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def version(
    number: int = 1,
    *,
    model: str = "gpt-5.4",
    lane: Lane = Lane.STANDARD,
    at: datetime = T0,
    price: int = 2_500_000_000,
    currency: str = "USD",
) -> PriceVersion:
    """A price row that differs from others by what is given."""
    return PriceVersion(
        id=UUID(int=number),
        provider="openai",
        model=model,
        lane=lane,
        currency=currency,
        effective_at=at,
        source="operator",
        long_context_over=None,
        base=((Unit.INPUT, price),),
    )


FACTS = (
    ModelFacts("openai", "gpt-5.4", aliases=("gpt-5.4-2026-03-05", "GPT-5-4")),
    ModelFacts("openai", "ft:gpt-4o", patterns=(r"^ft:gpt\-4o\-2024\-",)),
    ModelFacts("openai", "twin-a", patterns=(r"^twin-",)),
    ModelFacts("openai", "twin-b", patterns=(r"^twin-x",)),
)


def book(*versions: PriceVersion) -> PriceBook:
    """A book of these versions and the facts above."""
    return PriceBook(versions, FACTS, revision=7)


def test_the_latest_price_that_has_begun_is_in_force() -> None:
    """DED-07: a price holds from its instant on, to the microsecond, until the next one."""
    old, new = version(1), version(2, at=T0 + DAY, price=3)
    prices = book(new, old)
    assert prices.revision == 7
    assert prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0) is old
    just_before = T0 + DAY - timedelta(microseconds=1)
    assert prices.version_at("openai", "gpt-5.4", Lane.STANDARD, just_before) is old
    assert prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0 + DAY) is new
    assert prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0 + 999 * DAY) is new
    assert prices.version(new.id) is new
    assert prices.version(UUID(int=99)) is None
    assert list(prices.versions()) == [old, new]


@given(starts=st.sets(st.integers(0, 50), min_size=1), at=st.integers(-5, 60))
def test_the_price_in_force_is_that_of_a_plain_search(starts: set[int], at: int) -> None:
    """Whatever the order and number of versions, the quick search finds what a slow one does."""
    rows = [version(n + 1, at=T0 + n * DAY, price=n) for n in starts]
    begun = [row for row in rows if row.effective_at <= T0 + at * DAY]
    prices = book(*rows)
    if not begun:
        with pytest.raises(UnpricedError):
            prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0 + at * DAY)
    else:
        found = prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0 + at * DAY)
        assert found is max(begun, key=lambda row: row.effective_at)


def test_a_lane_without_a_price_never_falls_back() -> None:
    """DESIGN.md decision 9: genai-prices falls back to the standard lane; here it is refused."""
    prices = book(version(1), version(2, lane=Lane.BATCH, at=T0 + DAY))
    for lane, at in ((Lane.FLEX, T0), (Lane.PRIORITY, T0), (Lane.BATCH, T0)):
        with pytest.raises(UnpricedError) as caught:
            prices.version_at("openai", "gpt-5.4", lane, at)
        assert caught.value.reason == "unpriced_lane"
        assert lane.value in caught.value.message
    assert prices.version_at("openai", "gpt-5.4", Lane.BATCH, T0 + DAY).lane is Lane.BATCH


def test_a_currency_without_a_price_is_refused() -> None:
    """A price holds in its own currency only; there is no silent exchange."""
    prices = book(version(1), version(2, currency="EUR"))
    found = prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0, currency="EUR")
    assert found.currency == "EUR"
    with pytest.raises(UnpricedError, match="GBP"):
        prices.version_at("openai", "gpt-5.4", Lane.STANDARD, T0, currency="GBP")


def test_a_model_is_found_by_any_of_its_names() -> None:
    """Dated snapshots, other spellings and fine-tuned models lead to the model's price."""
    prices = book(version(1), version(2, model="ft:gpt-4o"))
    names = ("gpt-5.4", "gpt-5.4-2026-03-05", "gpt-5-4", "GPT-5.4", "Gpt-5.4-2026-03-05")
    for name in names:
        assert prices.version_at("openai", name, Lane.STANDARD, T0).model == "gpt-5.4"
        assert prices.facts("openai", name) is FACTS[0]
        assert prices.lanes("openai", name) == (Lane.STANDARD,)
        assert prices.resolve("openai", name) == "gpt-5.4"
    tuned = "ft:gpt-4o-2024-08-06:acme::Ab1"
    assert prices.version_at("openai", tuned, Lane.STANDARD, T0).model == "ft:gpt-4o"


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5.4-2026-12-01",
        "gpt-9",
        "",
        "twin-x",
        "ft:gpt-4o-2024-08-06:" + "x" * NAME_LENGTH_MAX,
    ],
)
def test_an_unknown_or_ambiguous_name_is_refused(name: str) -> None:
    """A model that is not known for certain has no price; nothing is guessed from its looks."""
    prices = book(version(1), version(2, model="twin-a"), version(3, model="twin-b"))
    lookups = (
        lambda: prices.version_at("openai", name, Lane.STANDARD, T0),
        lambda: prices.facts("openai", name),
        lambda: prices.lanes("openai", name),
    )
    for lookup in lookups:
        with pytest.raises(UnpricedError) as caught:
            lookup()
        assert caught.value.reason == "unpriced_model"


def test_another_providers_model_is_another_model() -> None:
    """A name means something only together with its provider."""
    with pytest.raises(UnpricedError, match="azure"):
        book(version(1)).version_at("azure", "gpt-5.4", Lane.STANDARD, T0)


def test_a_model_without_facts_has_none() -> None:
    """A priced model of which nothing else is known can be asked for its facts all the same."""
    prices = book(version(1, model="mystery"))
    assert prices.facts("openai", "mystery") == ModelFacts("openai", "mystery")
    assert prices.facts("openai", "mystery").context_window is None


def test_a_book_lists_its_models_and_lanes() -> None:
    """The list of models is that of what can be charged, and lanes come in one order."""
    prices = book(
        version(1, model="b", lane=Lane.PRIORITY),
        version(2, model="b", lane=Lane.BATCH),
        version(3, model="a"),
    )
    assert prices.models("openai") == ("a", "b")
    assert prices.models("nobody") == ()
    assert prices.lanes("openai", "b") == (Lane.BATCH, Lane.PRIORITY)
    assert prices.lanes("openai", "b", currency="EUR") == ()


def test_of_two_prices_from_one_instant_the_later_row_holds() -> None:
    """A wrong price is corrected by another row; one bad row never stops a node from loading."""
    wrong, right = version(1, price=1), version(2, price=2)
    assert book(wrong, right).version_at("openai", "gpt-5.4", Lane.STANDARD, T0) is right
    assert book(right, wrong).version_at("openai", "gpt-5.4", Lane.STANDARD, T0) is wrong
    assert book(wrong, right).version(wrong.id) is wrong  # a past charge is still explained


def test_a_name_for_two_models_means_neither() -> None:
    """An alias that two models claim is refused; a model's own name always means the model."""
    facts = [
        ModelFacts("openai", "a", aliases=("x", "b")),
        ModelFacts("openai", "b", aliases=("X",)),
        ModelFacts("openai", "B"),
    ]
    prices = PriceBook([], facts, revision=1)
    for name in ("x", "X"):
        with pytest.raises(UnpricedError):
            prices.resolve("openai", name)
    assert [prices.resolve("openai", name) for name in ("a", "A", "b", "B")] == ["a", "a", "b", "B"]


GOOD = version()
TIERED = msgspec.structs.replace(GOOD, long_context_over=272_000, long=((Unit.INPUT, 5),))


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (msgspec.structs.replace(GOOD, effective_at=datetime(2026, 1, 1)), "effective_at"),  # noqa: DTZ001
        (msgspec.structs.replace(GOOD, base=((Unit.INPUT, -1),)), "input"),
        (msgspec.structs.replace(GOOD, base=((Unit.INPUT, PRICE_NANOS_MAX + 1),)), "input"),
        (msgspec.structs.replace(GOOD, base=((Unit.INPUT, 1), (Unit.INPUT, 2))), "base"),
        (msgspec.structs.replace(GOOD, long_context_over=5), "long"),
        (msgspec.structs.replace(TIERED, long_context_over=None), "long"),
        (msgspec.structs.replace(TIERED, long_context_over=-1), "long_context_over"),
    ],
)
def test_price_units_validated(row: PriceVersion, field: str) -> None:
    """Field bug 32: a price out of range is refused when it comes in, with its name."""
    with pytest.raises(InvalidInputError) as caught:
        check_version(row)
    assert caught.value.field == field
    with pytest.raises(InvalidInputError):
        book(row)


def test_a_sound_row_is_taken() -> None:
    """Free units and long-context tables are fine."""
    check_version(TIERED)
    check_version(msgspec.structs.replace(GOOD, base=((Unit.INPUT, 0), (Unit.OUTPUT, 0))))


def test_a_version_survives_its_json() -> None:
    """A price version can be stored and read back without a change."""
    assert msgspec.json.decode(msgspec.json.encode(TIERED), type=PriceVersion) == TIERED
