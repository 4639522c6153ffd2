"""A node that everybody gave up, and that wakes: its holds have lapsed, nothing happens twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.operations.nodes import SILENCE_SECONDS_MAX
from farebox.operations.sweep import NODE_SILENCE
from tests.faults.traffic import Clients, Outcome, Traffic, assert_charged_once, pace, usage
from tests.support.processes import Customer, DurableServer, FareboxProcess, Installation
from tests.support.proxy import Proxy, socket_of, url_through

CREDIT = Nanos(100 * NANOS_PER_UNIT)

SLOW_STREAM = usage(10, 40) | pace(event_ms=100)
"""About four seconds."""

SLOW_JSON = usage(10, 40) | pace(head_ms=2_500)


@asynccontextmanager
async def two_gateways(
    durable: DurableServer, home: Path
) -> AsyncIterator[tuple[Installation, Customer, FareboxProcess, FareboxProcess]]:
    """A customer, the gateway that becomes a zombie, and one that goes on; and a worker."""
    async with durable.installation(home) as installed:
        customer = await installed.customer("acme", CREDIT)
        zombie, other, _ = await asyncio.gather(
            installed.spawn("gateway"), installed.spawn("gateway"), installed.spawn("worker")
        )
        yield installed, customer, zombie, other


async def test_a_zombie_charges_nobody_twice(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "Nodes and lapses": what a node settles after its holds have lapsed is late, once."""
    async with (
        two_gateways(durable, tmp_path) as (installed, customer, zombie, other),
        Clients(customer) as clients,
    ):
        traffic = Traffic(clients, lambda: [other.url], random.Random(1))
        traffic.start(4)
        running = [
            asyncio.create_task(clients.call(zombie.url, 40, stream=stream, directives=orders))
            for stream, orders in ((True, SLOW_STREAM), (False, SLOW_JSON))
            for _ in range(4)
        ]
        await installed.until(
            "SELECT count(*) = 8 FROM hold h JOIN node n ON n.id = h.node_id WHERE n.name LIKE %s",
            f"% {zombie.pid}",
        )
        zombie.pause()
        await installed.unsee(zombie.pid)
        await installed.until("SELECT count(*) = 8 FROM call WHERE state = 'lapsed'")
        zombie.resume()
        outcomes = await asyncio.gather(*running)
        # Its epoch is over: until it has registered again it admits nothing, and says so.
        assert {o.status for o in outcomes} <= {0, 200, 502, 503}, outcomes
        await comes_back(clients, zombie)
        await traffic.stop()
        await installed.stop()
        whole = traffic.whole() | {
            o.call_id: o.charge for o in outcomes if o.call_id is not None and o.charge is not None
        }
        await assert_charged_once(installed, customer.organization_id, whole)
        assert await installed.rows("SELECT call_id FROM hold") == []
        states = {
            row[0] for row in await installed.rows("SELECT state FROM call WHERE reason <> ''")
        }
        assert states <= {"lapsed", "late", "settled", "released"}
        ((late,),) = await installed.rows("SELECT count(*) FROM call WHERE state = 'late'")
        assert late > 0
        await installed.assert_books_clean()


async def comes_back(clients: Clients, gateway: FareboxProcess) -> list[Outcome]:
    """Call until it serves; what it says until then is that billing is unavailable."""
    refused: list[Outcome] = []
    until = time.monotonic() + 30.0
    while not (outcome := await clients.call(gateway.url, 40, stream=False)).is_whole:
        assert (outcome.status, outcome.code) == (503, "billing_unavailable"), outcome
        assert time.monotonic() < until, "it never came back"
        refused.append(outcome)
        await asyncio.sleep(0.05)
    return refused


async def test_a_fenced_node_admits_nothing_until_it_registers_again(
    durable: DurableServer, tmp_path: Path
) -> None:
    """ENGINE "Nodes and lapses": admits under an old epoch are refused; nothing is held or sent."""
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        node = await installed.spawn("gateway")
        async with Clients(customer) as clients:
            await installed.rows("UPDATE node SET epoch = epoch + 1")
            refused = await comes_back(clients, node)
        assert refused
        ids = [o.call_id for o in refused]
        assert await installed.rows("SELECT id FROM call WHERE id = ANY(%s)", ids) == []
        assert await installed.rows("SELECT call_id FROM hold") == []
        await installed.assert_books_clean()


@pytest.mark.long
async def test_a_partitioned_node_stops_before_its_holds_lapse(
    durable: DurableServer, tmp_path: Path
) -> None:
    """ENGINE "Nodes and lapses": cut off for 40 s it closes its calls, and after 60 s they lapse.

    Nobody shortens anything here: the node is cut off from the database by a black hole.
    """
    async with (
        durable.installation(tmp_path) as installed,
        Proxy(socket_of(installed.dsn), seed=1) as proxy,
    ):
        customer = await installed.customer("acme", CREDIT)
        node, _ = await asyncio.gather(
            installed.spawn("gateway", database_url=url_through(proxy, installed.dsn)),
            installed.spawn("worker"),
        )
        async with Clients(customer) as clients:
            endless = usage(10, 200) | pace(event_ms=1_000)
            stream = asyncio.create_task(clients.last_word(node.url, 200, endless))
            await installed.until("SELECT count(*) = 1 FROM hold")
            proxy.swallow()
            proxy.swallows = True
            cut_at = time.monotonic()
            last_word_at = await stream
            assert last_word_at - cut_at < NODE_SILENCE.total_seconds()
            assert (await clients.call(node.url, 40, stream=False)).status == 503
            await installed.until("SELECT count(*) = 1 FROM call WHERE state = 'lapsed'")
            assert time.monotonic() - cut_at >= SILENCE_SECONDS_MAX
            proxy.heal()
            await comes_back(clients, node)
            await installed.until("SELECT count(*) = 1 FROM call WHERE state = 'late'")
        assert await installed.rows("SELECT call_id FROM hold") == []
        await installed.assert_books_clean()


@pytest.mark.long
async def test_kill9_mid_stream_hold_expires(durable: DurableServer, tmp_path: Path) -> None:
    """Field bug 24, ENGINE "Nodes and lapses": a killed node's hold ends by itself.

    The lapse charges the progress of the last heartbeat, estimated, and never the hold.
    """
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        node, _ = await asyncio.gather(installed.spawn("gateway"), installed.spawn("worker"))
        async with Clients(customer) as clients:
            orders = usage(10, 400) | pace(event_ms=100)
            stream = asyncio.create_task(
                clients.call(node.url, 400, stream=True, directives=orders)
            )
            await installed.until("SELECT count(*) = 1 FROM hold WHERE progress IS NOT NULL")
            pid = node.pid
            node.kill()
            ((told,),) = await installed.rows("SELECT progress[1] FROM hold")
            assert not (await stream).is_whole
            await installed.unsee(pid)
            await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert told > 0
        assert await installed.rows("SELECT state, estimated, charge_nanos FROM call") == [
            ("lapsed", True, told)
        ]
        await installed.assert_books_clean()
