"""The migration that gave limits to every scope: what there was before is carried over."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Period, rule_number
from farebox.ledger.scopes import scope_number
from farebox.operations.check_books import check_books
from farebox.storage import migrate as migrating
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from farebox.storage.migrate import migrate
from tests.support.shop import Shop

FIRST = Path(migrating.__file__).parent / "migrations" / "versions" / "0001_foundation.sql"
TABLES = (
    "organization",
    "project",
    "api_key",
    "node",
    "upstream_account",
    "price_version",
    "credit_grant",
    "hold",
    "call",
    "posting",
    "rollup_hour",
    "outbox",
)
"""Parents first. All that a limit's migration has to leave as it is."""

COLUMNS = (
    "SELECT column_name, data_type IN ('jsonb', 'json') FROM information_schema.columns"
    " WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'"
)
# As the program before the migration wrote them.
OLD_LIMITS = """
SELECT organization_id, kind, ref::uuid, json_build_object('month', rules #> '{0,maximum}')::text,
    json_build_object('month', (SELECT json_agg(json_build_object(
        'start', starts_at, 'end', ends_at, 'used', used, 'held', held)) FROM scope_window w
        WHERE w.organization_id = s.organization_id AND w.ref = s.ref))::text
FROM scope_limit s
"""
OLD_RAISED = """
SELECT call_id, (SELECT json_agg(json_build_array('organization', organization_id, 'month',
    to_timestamp(raised[i + 2] / 1000000.0), raised[i + 3]))
    FROM generate_series(1, cardinality(raised), 4) AS i)::text
FROM hold WHERE raised IS NOT NULL
"""
NEW = (
    "SELECT organization_id, number, kind, ref, rules::text, windows FROM scope_limit ORDER BY 1",
    "SELECT call_id, raised_scopes, raised, tokens FROM hold ORDER BY 1",
)


def take_back(dsn: str, old: str) -> None:
    """Fill a database of the first schema with what another one holds, as it was written then."""
    with psycopg.connect(dsn) as source, psycopg.connect(old, autocommit=True) as target:
        target.execute(FIRST.read_bytes())
        target.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        target.execute("INSERT INTO alembic_version VALUES ('0001')")
        target.execute("INSERT INTO deployment (sandbox) VALUES (true)")
        target.execute("SELECT farebox_make_partitions('2026-10-01', 4)")
        for table in TABLES:
            known = {str(row[0]) for row in source.execute(COLUMNS, (table,))}
            names = [
                (str(name), bool(is_json))
                for name, is_json in target.execute(COLUMNS, (table,))
                if name in known and name != "raised"
            ]
            read = ", ".join(f"{name}::text" if is_json else name for name, is_json in names)
            into = ", ".join(name for name, _ in names)
            places = ", ".join("%s" for _ in names)
            write = f"INSERT INTO {table} ({into}) OVERRIDING SYSTEM VALUE VALUES ({places})"
            for row in source.execute(f"SELECT {read} FROM {table}".encode()):
                target.execute(write.encode(), row)
        target.execute("ALTER TABLE posting ALTER id RESTART WITH 1000")
        target.execute("ALTER TABLE outbox ALTER id RESTART WITH 1000")
        for row in source.execute(OLD_LIMITS):
            target.execute("INSERT INTO scope_limit VALUES (%s, %s, %s, %s, %s)", row)
        for call_id, raised in source.execute(OLD_RAISED):
            target.execute("UPDATE hold SET raised = %s WHERE call_id = %s", (raised, call_id))


def new_rows(dsn: str) -> list[list[tuple[Any, ...]]]:
    """Limits with their counters, and what open holds have raised, less what tokens they hold."""
    with psycopg.connect(dsn) as connection:
        limits, holds = (connection.execute(query.encode()).fetchall() for query in NEW)
        return [limits, [row[:-1] for row in holds]]


async def clean(dsn: str) -> bool:
    """Whether the books agree."""
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        report = await check_books(PostgresAuditStore(connection))
    return report.is_clean


async def test_limits_of_before_are_carried_over_with_their_counters(
    shop: Shop, empty: str
) -> None:
    """BUD-01, BUD-02: windows and open holds, in the zone's months; then a call settles in it."""
    till, free = shop.new_till(zone="Asia/Kolkata"), shop.till

    def at(instant: datetime) -> None:
        shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", instant)

    at(datetime(2026, 11, 30, 18, 29, tzinfo=UTC))
    await shop.run(till.grant(1_000), free.grant(1_000))
    await shop.run(SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=100))
    november, closed, unlimited = till.admit(40), till.admit(30), free.admit(50)
    await shop.run(november, closed, unlimited)
    await shop.run(till.settle(closed, 25))
    at(datetime(2026, 11, 30, 18, 30, tzinfo=UTC))
    december = till.admit(60)
    await shop.run(december)
    take_back(shop.dsn, empty)
    assert migrate(empty, sandbox=True) == migrating._head_revision()

    limits, holds = new_rows(shop.dsn)
    carried, raised = new_rows(empty)
    assert [(*row[:4], row[5]) for row in carried] == [(*row[:4], row[5]) for row in limits]
    assert raised == holds
    with psycopg.connect(empty) as connection:
        windows = connection.execute("SELECT starts_at, used, held FROM scope_window").fetchall()
    assert windows == [
        (datetime(2026, 10, 31, 18, 30, tzinfo=UTC), 25, 40),
        (datetime(2026, 11, 30, 18, 30, tzinfo=UTC), 0, 60),
    ]
    assert await clean(empty)

    old = Shop.of(empty)
    old.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", "2026-12-02Z")
    try:
        refused = await old.run(till.admit(41))
        assert (refused.code, refused.limit.used, refused.limit.held) == ("balance_held", 0, 60)
        await old.run(
            till.settle(november, 33), till.settle(december, 7), free.settle(unlimited, 5)
        )
        assert old.sql("SELECT used, held FROM scope_window") == [(58, 0), (7, 0)]
        assert (await old.run(till.admit(94))).code == "organization_spend_limit_exceeded"
        assert (await old.run(till.admit(93))).held == 93
    finally:
        await old.store.aclose()
    assert await clean(empty)


NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
on_server = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def number(dsn: str) -> Any:
    """The database's number of some texts."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def ask(*parts: str) -> Any:
            places = ", ".join("%s::text" for _ in parts)
            row = connection.execute(f"SELECT farebox_number({places})".encode(), parts).fetchone()
            return row and row[0]

        yield ask


@given(ref=NAMES, measure=st.sampled_from(Measure), period=st.sampled_from(Period))
@on_server
def test_the_database_counts_by_the_same_numbers(
    number: Any, ref: str, measure: Measure, period: Period
) -> None:
    """ENGINE "Limits": scopes and rules have one number, whoever computes it."""
    assert number("user", ref) == scope_number("user", ref)
    assert number(measure, period, "hard", ref) == rule_number(measure, period, "hard", ref)
