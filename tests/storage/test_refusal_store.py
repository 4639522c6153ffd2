"""Refused calls on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.kit.errors import UnavailableError
from farebox.kit.ids import format_id, uuid7
from farebox.kit.money import Nanos
from farebox.ledger.commands import Refused
from farebox.ledger.limits import LimitFigures
from farebox.operations.calls import explain_call
from farebox.operations.refusals import Refusal, RefusalRow
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.connecting import Connector
from farebox.storage.node_store import Pool
from farebox.storage.refusal_store import (
    LABEL_CHARACTERS_MAX,
    MESSAGE_CHARACTERS_MAX,
    PostgresRefusalStore,
)

AT = datetime(2026, 5, 17, tzinfo=UTC)
LIMIT = LimitFigures(
    scope_kind="organization",
    scope_id=UUID(int=11).hex,
    period="month",
    maximum=Nanos(100),
    used=Nanos(95),
    held=Nanos(4),
    resets_at=AT,
)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """Connections to the test's database."""
    pool: Pool = AsyncConnectionPool(dsn, min_size=0, max_size=1, timeout=5, open=False)
    await pool.open()
    yield pool
    await pool.close()


def row(number: int, *, message: str = "No.", model: str = "gpt-5.4", times: int = 1) -> RefusalRow:
    """A refusal of two seconds ago."""
    refused = Refused(
        code="organization_spend_limit_exceeded",
        message=message,
        needed=Nanos(2),
        available=Nanos(900),
        held=Nanos(4),
        limit=LIMIT,
    )
    return RefusalRow(
        refusal=Refusal(
            call_id=uuid7(AT, number.to_bytes(10, "big")),
            organization_id=UUID(int=11),
            project_id=UUID(int=12),
            key_id=UUID(int=13),
            model=model,
            endpoint="responses",
            user="u1",
            feature="search",
            refusal=refused,
        ),
        age=timedelta(seconds=2),
        times=times,
    )


async def test_a_refusal_is_found_by_its_request_id(dsn: str, pool: Pool) -> None:
    """ERR-07, ERR-11: the row has charge zero, the reason and the figures of the decision."""
    await PostgresRefusalStore(pool).insert([row(1, times=490), row(2)])
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        store = PostgresCallStore(connection)
        call = await explain_call(store, row(1).refusal.call_id)
    assert call["id"] == format_id("req", row(1).refusal.call_id)
    assert (call["status"], call["charge"], call["times"]) == ("refused", "0.00", 490)
    assert call["reason"] == "organization_spend_limit_exceeded"
    assert call["message"] == "No."
    assert call["decision"]["needed"] == "0.000000002"
    assert call["decision"]["available"] == "0.0000009"
    assert call["decision"]["held_by_open_calls"] == "0.000000004"
    assert call["decision"]["limits"][0]["left"] == "0.000000001"
    assert (call["attribution"]["user"], call["attribution"]["feature"]) == ("u1", "search")
    assert call["hold"] is None


async def test_the_instant_is_that_of_the_refusal(dsn: str, pool: Pool) -> None:
    """A row is dated by the database's clock, less the time it waited."""
    await PostgresRefusalStore(pool).insert([row(1)])
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT farebox_now() - refused_at >= interval '2 s',"
            " farebox_now() - refused_at < interval '1 min' FROM refusal"
        ).fetchone()
    assert found == (True, True)


async def test_the_same_rows_again_change_nothing(dsn: str, pool: Pool) -> None:
    """A batch that may have been written is sent again without harm."""
    store = PostgresRefusalStore(pool)
    await store.insert([row(1)])
    await store.insert([row(1, message="Other."), row(2)])
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT message FROM refusal ORDER BY id").fetchall()
    assert found == [("No.",), ("No.",)]


async def test_odd_and_endless_texts_are_kept_as_far_as_they_go(dsn: str, pool: Pool) -> None:
    """What a client sent as a model's name can neither break the batch nor fill the disk."""
    odd = 'a "\\{},\x00\n' + "\U0001f600" * 1_000
    await PostgresRefusalStore(pool).insert([row(1, message=odd * 3, model=odd), row(2)])
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT model, message FROM refusal ORDER BY id").fetchall()
    assert found[0][0] == odd.replace("\x00", "\ufffd")[:LABEL_CHARACTERS_MAX]
    assert len(found[0][1]) == MESSAGE_CHARACTERS_MAX
    assert found[1] == ("gpt-5.4", "No.")


async def test_a_database_that_is_away_says_so(tmp_path: object) -> None:
    """The recorder hears that it may try again."""
    pool: Pool = AsyncConnectionPool(
        f"host={tmp_path} dbname=none", min_size=0, max_size=1, timeout=0.05, open=False
    )
    await pool.open()
    with pytest.raises(UnavailableError):
        await PostgresRefusalStore(pool).insert([row(1)])
    await pool.close()
