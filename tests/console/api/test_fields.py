"""Values from outside, and places in lists."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from farebox.console.api.fields import (
    page_of,
    read_cursor,
    read_instant,
    read_number_cursor,
    write_cursor,
)
from farebox.kit.errors import InvalidInputError


class Row(Struct):
    """A document."""

    name: str


@given(st.text(min_size=1, max_size=200).filter(lambda text: "\x00" not in text))
def test_a_cursor_leads_back_to_its_place(place: str) -> None:
    """Whatever the names in a list are, the next page begins where the last one ended."""
    try:
        place.encode()
    except UnicodeEncodeError:
        return
    assert read_cursor(write_cursor(place)) == place


@given(st.text(max_size=60))
def test_any_other_text_is_refused_or_is_a_place(text: str) -> None:
    """No cursor makes a fault."""
    for read in (read_cursor, read_number_cursor):
        with suppress(InvalidInputError):
            place = read(text)
            assert place or place == 0


def test_a_number_s_cursor_fits_a_column() -> None:
    """A larger number than the database keeps is no place."""
    assert read_number_cursor(write_cursor(str(2**63 - 1))) == 2**63 - 1
    assert read_number_cursor(None) is None
    for place in (str(2**63), "9" * 30, "-1", "1.5", "٣"):
        with pytest.raises(InvalidInputError):
            read_number_cursor(write_cursor(place))


def test_an_instant_has_a_zone_and_lies_in_a_calendar_that_is_used() -> None:
    """What cannot be stored or added to is refused with its field."""
    at = read_instant("2026-11-20T13:00:00+01:00", field="since")
    assert at == datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert read_instant(None, field="since") is None
    for text in (
        "",
        "tomorrow",
        "2026-11-20T12:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59Z",
        "2026-02-30T00:00:00Z",
    ):
        with pytest.raises(InvalidInputError, match="since"):
            read_instant(text, field="since")


def test_a_page_has_a_cursor_where_there_is_more() -> None:
    """One row more than the page says that there is another page; it is not shown."""
    rows = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    page = page_of(Row, rows, 2, ["a", "b", "c"])
    assert [row.name for row in page.data] == ["a", "b"]
    assert read_cursor(page.next_cursor) == "b"
    assert page_of(Row, rows, 3, ["a", "b", "c"]).next_cursor is None
    assert page_of(Row, [], 3, []).data == []
