"""The balance as people see it, read from rows that the engine wrote."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.kit.money import Nanos
from farebox.ledger.commands import Correct, ExpireGrants, GrantCredit, SetFloor
from farebox.ledger.grants import Source
from farebox.operations.balance import Balance
from farebox.storage.balance_store import (
    find_grant,
    list_grants,
    list_history,
    list_limits,
    read_balance,
)
from farebox.storage.connecting import Connector
from tests.support.engine_traffic import CENT, Traffic, new_id
from tests.support.small_books import SmallBooks

Connection = AsyncConnection[tuple[Any, ...]]


async def connected(dsn: str) -> Connection:
    """A connection of our own."""
    return await Connector(dsn, name="test", durable=False).connect()


def timeless(balance: Balance) -> Balance:
    """Without the instants that differ between two readings."""
    return structs.replace(balance, at=balance.at.replace(year=2000, month=1, day=1, hour=0))


async def give(
    traffic: Traffic, source: Source, amount: int, *, hours: float, after: float = 0
) -> UUID:
    """Have the engine make a grant that begins and ends so many hours from the traffic's now."""
    tenant = traffic.tenants[0]
    command = GrantCredit(
        organization_id=tenant.id,
        grant_id=new_id(traffic.chance),
        source=source,
        amount=Nanos(amount),
        effective_at=traffic.now + timedelta(hours=after) if after else None,
        expires_at=traffic.now + timedelta(hours=hours),
    )
    await traffic.send([command])
    return command.grant_id


async def test_a_balance_is_told_by_source_with_the_earliest_expiry(dsn: str) -> None:
    """CRD-13, NEG-08: the parts, not one total; and the most that can still be spent."""
    traffic = Traffic(dsn, seed=1, tenants=1)
    tenant = traffic.tenants[0]
    await traffic.send([SetFloor(organization_id=tenant.id, floor=Nanos(7))])
    late = await give(traffic, Source.PURCHASED, 30, hours=9000)
    soon = await give(traffic, Source.PURCHASED, 20, hours=5)
    free = await give(traffic, Source.FREE, 3, hours=50)
    pending = await give(traffic, Source.PROMO, 11, hours=50, after=10)
    async with await connected(dsn) as connection:
        balance = await read_balance(connection, tenant.id)
    assert (balance.available, balance.posted, balance.held) == (53, 53, 0)
    assert (balance.spendable, balance.maximum_exposure) == (60, 60)
    assert (balance.granted, balance.pending, balance.currency) == (64, 11, "USD")
    by_source = {view.source: view for view in balance.sources}
    assert by_source[Source.FREE].available == 3
    assert by_source[Source.PURCHASED].available == 50
    assert by_source[Source.PROMO].available == 0
    ends = {view.id: view.expires_at for view in balance.grants}
    assert by_source[Source.PURCHASED].earliest_expiry == ends[soon]
    assert balance.earliest_expiry == ends[soon]
    assert by_source[Source.PURCHASED].grants == 2
    # Burn-down order: class first, then the earliest end.
    states = {view.id: view.state for view in balance.grants}
    assert [g for g in states if states[g] == "active"] == [free, soon, late]
    assert states[pending] == "pending"
    await traffic.aclose()


async def test_an_expired_balance_is_expired_before_any_job_has_run(dsn: str) -> None:
    """CRD-10, CRD-12: from its instant on it is ``expired``, unusable, and never part of spent."""
    traffic = Traffic(dsn, seed=2, tenants=1)
    tenant = traffic.tenants[0]
    grant_id = await give(traffic, Source.FREE, 5, hours=3)
    traffic.advance(timedelta(hours=4))
    async with await connected(dsn) as connection:
        balance = await read_balance(connection, tenant.id)
        grants = await list_grants(connection, tenant.id)
        stored = await find_grant(connection, grant_id)
    assert stored.expired == 0  # nothing has been posted yet
    assert (balance.available, balance.expired, balance.spent) == (0, 5, 0)
    assert (balance.sources, balance.grants) == ((), ())
    assert [(g.state, g.expired, g.remaining) for g in grants] == [("expired", 5, 0)]
    await traffic.aclose()


async def test_debt_is_shown_apart(dsn: str) -> None:
    """NEG: owed lowers what is available and is a figure of its own."""
    traffic = Traffic(dsn, seed=3, tenants=1)
    tenant = traffic.tenants[0]
    command = Correct(
        organization_id=tenant.id,
        command_id=new_id(traffic.chance),
        amount=Nanos(9),
        note="typing error",
    )
    await traffic.send([command])
    async with await connected(dsn) as connection:
        balance = await read_balance(connection, tenant.id)
    assert (balance.available, balance.owed, balance.posted) == (-9, 9, -9)
    assert balance.maximum_exposure == 0
    await traffic.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_the_balance_is_what_the_engine_finds(dsn: str, seed: int) -> None:
    """CRD-10: after any traffic, at any later time, reading shows what posting then makes true."""
    traffic = Traffic(dsn, seed=seed)
    async with await connected(dsn) as connection:
        for _ in range(4):
            await traffic.run(8)
            traffic.advance(timedelta(hours=traffic.chance.choice((1, 20, 90))))
            for tenant in traffic.tenants:
                before = await read_balance(connection, tenant.id)
                listed = await list_grants(connection, tenant.id, limit=1000)
                await traffic.send([ExpireGrants(organization_id=tenant.id)])
                after = await read_balance(connection, tenant.id)
                assert timeless(before) == structs.replace(timeless(after), at=timeless(before).at)
                assert await list_grants(connection, tenant.id, limit=1000) == listed
                assert sum(view.amount for view in listed) == before.granted
                assert sum(view.expired for view in listed) == before.expired
                for view in listed:
                    parts = (view.remaining, view.spent, view.repaid, view.expired, view.refunded)
                    assert sum(parts) == view.amount
    await traffic.aclose()


async def test_the_history_explains_the_balance(dsn: str) -> None:
    """Every change of credit less debt is an entry, page by page, newest first."""
    books = SmallBooks(dsn)
    await books.make()
    async with await connected(dsn) as connection:
        balance = await read_balance(connection, books.tenant.id)
        every = await list_history(connection, books.tenant.id, limit=1000)
        first = await list_history(connection, books.tenant.id, limit=2)
        second = await list_history(connection, books.tenant.id, limit=2, before=first[-1].id)
        limits = await list_limits(connection, books.tenant.id)
    # Breakage that is due but not posted is in the balance already.
    posted = sum(entry.change for entry in every)
    unsecured = balance.posted + balance.frozen + balance.pending
    assert posted >= unsecured
    assert [*first, *second] == every[:4]
    assert {entry.kind for entry in every} >= {"grant", "calls"}
    assert all(sum(entry.entries.values()) == 0 for entry in every)
    assert [(view.maximum, view.left + view.used + view.held) for view in limits] == [
        (10_000 * CENT, 10_000 * CENT)
    ]
    assert limits[0].used > 0
    assert limits[0].held > 0


async def test_what_is_not_there_is_not_found(dsn: str) -> None:
    """An unknown organisation or grant has no balance of zero; it has none."""
    async with await connected(dsn) as connection:
        for reading in (read_balance, list_grants, list_limits):
            with pytest.raises(NotFoundError):
                await reading(connection, UUID(int=9))
        with pytest.raises(NotFoundError):
            await find_grant(connection, UUID(int=9))
        assert await list_history(connection, UUID(int=9)) == []
