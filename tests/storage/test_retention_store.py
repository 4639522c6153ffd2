"""Dropping whole months on PostgreSQL: every total stays what it was, and nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

import psycopg
import pytest
from msgspec import structs
from typing_extensions import override

from farebox.kit.periods import months_after
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Period
from farebox.operations.check_books import BooksReport, check_books
from farebox.operations.retention import DroppedMonth, Parent
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from farebox.storage.retention_store import PostgresRetentionStore
from tests.support.engine_traffic import START, Tenant, Traffic

SWEPT = {"hold_overdue"}
"""Traffic without a worker leaves old holds open: a warning."""

MONTHS = tuple(months_after(START, number).date() for number in range(4))
"""Traffic's ids lie in these, whatever the time of their calls: months that are mixed as no clock
could mix them."""


class TotalTraffic(Traffic):
    """Its limits never end: others are forgotten long before a month may go."""

    @override
    def _limit(self, tenant: Tenant) -> SetLimit:
        return structs.replace(super()._limit(tenant), period=Period.TOTAL)


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[PostgresRetentionStore]:
    """A store that never sleeps."""

    async def sleep(_: float) -> None:
        pass

    connection = await Connector(dsn, name="retention", durable=False).connect()
    async with connection:
        yield PostgresRetentionStore(connection, sleep=sleep)


async def dropped(dsn: str, month: date, parent: Parent = Parent.CALL) -> DroppedMonth:
    """Drop a month."""
    async with opened(dsn) as store:
        return await store.drop(parent, month)


async def checked(dsn: str) -> BooksReport:
    """Check the books of that database."""
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        report = await check_books(PostgresAuditStore(connection))
    assert {finding.code.value for finding in report.findings} <= SWEPT, report.findings
    return report


def make_months(dsn: str) -> None:
    """Give traffic's ids their partitions."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT farebox_make_partitions(%s, 4)", (START,))


def rows(dsn: str, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    """What a statement answers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql.encode(), parameters).fetchall()


@pytest.mark.parametrize("seed", range(6))
async def test_partition_drop_retention(dsn: str, seed: int) -> None:
    """Field bug 56: months go one by one under traffic of every command, and the books stay clean.

    Nothing is lost but the rows: what was spent, every sequence number, each grant's draws, each
    posting's range, each hour's rollup and each limit's counter still agree.
    """
    make_months(dsn)
    traffic = TotalTraffic(dsn, seed)
    await traffic.run(80)
    before = await checked(dsn)
    gone = 0
    for month in MONTHS:
        gone += (await dropped(dsn, month)).rows
        report = await checked(dsn)
        assert report.checked.dropped_calls == gone > 0
        await traffic.run(10)
        await checked(dsn)
    await traffic.aclose()
    assert gone > before.checked.calls / 2
