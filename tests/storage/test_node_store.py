"""Node rows and the sweep on PostgreSQL: who is fenced, which holds end, what expires once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import Admitted, Closed, Granted
from farebox.ledger.grants import Source
from farebox.ledger.holds import CallState
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.sweep import CLOCK_JUMP_MAX, NODE_SILENCE, Sweep, Swept
from farebox.storage.connecting import Connector
from farebox.storage.node_store import Pool, PostgresNodeStore, borrowed
from tests.support.shop import Shop
from tests.support.till import Till, new_id


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """Connections as the worker has them."""
    connector = Connector(dsn, name="test", durable=False)
    pool: Pool = AsyncConnectionPool(
        dsn, kwargs={"autocommit": True}, configure=connector.configure, max_size=4, open=False
    )
    async with pool:
        yield pool


@pytest.fixture
def nodes(pool: Pool) -> PostgresNodeStore:
    """The store under test."""
    return PostgresNodeStore(pool)


@pytest.fixture
async def sweep(shop: Shop, nodes: PostgresNodeStore) -> AsyncIterator[Sweep]:
    """A sweep with its own bookkeeper."""
    bookkeeper = Bookkeeper([shop.new_store()], monotonic=time.monotonic)
    bookkeeper.start()
    yield Sweep(nodes, bookkeeper, monotonic=time.monotonic)
    await bookkeeper.aclose()


def see(shop: Shop, till: Till, *, ago: float) -> None:
    """Let a node have renewed so many seconds ago."""
    shop.sql(
        "UPDATE node SET seen_at = clock_timestamp() - %s WHERE id = %s",
        timedelta(seconds=ago),
        till.node_id,
    )


async def begin_call(shop: Shop, till: Till, **changes: Any) -> Any:
    """An open call of a till's node."""
    call = till.admit(10, **changes)
    assert isinstance(await shop.run(call), Admitted)
    return call


# --- rows --------------------------------------------------------------------------------------


async def test_a_node_registers_renews_and_retires(nodes: PostgresNodeStore, shop: Shop) -> None:
    """ENGINE "Nodes and lapses": one row per node; each registration begins the next epoch."""
    node_id = new_id()
    assert await nodes.register(node_id, "host 1") == 1
    shop.sql("UPDATE node SET seen_at = '2020-01-01' WHERE id = %s", node_id)
    assert await nodes.renew(node_id, 1)
    ((fresh,),) = shop.sql(
        "SELECT seen_at > clock_timestamp() - interval '10s' FROM node WHERE id = %s", node_id
    )
    assert fresh
    assert not await nodes.renew(node_id, 2)
    assert not await nodes.renew(new_id(), 1)
    await nodes.retire(node_id, 7)
    assert await nodes.renew(node_id, 1)
    await nodes.retire(node_id, 1)
    assert not await nodes.renew(node_id, 1)
    assert await nodes.register(node_id, "host 1") == 3


async def test_real_time_is_not_the_sandboxs(nodes: PostgresNodeStore, shop: Shop) -> None:
    """ENGINE "Time": absence is measured by the real clock, whatever the sandbox says."""
    shop.sql("UPDATE deployment SET clock_offset = '400 days'")
    assert abs(await nodes.real_time() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("seconds_ago", "holding", "fenced"),
    [
        (61, True, True),
        (50, True, False),
        (61, False, False),
        (-61, True, True),
        (-50, True, False),
    ],
)
async def test_only_a_silent_node_with_holds_is_fenced(
    shop: Shop, nodes: PostgresNodeStore, seconds_ago: int, holding: bool, fenced: bool
) -> None:
    """ENGINE "Nodes and lapses": unseen for 60 seconds, or last seen by a clock that went back."""
    if holding:
        await shop.run(shop.till.grant(100))
        await begin_call(shop, shop.till)
    see(shop, shop.till, ago=seconds_ago)
    now = await nodes.real_time()
    jump = CLOCK_JUMP_MAX + timedelta(seconds=5)
    for looked_at in (now - jump, now + jump):
        assert await nodes.fence_silent(NODE_SILENCE, looked_at) == [], "the clock has jumped since"
    assert await nodes.fence_silent(NODE_SILENCE, now) == (["n"] if fenced else [])
    assert await nodes.renew(shop.till.node_id, 1) is not fenced
    assert await nodes.fence_silent(NODE_SILENCE, now) == []


async def test_old_nodes_are_forgotten_but_not_their_holds(
    shop: Shop, nodes: PostgresNodeStore
) -> None:
    """ENGINE "Nodes and lapses": a row goes after 35 days, unless a hold still names it."""
    await shop.run(shop.till.grant(100))
    await begin_call(shop, shop.till)
    idle = shop.new_till()
    for till in (shop.till, idle):
        see(shop, till, ago=36 * 86_400)
    await nodes.keep_house()
    assert shop.sql("SELECT id FROM node") == [(shop.till.node_id,)]


