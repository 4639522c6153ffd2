"""Usage summed on PostgreSQL: rollups and calls say the same."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import uuid7
from farebox.operations.call_facts import CallSummary, Position
from farebox.operations.usage import (
    SPAN_MAX,
    Bucket,
    CallFilter,
    Dimension,
    UsageQuestion,
    UsageRow,
    check_span,
)
from farebox.storage import usage_store
from farebox.storage.connecting import Connector
from farebox.storage.usage_days import PostgresUsageDays
from farebox.storage.usage_store import PostgresUsageStore
from tests.support.console_people import Payer


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PostgresUsageStore]:
    """The store on one connection."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield PostgresUsageStore(connection)


def question(payer: Payer, **more: Any) -> UsageQuestion:
    """About a day around now."""
    now = datetime.now(UTC)
    asked = UsageQuestion(
        organization_id=payer.id,
        zone="Europe/Berlin",
        since=now - timedelta(hours=12),
        until=now + timedelta(hours=12),
    )
    return structs.replace(asked, **more)


async def spend(payer: Payer) -> None:
    """Three calls to two models."""
    await payer.grant("50")
    for model, output in (("a", 100), ("a", 200), ("b", 50)):
        call_id = await payer.admit("1", model=model)
        await payer.settle(call_id, 1_000, output)


async def test_rollups_and_calls_agree(dsn: str, store: PostgresUsageStore) -> None:
    """DED: the hourly sums are the calls' sums, by whatever both know."""
    payer, other = Payer(dsn), Payer(dsn, "Zoo")
    await spend(payer)
    await spend(other)
    by = frozenset({Dimension.MODEL, Dimension.PROJECT, Dimension.KEY, Dimension.ENDPOINT})
    rolled: list[UsageRow] = []
    for bucket in (None, Bucket.HOUR, Bucket.DAY):
        rolled = (await store.read(question(payer, by=by, bucket=bucket), limit=10, offset=0)).rows
        asked = question(payer, by=by | {Dimension.USER}, bucket=bucket)
        called = (await store.read(asked, limit=10, offset=0)).rows
        assert [structs.replace(row, user=None) for row in called] == rolled
        assert sorted(row.model or "" for row in rolled) == ["a", "b"]
    total = (await store.read(question(payer), limit=1, offset=0)).total
    assert total.sums.calls == sum(row.sums.calls for row in rolled) == 3
    assert total.sums.charge == sum(row.sums.charge for row in rolled)
    assert total.no_feature.calls == 3
    assert total.no_environment.calls == 0


async def test_rollups_serve_ui(dsn: str, store: PostgresUsageStore) -> None:
    """Field bug 56: usage by what the rollup knows reads no call, however many there are."""
    payer = Payer(dsn)
    await spend(payer)
    by = frozenset({Dimension.MODEL, Dimension.PROJECT, Dimension.KEY, Dimension.FEATURE})
    before = await store.read(question(payer, by=by), limit=10, offset=0)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        # Whoever reads a call now waits for us, and gives up.
        await other.execute("LOCK TABLE call IN ACCESS EXCLUSIVE MODE")
        assert await store.read(question(payer, by=by), limit=10, offset=0) == before
        await other.rollback()


async def test_a_question_narrows_and_turns_pages(dsn: str, store: PostgresUsageStore) -> None:
    """ATT: by any dimension; nothing comes twice."""
    payer = Payer(dsn)
    await spend(payer)
    asked = question(payer, by=frozenset({Dimension.MODEL}))
    pages = [((await store.read(asked, limit=1, offset=n)).rows)[0].model for n in range(2)]
    assert pages == ["a", "b"], "the largest charge first"
    narrowed = (await store.read(question(payer, model="b"), limit=10, offset=0)).rows
    assert [row.sums.output_tokens for row in narrowed] == [50]
    none = await store.read(question(payer, feature="none"), limit=10, offset=5)
    assert (none.rows, none.total.sums.calls) == ([], 0)
    beyond = await store.read(asked, limit=10, offset=5)
    assert (beyond.rows, beyond.total.sums.calls) == ([], 3), "the total stands on every page"
    past = question(payer, until=datetime.now(UTC) - timedelta(hours=6))
    assert (await store.read(past, limit=10, offset=0)).rows == []


async def test_a_day_is_one_of_the_organisation_s_zone(dsn: str, store: PostgresUsageStore) -> None:
    """Windows and days follow the organisation's zone."""
    payer = Payer(dsn)
    await spend(payer)
    asked = question(payer, bucket=Bucket.DAY, zone="Asia/Tokyo")
    (row,) = (await store.read(asked, limit=10, offset=0)).rows
    assert row.at is not None
    assert (row.at.hour, row.at.minute) == (15, 0), "midnight in Tokyo"


