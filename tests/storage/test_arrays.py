"""Array literals, read back by the server that will read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.kit.texts import storable
from farebox.storage.arrays import flags, instants, numbers, texts, uuids
from tests.support.odd_texts import odd_texts

Read = Callable[[str, str], Any]

TEXTS = st.one_of(
    st.sampled_from(
        ["", "NULL", "null", "{}", "{NULL}", '"', "\\", '\\"', "a\x00b", "\ud800", "%s"]
    ),
    odd_texts(),
)
INSTANTS = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)
on_server = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def read(dsn: str) -> Iterator[Read]:
    """Have the server read a literal of a type."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone TO 'UTC'")

        def ask(literal: str, kind: str) -> Any:
            row = connection.execute(f"SELECT %s::{kind}".encode(), (literal,)).fetchone()
            assert row is not None
            return row[0]

        yield ask


@given(values=st.lists(st.none() | TEXTS))
@on_server
def test_any_text_arrives(read: Read, values: list[str | None]) -> None:
    """ENGINE "A batch": every text arrives as it is, but for what PostgreSQL cannot store."""
    expected = [None if v is None else storable(v) for v in values]
    assert read(texts(values), "text[]") == expected


@given(text=TEXTS)
def test_only_what_cannot_be_stored_is_mended(text: str) -> None:
    """ATT-01: a label is changed only where it must be, and never in its other characters."""
    mended = storable(text)
    mended.encode()
    assert "\x00" not in mended
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert mended == whole.replace("\x00", "\ufffd")


@given(values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
@on_server
def test_any_number_arrives(read: Read, values: list[int | None]) -> None:
    """DESIGN 8: every amount that a column holds arrives exactly."""
    assert read(numbers(values), "bigint[]") == values


@given(
    bits=st.lists(st.booleans()),
    ids=st.lists(st.none() | st.uuids()),
    at=st.lists(st.none() | INSTANTS),
)
@on_server
def test_flags_ids_and_instants_arrive(
    read: Read, bits: list[bool], ids: list[UUID | None], at: list[datetime | None]
) -> None:
    """ENGINE "A batch": booleans, ids and instants to the microsecond arrive as they are."""
    assert read(flags(bits), "boolean[]") == bits
    assert read(uuids(ids), "uuid[]") == ids
    assert read(instants(at), "timestamptz[]") == at


def test_an_instant_of_another_zone_is_the_same_instant(read: Read) -> None:
    """ENGINE "Time": an instant's offset travels with it."""
    at = datetime(2026, 11, 1, 5, 30, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert read(instants([at]), "timestamptz[]") == [datetime(2026, 11, 1, 0, 0, 0, 7, tzinfo=UTC)]


@given(values=st.lists(st.lists(st.none() | TEXTS)))
@on_server
def test_arrays_travel_as_texts_of_arrays(read: Read, values: list[list[str | None]]) -> None:
    """ENGINE "A batch": line items are arrays of different lengths inside one parameter."""
    inner = read(texts(map(texts, values)), "text[]")
    expected = [[None if v is None else storable(v) for v in row] for row in values]
    assert [read(literal, "text[]") for literal in inner] == expected