async def test_two_that_keep_house_together_do_not_trip(
    shop: Shop, nodes: PostgresNodeStore
) -> None:
    """ENGINE "Idempotency": the coming months are made once, whoever comes first."""
    for parent in ("call", "refusal"):
        found = shop.sql(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass",
            parent,
        )
        for (part,) in found:
            if not part.endswith("_default"):
                shop.sql(f"DROP TABLE {part}")
    await asyncio.gather(*(nodes.keep_house() for _ in range(4)))
    assert shop.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'call'::regclass") == [(6,)]


async def test_a_database_that_is_away_has_one_name(nodes: PostgresNodeStore, pool: Pool) -> None:
    """ENGINE "Nodes and lapses": whatever way it is away, the node and the sweep hear the same."""
    with pytest.raises(UnavailableError):
        async with borrowed(pool) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(UnavailableError):
        async with borrowed(pool):
            raise ConnectionResetError
    assert (await nodes.real_time()).tzinfo is UTC
    await pool.close()
    for asking in (nodes.real_time(), nodes.renew(new_id(), 1), nodes.retire(new_id(), 1)):
        with pytest.raises(UnavailableError, match="database is away"):
            await asking


# --- the sweep ---------------------------------------------------------------------------------


async def test_a_silent_nodes_holds_lapse(shop: Shop, sweep: Sweep) -> None:
    """ENGINE "Nodes and lapses": fence first; progress is charged; the living keep theirs."""
    silent, living = shop.till, shop.new_till()
    for till in (silent, living):
        await shop.run(till.grant(100))
    lost = await begin_call(shop, silent)
    await begin_call(shop, living)
    await shop.run(silent.report(lost, 4))
    see(shop, silent, ago=59)
    assert await sweep.step() == Swept()
    see(shop, silent, ago=61)
    see(shop, living, ago=39)
    assert await sweep.step() == Swept(lapsed=1, fenced=("n",))
    assert shop.sql("SELECT organization_id, state, charge_nanos, estimated FROM call") == [
        (silent.organization_id, "lapsed", 4, True)
    ]
    # The zombie wakes: nothing more under its old epoch, but its call may still settle.
    assert (await shop.run(silent.admit(10))).code == "stale_epoch"
    late = await shop.run(silent.settle(lost, 7))
    assert (late.state, late.charge) == (CallState.LATE, 7)
    assert await sweep.step() == Swept()
    assert shop.sql("SELECT kind FROM outbox") == [("hold_lapsed",)]


async def test_a_retired_nodes_holds_lapse_at_once(
    shop: Shop, sweep: Sweep, nodes: PostgresNodeStore
) -> None:
    """ENGINE "Nodes and lapses": a node that says goodbye keeps nobody waiting for its silence."""
    await shop.run(shop.till.grant(100))
    await begin_call(shop, shop.till)
    await nodes.retire(shop.till.node_id, 1)
    assert (await sweep.step()).lapsed == 1


async def test_a_hold_of_a_forgotten_node_lapses(shop: Shop, sweep: Sweep) -> None:
    """ENGINE "Nodes and lapses": a hold whose node has no row has no node."""
    await shop.run(shop.till.grant(100))
    await begin_call(shop, shop.till)
    shop.sql("DELETE FROM node")
    assert (await sweep.step()).lapsed == 1


async def test_a_hold_ends_at_its_latest_end(shop: Shop, sweep: Sweep) -> None:
    """ENGINE "Nodes and lapses": even a living node's hold ends; by the sandbox's clock too."""
    await shop.run(shop.till.grant(100))
    await begin_call(shop, shop.till, latest_end_after=timedelta(minutes=5))
    long = await begin_call(shop, shop.till)
    shop.sql("UPDATE deployment SET clock_offset = '4 minutes 50 seconds'")
    assert (await sweep.step()).lapsed == 0
    shop.sql("UPDATE deployment SET clock_offset = '5 minutes'")
    assert (await sweep.step()).lapsed == 1
    assert shop.sql("SELECT call_id FROM hold") == [(long.call_id,)]
    assert shop.sql("SELECT reason FROM call") == [("latest_end",)]


async def test_every_organisation_has_its_turn(shop: Shop, nodes: PostgresNodeStore) -> None:
    """ENGINE "Nodes and lapses": many holds of one organisation do not hide another's."""
    many, few = shop.till, shop.new_till()
    for till, calls in ((many, 10), (few, 2)):
        await shop.run(till.grant(1_000))
        for _ in range(calls):
            await begin_call(shop, till)
    shop.sql("UPDATE node SET epoch = 2")
    page = await nodes.holds_to_lapse(4)
    assert [hold.organization_id for hold in page].count(few.organization_id) == 2
    assert all(hold.node_gone for hold in page)


