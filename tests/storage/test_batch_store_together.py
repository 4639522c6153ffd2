"""Several stores and bookkeepers on one organisation, on one PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import psycopg

from farebox.ledger.commands import (
    Admitted,
    Closed,
    Refused,
)
from farebox.operations.bookkeeper import Bookkeeper
from farebox.storage.batch_store import PostgresBatchStore
from tests.support.shop import Shop

# --- two stores --------------------------------------------------------------------------------


async def test_hot_account_no_lost_update(shop: Shop) -> None:
    """Field bug 54, ENGINE "Time": time goes forward and no total is lost between nodes."""
    stores = [shop.store, shop.new_store()]
    await shop.run(shop.till.grant(1_000))
    times: list[datetime] = []
    done = asyncio.Event()

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as connection:
            while not done.is_set():
                cursor = await connection.execute(
                    "SELECT last_time, spent_nanos + reserved_nanos + unreserved_nanos"
                    " FROM organization WHERE id = %s",
                    (shop.till.organization_id,),
                )
                row = await cursor.fetchone()
                assert row is not None
                assert row[1] == 1_000
                times.append(row[0])

    async def trade(store: PostgresBatchStore) -> int:
        charged = 0
        for number in range(60):
            calls = [shop.till.admit(3) for _ in range(4)]
            admitted = await store.run(calls, resent=False)
            ends = [
                shop.till.settle(call, number % 4)
                for call, result in zip(calls, admitted, strict=True)
                if isinstance(result, Admitted)
            ]
            for end in await store.run(ends, resent=False) if ends else []:
                assert isinstance(end, Closed)
                charged += end.charge
        return charged

    watching = asyncio.create_task(watch())
    charged = sum(await asyncio.gather(*map(trade, stores)))
    done.set()
    await watching
    await stores[1].aclose()
    assert times == sorted(times)
    assert shop.totals() == (charged, 0, 1_000 - charged)
    sequences = shop.sql(
        "SELECT count(*), count(DISTINCT sequence), max(sequence) FROM call WHERE state = 'settled'"
    )
    assert sequences[0][0] == sequences[0][1] == sequences[0][2] - 1


async def test_a_clock_that_goes_back_stops_no_engine_time(shop: Shop) -> None:
    """ENGINE "Time": engine time is the larger of the database's clock and the last time."""
    call = shop.till.admit(0)
    first = await shop.run(call)
    shop.sql("UPDATE deployment SET clock_offset = '-400 days'")
    second = await shop.run(shop.till.admit(0))
    assert second.admitted_at == first.admitted_at
    ((last,),) = shop.sql(
        "SELECT last_time FROM organization WHERE id = %s", shop.till.organization_id
    )
    assert last == first.admitted_at


async def test_conditional_debit_rowcount(shop: Shop) -> None:
    """Field bug 12, promise 1: of 200 callers on two nodes no commit is ever over the balance.

    What was read is what is written: nothing comes between the decision and the debit.
    """
    credit = 500
    bookkeepers = [
        Bookkeeper([shop.new_store(), shop.new_store()], monotonic=time.monotonic) for _ in range(2)
    ]
    for bookkeeper in bookkeepers:
        bookkeeper.start()
    await bookkeepers[0].submit(shop.till.grant(credit))
    charged = 0
    done = asyncio.Event()
    samples: list[tuple[int, int, int]] = []

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as connection:
            while not done.is_set():
                cursor = await connection.execute(
                    "SELECT (SELECT coalesce(sum(charge_nanos), 0) FROM call)::bigint,"
                    " (SELECT coalesce(sum(amount_nanos), 0) FROM hold)::bigint,"
                    " (SELECT count(*) FROM hold)"
                )
                row = await cursor.fetchone()
                assert row is not None
                samples.append(row)

    async def client(number: int) -> None:
        nonlocal charged
        bookkeeper = bookkeepers[number % 2]
        call = shop.till.admit(20)
        answer = await bookkeeper.submit(call, patience_seconds=(0.0, 3.0)[number % 3 > 0])
        if isinstance(answer, Refused):
            return
        await asyncio.sleep(0.001 * (number % 5))
        end = shop.till.release(call) if number % 7 == 0 else shop.till.settle(call, number % 20)
        closed = await bookkeeper.submit(end)
        assert isinstance(closed, Closed)
        charged += closed.charge

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(client, range(200)))
    done.set()
    await watching
    for bookkeeper in bookkeepers:
        await bookkeeper.aclose()
    assert max(spent + held for spent, held, _ in samples) <= credit
    assert len(samples) > 5
    assert charged > credit - 40, "the balance was really used up"
    assert shop.totals() == (charged, 0, credit - charged)
    assert shop.sql("SELECT count(*) FROM hold") == [(0,)]
    assert shop.sql("SELECT sum(charge_nanos)::bigint FROM call") == [(charged,)]
    assert shop.sql("SELECT sum(charge_nanos)::bigint FROM rollup_hour") == [(charged,)]
