"""Identifiers: what they carry, how they sort, how people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import (
    PREFIXES,
    RANDOM_BYTES,
    format_id,
    looks_like_id,
    parse_id,
    uuid7,
    uuid7_from_millis,
)

INSTANTS = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2500, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(INSTANTS, RANDOM)
def test_an_id_carries_its_millisecond(at: datetime, random: bytes) -> None:
    """DED-17: the id of a call names the month its rows are in, exactly."""
    made = uuid7(at, random)
    assert (made.version, made.variant) == (7, RFC_4122)
    carried = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=made.int >> 80)
    assert carried <= at < carried + timedelta(milliseconds=1)


@given(INSTANTS, INSTANTS, RANDOM, RANDOM)
def test_ids_sort_by_time(first: datetime, second: datetime, one: bytes, other: bytes) -> None:
    """DED-17: of two ids the one made in an earlier millisecond sorts first."""
    milli = timedelta(milliseconds=1)
    if second - first >= milli:
        assert uuid7(first, one) < uuid7(second, other)


@given(INSTANTS, RANDOM, RANDOM)
def test_randomness_is_kept(at: datetime, one: bytes, other: bytes) -> None:
    """DED-17: 74 random bits tell ids of the same millisecond apart."""
    numbers = [int.from_bytes(random, "big") for random in (one, other)]
    kept = [(number >> 68, number % 2**62) for number in numbers]
    assert (uuid7(at, one) == uuid7(at, other)) == (kept[0] == kept[1])


def test_the_instant_may_be_in_any_zone_but_must_have_one() -> None:
    """DED-17: the same instant gives the same id; a naive time is an error."""
    at = datetime(2027, 3, 10, 12, tzinfo=UTC)
    random = bytes(range(RANDOM_BYTES))
    assert uuid7(at.astimezone(timezone(timedelta(hours=9))), random) == uuid7(at, random)
    assert uuid7_from_millis(int(at.timestamp()) * 1000, random) == uuid7(at, random)
    with pytest.raises(TypeError):
        uuid7(at.replace(tzinfo=None), random)
    with pytest.raises(AssertionError):
        uuid7(at, b"short")


@given(st.sampled_from(sorted(PREFIXES)), st.uuids())
def test_an_id_survives_being_written(prefix: str, value: UUID) -> None:
    """ERR-01: the text that people see reads back, with or without prefix, in any case."""
    text = format_id(prefix, value)
    assert text.startswith(f"{prefix}_")
    assert looks_like_id(prefix, text)
    for written in (text, value.hex, str(value), f"  {text.upper()} "):
        assert parse_id(prefix, written, field="id") == value


@pytest.mark.parametrize(
    "text", ["", "org_", "org_12", "proj_" + "0" * 32, "0" * 33, "org_" + "g" * 32, "\u0663" * 32]
)
def test_another_text_is_no_id(text: str) -> None:
    """ERR-01: an id of another kind or shape is refused, naming the field and the shape."""
    with pytest.raises(InvalidInputError, match="org must look like org_ and 32 hexadecimal"):
        parse_id("org", text, field="org")
    assert not looks_like_id("org", text)


def test_an_unknown_kind_is_our_own_mistake() -> None:
    """ERR-01: only known kinds of things have ids."""
    with pytest.raises(AssertionError):
        format_id("thing", UUID(int=1))