async def test_sweepers_race_safely(shop: Shop, nodes: PostgresNodeStore) -> None:
    """ENGINE "Nodes and lapses": three sweeps and a late settle at once end each hold once."""
    tills = [shop.till, *(shop.new_till() for _ in range(3))]
    calls = []
    for till in tills:
        await shop.run(till.grant(1_000))
        calls += [(till, await begin_call(shop, till)) for _ in range(20)]
    shop.sql("UPDATE node SET seen_at = seen_at - interval '2 minutes'")
    bookkeepers = [Bookkeeper([shop.new_store()], monotonic=time.monotonic) for _ in range(3)]
    for bookkeeper in bookkeepers:
        bookkeeper.start()
    sweeps = [Sweep(nodes, bookkeeper, monotonic=time.monotonic) for bookkeeper in bookkeepers]
    settling = asyncio.gather(
        *(bookkeepers[0].submit(till.settle(call, 3)) for till, call in calls)
    )
    swept = await asyncio.gather(*(sweep.step() for sweep in sweeps))
    settled = await settling
    for bookkeeper in bookkeepers:
        await bookkeeper.aclose()
    assert all(isinstance(result, Closed) for result in settled)
    assert shop.sql("SELECT count(*), sum(charge_nanos)::bigint FROM call") == [(80, 240)]
    assert shop.sql("SELECT count(*) FROM hold") == [(0,)]
    assert shop.sql("SELECT DISTINCT spent_nanos, reserved_nanos FROM organization") == [(60, 0)]
    assert sum(len(result.fenced) for result in swept) <= 4
    counted = shop.sql("SELECT count(*) FROM call WHERE state = 'late'")[0][0]
    assert sum(result.lapsed for result in swept) == counted


async def test_breakage_is_posted_once_at_the_instant_of_expiry(
    shop: Shop, nodes: PostgresNodeStore
) -> None:
    """CRD-10, CRD-11: a month later, three sweeps post an ended grant's rest once."""
    granted = await shop.run(
        shop.till.grant(100, Source.FREE), shop.till.grant(50), shop.till.admit(30)
    )
    assert isinstance(granted[0], Granted)
    ends = granted[0].expires_at
    assert ends is not None
    shop.sql("UPDATE node SET seen_at = clock_timestamp()")
    bookkeeper = Bookkeeper([shop.new_store()], monotonic=time.monotonic)
    bookkeeper.start()
    sweeps = [Sweep(nodes, bookkeeper, monotonic=time.monotonic) for _ in range(3)]
    shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", ends - timedelta(1))
    assert [(await sweep.step()).expired_organizations for sweep in sweeps] == [0, 0, 0]
    shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", ends)
    await asyncio.gather(*(sweep.step() for sweep in sweeps))
    assert [(await sweep.step()).expired_organizations for sweep in sweeps] == [0, 0, 0]
    await bookkeeper.aclose()
    posted = shop.sql(
        "SELECT at, amounts_nanos, grant_id, call_id IS NULL FROM posting WHERE kind = 'breakage'"
    )
    whole = shop.sql("SELECT state, charge_nanos FROM call")
    # The call was still open a day before, and had lapsed: its earmark had come back by then.
    assert whole == [("lapsed", 0)]
    assert posted == [(ends, [100, -100], granted[0].grant_id, True)]
    ((expired, left),) = shop.sql(
        "SELECT expired_nanos, unreserved_nanos FROM organization WHERE id = %s",
        shop.till.organization_id,
    )
    assert (expired, left) == (100, 50)


async def test_a_quarantined_end_waits_for_its_ruling(shop: Shop, sweep: Sweep) -> None:
    """ENGINE "A batch": the hold of a settle that was put aside stays until an operator rules."""
    await shop.run(shop.till.grant(100))
    call = await begin_call(shop, shop.till)
    other = await begin_call(shop, shop.till)
    await shop.store.quarantine(shop.till.settle(call, 5), "rejected")
    await shop.store.quarantine(shop.till.settle(call, 5), "rejected")
    await shop.store.quarantine(shop.till.report(other, 5), "rejected")
    shop.sql("UPDATE node SET epoch = 2")
    assert (await sweep.step()).lapsed == 1
    assert shop.sql("SELECT call_id FROM hold") == [(call.call_id,)]
    assert shop.sql("SELECT count(*) FROM quarantine") == [(2,)]
    shop.sql("UPDATE quarantine SET ruled_at = farebox_now()")
    assert (await sweep.step()).lapsed == 1


async def test_a_broken_tenant_does_not_stop_the_sweep(shop: Shop, sweep: Sweep) -> None:
    """ENGINE "A batch": what cannot be ended is put aside once; all the others end."""
    broken, sound = shop.till, shop.new_till()
    for till in (broken, sound):
        await shop.run(till.grant(100))
        await begin_call(shop, till)
    shop.sql("UPDATE node SET epoch = 2")
    shop.sql(
        "UPDATE organization SET spent_nanos = 1, unreserved_nanos = unreserved_nanos - 1"
        " WHERE id = %s",
        broken.organization_id,
    )
    with pytest.raises(Exception, match="1 could not be ended"):
        await sweep.step()
    assert await sweep.step() == Swept()
    assert shop.sql("SELECT organization_id FROM call") == [(sound.organization_id,)]
    assert shop.sql("SELECT command_kind FROM quarantine") == [("lapse",)]
