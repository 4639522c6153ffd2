"""What of a newer price catalogue becomes a new version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from farebox.operations.catalogue_import import AT_ONCE, OPERATOR, ImportPlan, plan_import
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.units import Lane, Unit

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
SOON = datetime(2026, 12, 1, tzinfo=UTC)
LATER = datetime(2027, 3, 1, tzinfo=UTC)
_numbers = count(1)


def price(
    nanos: int, at: datetime = ALWAYS, *, model: str = "m", source: str = "catalogue"
) -> PriceVersion:
    """A price of the model's input from an instant on."""
    return PriceVersion(
        id=UUID(int=next(_numbers)),
        provider="p",
        model=model,
        lane=Lane.STANDARD,
        currency="USD",
        effective_at=at,
        source=source,
        long_context_over=None,
        base=((Unit.INPUT, nanos),),
    )


def plan(known: list[PriceVersion], incoming: list[PriceVersion]) -> ImportPlan:
    """The plan of an import at NOW, without facts."""
    return plan_import(known, [], incoming, [], NOW)


def told(versions: tuple[PriceVersion, ...]) -> list[tuple[int, datetime]]:
    """Price and instant of each version."""
    return [(version.base[0][1], version.effective_at) for version in versions]


def test_a_model_that_is_new_is_taken_as_dated() -> None:
    """Nothing was charged at it yet, so its whole history holds."""
    rows = [price(1), price(2, NOW - timedelta(days=5)), price(3, LATER)]
    assert plan([], rows).versions == tuple(rows)


def test_the_same_catalogue_again_changes_nothing() -> None:
    """An import is idempotent."""
    rows = [price(1), price(2, SOON)]
    again = plan(rows, [price(1), price(2, SOON)])
    assert again.is_empty
    assert again.changed_keys == 0


def test_a_price_that_changed_holds_from_now_on() -> None:
    """What was charged before stays explained by the price of then: the past is never re-priced."""
    standing = price(1)
    found = plan([standing], [price(1), price(2, NOW - timedelta(days=30))])
    assert told(found.versions) == [(2, NOW)]
    book = PriceBook([standing, *found.versions], [], revision=1)
    before = NOW - timedelta(microseconds=1)
    assert book.version_at("p", "m", Lane.STANDARD, before).base[0][1] == 1
    assert book.version_at("p", "m", Lane.STANDARD, NOW).base[0][1] == 2


def test_a_price_to_come_is_taken_as_dated() -> None:
    """An announced change begins on its day."""
    assert told(plan([price(1)], [price(1), price(2, SOON)]).versions) == [(2, SOON)]


def test_a_change_that_is_called_off_is_taken_back() -> None:
    """A price that was announced, and is announced no more, gives way at the instant it begins."""
    found = plan([price(1), price(2, SOON)], [price(1)])
    assert told(found.versions) == [(1, SOON + timedelta(microseconds=1))]


def test_an_operators_price_stands() -> None:
    """A price that was set by hand is not overwritten, now or later, and the import says so."""
    own = [price(1), price(9, NOW - timedelta(days=1), source=OPERATOR)]
    found = plan(own, [price(2)])
    assert found.versions == ()
    assert found.kept == (("p", "m", Lane.STANDARD, "USD"),)
    own = [price(1), price(9, SOON, source=OPERATOR)]
    assert plan(own, [price(2)]).versions == ()


def test_a_model_that_the_catalogue_drops_keeps_its_price() -> None:
    """Calls that still name it are charged as before; the import counts it."""
    found = plan([price(1, model="old")], [price(1, model="new")])
    assert [version.model for version in found.versions] == ["new"]
    assert found.gone == 1


INSTANTS = st.sampled_from(
    [ALWAYS, NOW - timedelta(days=2), NOW, NOW + timedelta(days=1), SOON, LATER]
)
ROWS = st.dictionaries(INSTANTS, st.integers(1, 3), min_size=1).map(
    lambda rows: [price(nanos, at) for at, nanos in sorted(rows.items())]
)


@given(ROWS, ROWS)
def test_after_an_import_the_catalogues_prices_hold_from_now_on(
    known: list[PriceVersion], incoming: list[PriceVersion]
) -> None:
    """For any two histories: from now on the prices are the catalogue's, before now untouched."""
    found = plan(known, incoming)
    book = PriceBook([*known, *found.versions], [], revision=1)
    before = PriceBook(known, [], revision=0)
    theirs = PriceBook(incoming, [], revision=0)
    for at in (NOW, NOW + timedelta(days=1), SOON, LATER, LATER + timedelta(days=1)):
        # A moment later: where two versions meet at an instant, the later word follows at once.
        at_once = at + AT_ONCE
        if any(row.effective_at <= at_once for row in incoming):
            wanted = theirs.version_at("p", "m", Lane.STANDARD, at_once).base
            assert book.version_at("p", "m", Lane.STANDARD, at_once).base == wanted
    past = NOW - timedelta(microseconds=1)
    if any(row.effective_at <= past for row in known):
        was = before.version_at("p", "m", Lane.STANDARD, past)
        assert book.version_at("p", "m", Lane.STANDARD, past) == was
    assert plan([*known, *found.versions], incoming).is_empty


def test_what_is_known_of_a_model_grows() -> None:
    """The catalogue's word holds where it has one; what only the operator knows stays."""
    known = ModelFacts("p", "m", context_window=1_000, output_max=99)
    incoming = ModelFacts("p", "m", context_window=2_000)
    merged = structs.replace(incoming, output_max=99)
    assert plan_import([], [known], [], [incoming], NOW).facts == (merged,)
    assert plan_import([], [merged], [], [incoming], NOW).facts == ()


def test_a_name_of_the_operators_own_model_is_not_taken_away() -> None:
    """A catalogue that begins to use the name as an alias cannot break the price book."""
    own = ModelFacts("p", "Mine", context_window=1)
    incoming = ModelFacts("p", "m", aliases=("mine", "m-1"))
    facts = plan_import([], [own], [], [incoming], NOW).facts
    assert facts == (structs.replace(incoming, aliases=("m-1",)),)
    PriceBook([], [own, *facts], revision=1)
