"""What a batch writes: JSON that any column takes, and one statement per table that changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.kit.money import Nanos
from farebox.kit.texts import storable
from farebox.ledger.commands import LineItem
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import Rule
from farebox.ledger.state import Changes, Event, RollupDelta, RollupKey
from farebox.storage.writing import bucket, json_text, statements
from tests.support.odd_texts import odd_texts

TEXTS = odd_texts()


@pytest.fixture
def server(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that reads JSON as it is."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


AT = datetime(2026, 11, 1, tzinfo=UTC)


@given(facts=st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS), max_size=4))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_facts_arrive_as_json(server: psycopg.Connection[Any], facts: dict[str, Any]) -> None:
    """ATT-01: whatever clients call their tags, jsonb takes it, changed only where it must be."""
    row = server.execute("SELECT %s::jsonb", (json_text(facts),)).fetchone()
    assert row is not None
    mended = {
        storable(key): storable(v) if isinstance(v, str) else [storable(x) for x in v]
        for key, v in facts.items()
    }
    assert row[0] == mended


def test_what_only_looks_like_a_nul_stays() -> None:
    """ATT-01: the six characters of an escape are no NUL."""
    assert json.loads(json_text({"a": r"\u0000"})) == {"a": r"\u0000"}
    assert json.loads(json_text({"a": "\\\x00"})) == {"a": "\\\ufffd"}


def test_structs_and_times_are_mended_too() -> None:
    """ENGINE "A batch": counters and windows keep their shape beside an odd text."""
    rule = Rule(maximum=1, raised_to=2, raised_until=AT, thresholds=(80, 100))
    tier = LineItem("input", 1, 2, Nanos(3))
    plain = json.loads(json_text([rule, tier, "a"]))
    assert json.loads(json_text([rule, tier, "a\x00"])) == [*plain[:2], "a\ufffd"]


def test_an_unchanged_batch_writes_nothing() -> None:
    """ENGINE "A batch": what did not change costs no statement."""
    assert list(statements(Changes())) == []


def test_each_changed_table_is_one_statement() -> None:
    """ENGINE "A batch": a batch of any size is one statement per table, with its count of rows."""
    dimensions = Dimensions(UUID(int=1), UUID(int=2), "", "", "m", "standard", "chat")
    changes = Changes(
        events=[Event(UUID(int=9), "overrun", AT, {"n": str(n)}) for n in range(300)],
        rollups={RollupKey(UUID(int=9), AT, dimensions): RollupDelta(calls=1)},
        commands=[(UUID(int=9), UUID(int=3), b"mark")],
    )
    found = [(name, rows) for name, _, _, rows in statements(changes)]
    assert found == [("add_rollups", 1), ("insert_events", 300), ("insert_money_commands", 1)]


def test_a_bucket_names_its_dimensions() -> None:
    """ATT-01: every field counts, the hour and the organisation do not."""
    one = Dimensions(UUID(int=1), UUID(int=2), "f", "e", "m", "standard", "chat")
    names = {
        bucket(RollupKey(UUID(int=9), AT, dimensions))
        for dimensions in (
            one,
            Dimensions(UUID(int=1), UUID(int=2), "fe", "", "m", "standard", "chat"),
            Dimensions(UUID(int=2), UUID(int=1), "f", "e", "m", "standard", "chat"),
            Dimensions(UUID(int=1), UUID(int=2), "f", "e", "m", "flex", "chat"),
        )
    }
    assert len(names) == 4
    assert bucket(RollupKey(UUID(int=8), AT.replace(hour=5), one)) in names
    # It is a key of stored rows: it must never change.
    assert bucket(RollupKey(UUID(int=9), AT, one)) == UUID("4fea113c-d9fa-c896-9a8b-3ef23bc8d1b2")


def test_rollups_are_written_in_one_order() -> None:
    """ENGINE "A batch": two processes write the same rollup rows in the same order."""
    keys = [
        RollupKey(
            UUID(int=9),
            AT.replace(hour=hour),
            Dimensions(UUID(int=n), UUID(int=2), "", "", "m", "standard", "chat"),
        )
        for hour in range(3)
        for n in range(5)
    ]
    forwards = Changes(rollups={key: RollupDelta(calls=1) for key in keys})
    backwards = Changes(rollups={key: RollupDelta(calls=1) for key in reversed(keys)})
    assert list(statements(forwards)) == list(statements(backwards))
