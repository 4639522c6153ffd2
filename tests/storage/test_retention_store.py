"""Dropping whole months on PostgreSQL: every total stays what it was, and nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

import psycopg
import pytest
from msgspec import structs
from typing_extensions import override

from farebox.kit.errors import UnavailableError
from farebox.kit.ids import uuid7
from farebox.kit.periods import months_after
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Period
from farebox.operations.check_books import BooksReport, check_books
from farebox.operations.retention import DroppedMonth, Parent
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from farebox.storage.content_store import PostgresContentStore
from farebox.storage.retention_store import PostgresRetentionStore
from tests.support.contents import store_content
from tests.support.engine_traffic import START, Tenant, Traffic
from tests.support.small_books import small_books

SWEPT = {"hold_overdue"}
"""Traffic without a worker leaves old holds open: a warning."""

MISSING = uuid7(START, bytes(10))

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


FRESH = SWEPT | {"window_used"}
"""Months that retention would not have dropped yet: a window of this month still counts them."""


async def checked(dsn: str, allowed: set[str] = SWEPT) -> BooksReport:
    """Check the books of that database."""
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        report = await check_books(PostgresAuditStore(connection))
    assert {finding.code.value for finding in report.findings} <= allowed, report.findings
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


async def test_a_reader_is_waited_for_in_short_tries(dsn: str) -> None:
    """Field bug 56: while somebody reads for long nothing is dropped, and nobody stands in line
    behind the wait for longer than a moment; afterwards it goes.
    """
    books = await small_books(dsn)
    make_months(dsn)
    (month,) = rows(
        dsn,
        "SELECT to_date(right(tableoid::regclass::text, 7), 'YYYY_MM') FROM call WHERE id = %s",
        books.calls["settled"],
    )[0]
    assert isinstance(month, date)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM call")
        async with opened(dsn) as store:
            with pytest.raises(UnavailableError, match="others read"):
                await store.drop(Parent.CALL, month)
        reader.execute("SELECT count(*) FROM call")
        reader.rollback()
    assert rows(dsn, "SELECT count(*) FROM dropped_month") == [(0,)]
    assert rows(dsn, "SELECT count(*) FROM dropped_use") == [(0,)]
    await checked(dsn)
    assert (await dropped(dsn, month)).rows > 0
    await checked(dsn, FRESH)


async def test_only_one_worker_drops_a_month(dsn: str) -> None:
    """Two workers at once: one adds the month up, the other leaves it to that one."""
    make_months(dsn)
    async with opened(dsn) as store:
        with psycopg.connect(dsn) as other:
            other.execute("SELECT pg_advisory_xact_lock(4197363911)")
            with pytest.raises(UnavailableError, match="another worker"):
                await store.drop(Parent.CALL, MONTHS[0])
        assert (await store.drop(Parent.CALL, MONTHS[0])).rows == 0
        with pytest.raises(UnavailableError, match="another worker"):
            await store.drop(Parent.CALL, MONTHS[0])


async def test_a_sealed_month_does_not_change(dsn: str) -> None:
    """What is being added up stays as it is: a write to it is an error, not a difference."""
    books = await small_books(dsn)
    make_months(dsn)
    with psycopg.connect(dsn, autocommit=True) as sql:
        for month in MONTHS:
            sql.execute("SELECT farebox_seal_month('call', %s)", (month,))
        with pytest.raises(psycopg.errors.RestrictViolation, match="sealed"):
            sql.execute("UPDATE call SET charge_nanos = 0 WHERE id = %s", (books.calls["settled"],))
        assert sql.execute("UPDATE call SET reason = '' WHERE id = %s", (MISSING,)).rowcount == 0


async def test_rows_whose_month_was_missing_go_too(dsn: str) -> None:
    """A call whose month had no partition lies in the default one; its month is made, and the sums
    of a month that is dropped a second time are added to those of the first.
    """
    books = await small_books(dsn)
    async with opened(dsn) as store:
        assert rows(dsn, "SELECT DISTINCT tableoid::regclass::text FROM call") == [
            ("call_default",)
        ]
        assert await store.make_missing(limit=100) > 1
        assert await store.make_missing(limit=100) == 0
        found = {each.month for each in await store.months() if each.parent is Parent.CALL}
        gone = [await store.drop(Parent.CALL, month) for month in sorted(found)]
        assert sum(month.rows for month in gone) == len(books.calls) - 1
        assert rows(dsn, "SELECT count(*) FROM call") == [(0,)]
        report = await checked(dsn, FRESH)
        assert report.checked.dropped_calls == len(books.calls) - 1
        told = await store.dropped(limit=100)
        assert {(each.month, each.rows) for each in told} == {(m.month, m.rows) for m in gone}


async def test_refusals_have_months_of_their_own(dsn: str) -> None:
    """A refusal costs nothing, so nothing of it is kept but how many there were."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("SELECT farebox_make_partitions('2031-06-01Z', 1)")
        sql.execute(
            "INSERT INTO refusal (id, organization_id, project_id, key_id, code, message, model,"
            " endpoint, needed_nanos, available_nanos, held_nanos, times)"
            " SELECT farebox_uuid_floor('2031-06-05Z'), id, id, id, 'x', 'x', 'm', 'e', 1, 0, 0, 7"
            " FROM (SELECT gen_random_uuid() AS id) AS o"
        )
    gone = await dropped(dsn, date(2031, 6, 1), Parent.REFUSAL)
    assert (gone.rows, gone.charge) == (7, 0)
    assert rows(dsn, "SELECT count(*) FROM refusal") == [(0,)]
    assert rows(dsn, "SELECT to_regclass('refusal_2031_06') IS NULL") == [(True,)]


async def test_content_goes_with_its_day(dsn: str) -> None:
    """What was to be kept for a week is there for a week, is not shown after it, and is gone by
    the drop of its day.
    """
    call, org = uuid7(START, bytes(10)), uuid7(START, bytes(10))
    store_content(dsn, org, org, call, days=7)
    async with opened(dsn) as store:
        for passed, there in ((7, 1), (1, 0)):
            with psycopg.connect(dsn, autocommit=True) as sql:
                sql.execute(
                    "UPDATE deployment SET clock_offset = clock_offset + %s * interval '1 day'",
                    (passed,),
                )
            connection = await Connector(dsn, name="content", durable=False).connect()
            async with connection:
                found = await PostgresContentStore(connection).find(call)
            assert (found is not None) == bool(there)
            assert await store.drop_content(limit=10) == 1 - there
            assert rows(dsn, "SELECT count(*) FROM call_content") == [(there,)]
