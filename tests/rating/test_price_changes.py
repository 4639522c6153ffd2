"""A newer catalogue changes prices from the import on, and never what was charged before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from farebox.rating.price_book import PriceBook, PriceVersion
from farebox.rating.price_changes import OPERATOR, price_changes
from farebox.rating.units import Lane, Unit, UnpricedError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def version(
    day: int, price: int, *, lane: Lane = Lane.STANDARD, source: str = "g 1"
) -> PriceVersion:
    """A row of the catalogue; its id is a digest of it, as the import makes it."""
    return PriceVersion(
        id=uuid5(UUID(int=0), f"{day} {price} {lane} {source == OPERATOR}"),
        provider="openai",
        model="m",
        lane=lane,
        currency="USD",
        effective_at=T0 + day * DAY,
        source=source,
        long_context_over=None,
        base=((Unit.INPUT, price),),
    )


def price_at(rows: list[PriceVersion], day: int, lane: Lane = Lane.STANDARD) -> int | None:
    """The price in force on a day, if any."""
    try:
        found = PriceBook(rows, [], revision=1).version_at("openai", "m", lane, T0 + day * DAY)
    except UnpricedError:
        return None
    return found.base[0][1]


def test_an_import_twice_adds_nothing() -> None:
    """The same catalogue again is no change."""
    rows = [version(0, 5), version(3, 4), version(0, 2, lane=Lane.BATCH)]
    assert price_changes(rows, [], at=T0) == rows
    assert price_changes(rows, rows, at=T0 + 9 * DAY) == []


def test_a_figure_edited_in_place_becomes_a_new_version_from_the_import_on() -> None:
    """DED-07: yesterday's charges keep yesterday's price, which the catalogue shows no more."""
    stored, edited = version(0, 5), version(0, 4, source="g 2")
    (change,) = price_changes([edited], [stored], at=T0 + 7 * DAY)
    assert change.effective_at == T0 + 7 * DAY
    assert change.source == "g 2"
    assert change.id not in {stored.id, edited.id}
    after = [stored, change]
    assert [price_at(after, day) for day in (0, 6, 7)] == [5, 5, 4]


def test_a_figure_that_returns_is_a_new_version_again() -> None:
    """A price that goes from 5 to 4 and back costs 5 again, though that row was stored before."""
    rows = [version(0, 5)]
    rows += price_changes([version(0, 4)], rows, at=T0 + DAY)
    rows += price_changes([version(0, 5)], rows, at=T0 + 2 * DAY)
    assert [price_at(rows, day) for day in (0, 1, 2)] == [5, 4, 5]
    assert len({row.id for row in rows}) == 3


def test_an_announced_price_begins_on_its_day() -> None:
    """A price with a date in the future is stored now and holds from that day."""
    rows = [version(0, 5)]
    rows += price_changes([version(0, 5), version(9, 3)], rows, at=T0 + DAY)
    assert rows[-1] == version(9, 3)
    assert [price_at(rows, day) for day in (8, 9)] == [5, 3]


def test_an_announcement_that_is_withdrawn_does_not_begin() -> None:
    """A stored row is never removed: another one with the price that stays takes its day."""
    rows = [version(0, 5), version(9, 3)]
    rows += price_changes([version(0, 5)], rows, at=T0 + DAY)
    assert price_at(rows, 9) == 5


def test_the_operators_price_stays() -> None:
    """What the operator set is not overridden by any catalogue, now or on a later date."""
    rows = [version(0, 5), version(2, 1, source=OPERATOR)]
    assert price_changes([version(0, 7), version(4, 8)], rows, at=T0 + 3 * DAY) == []


def test_what_is_listed_no_more_keeps_its_price() -> None:
    """A model that left the catalogue may still be served: only an operator ends its price."""
    assert price_changes([], [version(0, 5)], at=T0) == []


ROWS = st.dictionaries(
    st.tuples(st.integers(0, 12), st.sampled_from([Lane.STANDARD, Lane.BATCH])),
    st.integers(1, 3),
    max_size=6,
).map(lambda found: [version(day, price, lane=lane) for (day, lane), price in found.items()])


@given(catalogues=st.lists(ROWS, min_size=1, max_size=4), days=st.lists(st.integers(0, 12)))
def test_stored_prices_follow_the_catalogue_and_keep_the_past(
    catalogues: list[list[PriceVersion]], days: list[int]
) -> None:
    """After any series of imports the future is as imported last and the past as it was."""
    stored: list[PriceVersion] = []
    for number, imported in enumerate(catalogues):
        day = sorted([*days, 0])[min(number, len(days))]
        before = list(stored)
        stored += price_changes(imported, stored, at=T0 + day * DAY)
        assert len({row.id for row in stored}) == len(stored)
        for lane in (Lane.STANDARD, Lane.BATCH):
            for each in range(15):
                had, wants = price_at(before, each, lane), price_at(imported, each, lane)
                if each < day and had is not None:
                    assert price_at(stored, each, lane) == had
                elif each >= day and wants is not None:
                    assert price_at(stored, each, lane) == wants
        assert price_changes(imported, stored, at=T0 + day * DAY) == []
