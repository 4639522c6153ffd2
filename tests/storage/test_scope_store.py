"""Scopes that may be forgotten, found page by page; the engine deletes what nothing can reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.ledger.commands import Attribution, SetLimit
from farebox.ledger.limits import WINDOW_KEPT, Measure, Period
from farebox.ledger.scopes import ScopeKind, scope_number
from farebox.operations import forgetting
from farebox.operations.check_books import check_books
from farebox.operations.forgetting import Forgetting
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from farebox.storage.scope_store import PostgresScopeStore
from tests.support.shop import Shop

START = datetime(2027, 3, 10, 12, tzinfo=UTC)
APRIL = datetime(2027, 4, 1, tzinfo=UTC)
DEFAULTS: tuple[dict[str, Any], ...] = (
    {"scope_kind": ScopeKind.USER, "period": Period.MONTH},
    {"scope_kind": ScopeKind.USER, "period": Period.MINUTE, "measure": Measure.CALLS},
    {"scope_kind": ScopeKind.FEATURE, "period": Period.MINUTE, "measure": Measure.TOKENS},
    {"scope_kind": ScopeKind.ENVIRONMENT, "period": Period.TOTAL, "measure": Measure.PARALLEL},
    {"scope_kind": ScopeKind.RUN, "period": Period.TOTAL, "measure": Measure.SECONDS},
    {"scope_kind": ScopeKind.KEY, "period": Period.TOTAL},
)


def at(shop: Shop, instant: datetime) -> None:
    """Set the deployment's clock."""
    shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", instant)


def known(shop: Shop) -> set[tuple[str, str]]:
    """Every scope that has a row, the defaults left out; ids by their kind alone."""
    ids = {"key", "project"}
    found = shop.sql("SELECT kind, ref FROM scope_limit WHERE ref <> ''")
    return {(kind, "" if kind in ids else ref) for kind, ref in found}


@pytest.fixture
async def job(shop: Shop) -> AsyncIterator[Forgetting]:
    """The worker's step on the shop's database; defaults, and calls of two users."""
    at(shop, START)
    await shop.run(shop.till.grant(10_000))
    for default in DEFAULTS:
        command = SetLimit(organization_id=shop.till.organization_id, maximum=1_000, **default)
        await shop.run(command)
    for user in ("ada", "bob"):
        call = shop.till.admit(10, attribution=Attribution(user=user, run="r"))
        await shop.run(call)
        await shop.run(shop.till.settle(call, 10))
    async with AsyncConnectionPool(shop.dsn, min_size=1, max_size=1) as pool:
        yield Forgetting(PostgresScopeStore(pool), shop.run)


ALL = {("user", "ada"), ("user", "bob"), ("feature", "f"), ("environment", "production")}
FOR_GOOD = {("run", "r"), ("key", "")}


async def test_rows_go_when_nothing_can_reach_them(shop: Shop, job: Forgetting) -> None:
    """ENGINE "Limits": rates with their minute, budgets 35 days past their month, totals never."""
    assert known(shop) == ALL | FOR_GOOD
    assert await job.step() == 1  # what counts open calls alone keeps nothing
    at(shop, START + timedelta(minutes=1))
    assert await job.step() == 1
    assert known(shop) == {("user", "ada"), ("user", "bob")} | FOR_GOOD
    at(shop, APRIL + WINDOW_KEPT - timedelta(seconds=30))
    assert await job.step() == 0
    at(shop, APRIL + WINDOW_KEPT + timedelta(seconds=1))
    assert await job.step() == 2
    assert known(shop) == FOR_GOOD
    assert await job.step() == 0


async def test_open_calls_and_limits_of_ones_own_keep_their_rows(
    shop: Shop, job: Forgetting
) -> None:
    """DED-16, BUD-14: and whoever comes back counts as fresh in the new window."""
    till = shop.till
    at(shop, APRIL + timedelta(hours=1))
    ada = till.admit(20, attribution=Attribution(user="ada"))
    await shop.run(ada)
    await shop.run(
        SetLimit(
            organization_id=till.organization_id,
            scope_kind=ScopeKind.USER,
            scope_ref="bob",
            period=Period.WEEK,
            maximum=5,
        )
    )
    at(shop, datetime(2027, 6, 20, tzinfo=UTC))
    await job.step()
    assert {("user", "ada"), ("user", "bob")} <= known(shop)
    await shop.run(till.settle(ada, 20))
    assert await job.step() == 3  # ada, and what her call was counted under besides
    assert ("user", "ada") not in known(shop)
    back = till.admit(30, attribution=Attribution(user="ada"))
    await shop.run(back)
    found = shop.sql(
        "SELECT used, held FROM scope_window WHERE ref = 'ada' AND ends_at = '2027-07-01Z'"
    )
    assert found == [(0, 30)]
    await shop.run(till.settle(back, 30))
    connection = await Connector(shop.dsn, name="audit", durable=False).connect()
    async with connection:
        assert (await check_books(PostgresAuditStore(connection))).is_clean


async def test_rows_whose_default_is_gone_are_forgotten(shop: Shop, job: Forgetting) -> None:
    """BUD-14: what no limit counts any more is no reason to stay."""
    for default in DEFAULTS:
        command = SetLimit(organization_id=shop.till.organization_id, maximum=None, **default)
        await shop.run(command)
    assert await job.step() == len(ALL | FOR_GOOD)
    assert known(shop) == set()


async def test_pages_are_bounded(
    shop: Shop, job: Forgetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": every row is in one page, of whatever organisation."""
    other = shop.new_till()
    await shop.run(other.grant(1_000))
    minute: dict[str, Any] = {
        "scope_kind": ScopeKind.USER,
        "period": Period.MINUTE,
        "measure": Measure.CALLS,
    }
    await shop.run(SetLimit(organization_id=other.organization_id, maximum=9, **minute))
    for number in range(4):
        call = other.admit(1, attribution=Attribution(user=f"u{number}"))
        await shop.run(call)
        await shop.run(other.release(call))
    monkeypatch.setattr(forgetting, "PAGE", 3)
    at(shop, START + timedelta(hours=1))
    assert await job.step() == 4 + 2
    numbers = {scope_number("user", f"u{number}") for number in range(4)}
    assert not numbers & {row[0] for row in shop.sql("SELECT number FROM scope_limit")}
