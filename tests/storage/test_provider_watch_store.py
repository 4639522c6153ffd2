"""Operators' alerts on real PostgreSQL: one of an account and hour, whoever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID

import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.operations.alerts import Alert
from farebox.operations.provider_watch import ProviderWatch
from farebox.storage.anomaly_store import PostgresAnomalyStore
from farebox.storage.connecting import Connector
from farebox.storage.provider_watch_store import PostgresProviderWatchStore
from tests.support.watched import HOUR, NOON, Watched

MAIN, SECOND = UUID(int=6), UUID(int=7)


@pytest.fixture
async def watched(dsn: str) -> AsyncIterator[Watched]:
    """A database at five past noon, with two accounts of ours."""
    watched = Watched(dsn, NOON + timedelta(minutes=5))
    for account, name in ((MAIN, "main"), (SECOND, "second")):
        watched.sql(
            f"INSERT INTO upstream_account (id, name) VALUES ('{account}', '{name}') RETURNING id"
        )
    yield watched
    await watched.aclose()


@pytest.fixture
async def gateways(watched: Watched) -> AsyncIterator[list[ProviderWatch]]:
    """Two gateways, as two processes: each with connections and a memory of its own."""
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(
                AsyncConnectionPool(
                    watched.dsn, min_size=1, open=False, kwargs={"autocommit": True}
                )
            )
            for _ in range(2)
        ]
        yield [
            ProviderWatch(PostgresProviderWatchStore(pool), monotonic=lambda: 0.0) for pool in pools
        ]


async def refused(gateways: list[ProviderWatch], *accounts: UUID) -> int:
    """Calls that both gateways' provider refuses, written at the same time; tells what is new."""
    for number, gateway in enumerate(gateways, 1):
        gateway._written_at.clear()
        for account in accounts:
            gateway.note(account, provider="openai", status=429, call_id=UUID(int=number))
    return sum(await asyncio.gather(*(gateway.flush() for gateway in gateways)))


async def told(watched: Watched) -> list[Alert]:
    """What operators were told."""
    connector = Connector(watched.dsn, name="test", durable=False)
    async with await connector.connect() as connection:
        return await PostgresAnomalyStore(connection).operator_alerts(limit=50)


async def test_two_gateways_at_once_tell_once_an_account_and_hour(
    watched: Watched, gateways: list[ProviderWatch]
) -> None:
    """ERR-08: with its word in the outbox, both or neither; an hour later it is told again; it
    is none of any organisation's alerts.
    """
    assert await refused(gateways, MAIN) == 1
    assert await refused(gateways, SECOND, MAIN) == 1
    watched.later(HOUR)
    assert await refused(gateways, MAIN) == 1
    third, second, first = await told(watched)
    assert [each.facts["account"] for each in (first, second, third)] == ["main", "second", "main"]
    assert {each.kind for each in (first, second, third)} == {"upstream_quota_exhausted"}
    assert (first.action, first.facts["provider"], first.facts["status"]) == (
        "told",
        "openai",
        "429",
    )
    assert first.facts["request_id"].startswith("req_")
    assert (third.at.hour, first.at.hour) == (13, 12)
    assert watched.sql("SELECT count(*), count(organization_id) FROM anomaly") == [(3, 0)]
    assert await watched.alerts() == []


async def test_no_organisation_is_locked_for_it(
    watched: Watched, gateways: list[ProviderWatch]
) -> None:
    """ERR-08: never in a money transaction: whoever holds an organisation holds up nothing."""
    await watched.credit()
    with watched.shop.locked(watched.till):
        assert await refused(gateways, MAIN) == 1


async def test_an_account_that_is_gone_is_no_alert(
    watched: Watched, gateways: list[ProviderWatch]
) -> None:
    """A gateway may know an account for longer than the database does."""
    assert await refused(gateways, UUID(int=99)) == 0
    assert await told(watched) == []