async def test_calls_are_narrowed_by_what_they_were_for(
    dsn: str, store: PostgresUsageStore
) -> None:
    """A call, an open hold and a refusal are narrowed alike."""
    payer = Payer(dsn)
    await spend(payer)
    running = await payer.admit("1", model="b")
    refused = payer.refuse("monthly_limit", model="b")
    found = await store.calls(payer.id, CallFilter(model="b"), after=None, limit=10)
    assert [call.status for call in found] == ["refused", "open", "settled"]
    assert [call.id for call in found[:2]] == [refused, running]
    opened = await store.calls(payer.id, CallFilter(status="open"), after=None, limit=10)
    assert [call.id for call in opened] == [running]
    later = CallFilter(since=datetime.now(UTC) + timedelta(days=1))
    assert await store.calls(payer.id, later, after=None, limit=10) == []


async def test_few_among_many_are_found_by_their_days(
    dsn: str, store: PostgresUsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list says the same, page by page, whether it reads all calls or the days of the rollups."""
    payer = Payer(dsn)
    await payer.grant("50")
    await payer.settle(await payer.admit("1", model="m0"), 1_000, 10)
    await payer.admit("1", model="m1")
    payer.refuse("monthly_limit", model="m2")
    _spread(dsn, days=40)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        assert await PostgresUsageDays(connection).step() > 0
    now = datetime.now(UTC)
    span: dict[str, Any] = {
        "since": now - timedelta(days=30),
        "until": now - timedelta(days=9, hours=3),
    }
    asked = [
        structs.replace(CallFilter(model=f"m{n}"), **more)
        for n in range(6)
        for more in ({}, span, {"feature": ""}, {"project_id": payer.project_id})
    ]
    asked += [CallFilter(key_id=payer.key_id), CallFilter(feature="", status="open")]
    expected = [await _pages(store, payer, narrowed) for narrowed in asked]
    assert len(expected[0]) > 10
    monkeypatch.setattr(usage_store, "NEAR_CALLS", 5)
    assert [await _pages(store, payer, narrowed) for narrowed in asked] == expected


def _spread(dsn: str, *, days: int) -> None:
    """Copies of the one closed call on some of the days before, by five models, and their usage."""
    chance = random.Random(5)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("SELECT farebox_make_partitions(farebox_now() - interval '3 months', 4)")
        for day in sorted(chance.choices(range(days), k=90)):
            at = datetime.now(UTC) - timedelta(days=day, minutes=chance.randrange(60))
            # The fourth and the fifth are called for a while only.
            models = 5 if 12 < day < 20 else 3
            sql.execute(
                "INSERT INTO call SELECT (jsonb_populate_record(NULL::call, to_jsonb(c)"
                " || jsonb_build_object('id', %s::uuid, 'admitted_at', %s::timestamptz, 'model',"
                " %s::text))).* FROM (SELECT * FROM call ORDER BY id DESC LIMIT 1) AS c",
                (uuid7(at, chance.randbytes(10)), at, f"m{chance.randrange(models)}"),
            )
        sql.execute("DELETE FROM rollup_hour")
        sql.execute(
            "INSERT INTO rollup_hour SELECT organization_id, date_trunc('hour', admitted_at,"
            " 'UTC'), gen_random_uuid(), project_id, key_id, feature, environment, model, lane,"
            " endpoint, count(*), 0, 0, 0, 0, 0, 0, 0, 0 FROM call"
            " GROUP BY 1, 2, 4, 5, 6, 7, 8, 9, 10"
        )


async def _pages(store: PostgresUsageStore, payer: Payer, narrowed: CallFilter) -> list[object]:
    """All of a list, turned in pages of seven."""
    calls: list[CallSummary] = []
    after = None
    while page := await store.calls(payer.id, narrowed, after=after, limit=7):
        calls += page
        after = Position(page[-1].id, page[-1].turn)
    return [(call.id, call.turn) for call in calls]


async def test_runs_are_summed_and_paged(dsn: str, store: PostgresUsageStore) -> None:
    """BUD-12: what each run has used, the most recently active first."""
    payer = Payer(dsn)
    await spend(payer)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE call SET run_ref = CASE model WHEN 'a' THEN 'agent' ELSE 'other' END")
    since = datetime.now(UTC) - timedelta(days=1)
    runs = await store.runs(payer.id, run=None, since=since, before=None, limit=10)
    assert [(run.run, run.calls) for run in runs] == [("other", 1), ("agent", 2)]
    (next_page,) = await store.runs(
        payer.id, run=None, since=since, before=runs[0].last_id, limit=10
    )
    assert next_page == runs[1]
    (one,) = await store.runs(payer.id, run="agent", since=since, before=None, limit=10)
    assert one == runs[1]


def test_a_span_has_an_end() -> None:
    """Every question is bounded."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    check_span(now, now + SPAN_MAX, SPAN_MAX)
    with pytest.raises(InvalidInputError, match="until"):
        check_span(now, now, SPAN_MAX)
    with pytest.raises(InvalidInputError, match="since"):
        check_span(now, now + SPAN_MAX + timedelta(seconds=1), SPAN_MAX)
