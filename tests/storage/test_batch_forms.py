"""A batch's statement for many rows and for one: both say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.kit.texts import storable
from farebox.storage.batch_forms import (
    BatchQuery,
    Text,
    batch_queries,
    flag,
    instant,
    number,
    text,
    uuid,
    uuid_or_null,
)
from farebox.storage.sql import queries
from tests.support.odd_texts import odd_texts

ECHO = BatchQuery(
    "echo",
    "SELECT t.* FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::boolean[],"
    " $6::text[]) AS t (a, b, c, d, e, f)",
)
MANY = 3

ROWS = st.tuples(
    st.none() | odd_texts() | st.sampled_from(["", "NULL", "{}", '"', "\\", "a,b", "a\x00"]),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.uuids(),
    st.none()
    | st.datetimes(
        min_value=datetime(1, 1, 2),  # noqa: DTZ001 - the strategy adds the zone
        max_value=datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    st.booleans(),
    st.lists(st.integers()).map(lambda each: "{" + ",".join(map(str, each)) + "}"),
)


@pytest.fixture
def server(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that sends texts of no type."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone TO 'UTC'")
        yield connection


def _ask(server: psycopg.Connection[Any], sql: str, parameters: tuple[Text, ...]) -> list[Any]:
    found = server.execute(re.sub(r"\$\d+", "%s", sql).encode(), parameters).fetchall()
    return [tuple(row) for row in found]


@given(rows=st.lists(ROWS, min_size=1, max_size=MANY))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_rows_arrive(server: psycopg.Connection[Any], rows: list[Any]) -> None:
    """ENGINE "A batch": of one row or of many, every value arrives as it is."""
    texts = [
        (text(a), number(b), uuid_or_null(c), instant(d), flag(e), f) for a, b, c, d, e, f in rows
    ]
    expected = [(None if a is None else storable(a), *rest) for a, *rest in rows]
    assert _ask(server, *ECHO.of(texts)) == expected


def test_the_form_for_one_row_takes_plain_values() -> None:
    """ENGINE "A batch": one call pays for no arrays; the statement is otherwise the same."""
    row: tuple[Text, ...] = ("a", "1", uuid(UUID(int=1)), None, "t", "{}")
    sql, parameters = ECHO.of([row])
    assert parameters is row
    assert sql == (
        "SELECT t.* FROM (VALUES ($1::text, $2::bigint, $3::uuid, $4::timestamptz, $5::boolean,"
        " $6::text)) AS t (a, b, c, d, e, f)"
    )


def test_every_statement_of_a_batch_has_both_forms() -> None:
    """ENGINE "A batch": no array is left in a form for one row, but where values are arrays."""
    forms = batch_queries()
    assert {"lock_organizations", "insert_holds", "close_holds", "add_rollups"} <= forms.keys()
    for name, form in forms.items():
        assert form.of_many == queries("engine")[name]
        assert not re.search(r"unnest\(\$|ANY\(|\$\d+::\w+\[\]", form.of_one), name
