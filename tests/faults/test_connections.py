"""Lost, stalled and half-open connections to the database: what is in doubt happens once.

A gateway's connections go through a proxy that breaks them; another process reaches the database
directly, as the rest of a fleet would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import Admit, Admitted, Closed
from farebox.operations.bookkeeper import Bookkeeper
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from farebox.storage.loading import load
from tests.faults.traffic import ANSWERS_MIN, Clients, Traffic, assert_charged_once
from tests.support.processes import Customer, DurableServer, FareboxProcess, Installation
from tests.support.proxy import Proxy, socket_of, url_through
from tests.support.till import Till

CREDIT = Nanos(1_000 * NANOS_PER_UNIT)
CALLERS = 10


@asynccontextmanager
async def behind_a_proxy(
    durable: DurableServer, home: Path, *, seed: int
) -> AsyncIterator[tuple[Installation, Customer, Proxy]]:
    """A sandbox, a customer with credit, and a proxy before the database."""
    async with (
        durable.installation(home) as installed,
        Proxy(socket_of(installed.dsn), seed=seed) as proxy,
    ):
        yield installed, await installed.customer("acme", CREDIT), proxy


class NewestTill(Till):
    """A till that rates by the catalogue as it is now."""

    revision = 0

    @override
    def admit(self, held: int = 10, **changes: Any) -> Admit:
        return super().admit(held, catalogue_revision=self.revision, **changes)


async def till_of(installed: Installation) -> NewestTill:
    """A till in a sandbox."""
    till = NewestTill()
    till.put_into_database(installed.dsn)
    ((till.revision,),) = await installed.rows("SELECT revision FROM catalogue")
    return till


async def test_commits_in_doubt_happen_once(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "Idempotency": a lost connection is no failed commit, and the same ids say so.

    A third of all acknowledgements are lost; every command is answered, every call charged once.
    """
    async with behind_a_proxy(durable, tmp_path, seed=1) as (installed, _, proxy):
        till = await till_of(installed)
        await installed.command(till.grant(1_000_000))
        proxy.lose_commits = 0.33
        lanes = [
            PostgresBatchStore(Connector(url_through(proxy, installed.dsn), name=f"lane {lane}"))
            for lane in range(2)
        ]
        bookkeeper = Bookkeeper(lanes, monotonic=time.monotonic)
        bookkeeper.start()
        chance = random.Random(1)

        async def call(number: int) -> int:
            await asyncio.sleep(chance.uniform(0, 2.0))
            admit = till.admit(20)
            admitted = await bookkeeper.submit(admit)
            assert isinstance(admitted, Admitted), admitted
            closed = await bookkeeper.submit(till.settle(admit, metered=number % 20))
            assert isinstance(closed, Closed), closed
            return closed.charge

        try:
            charges = await asyncio.gather(*(call(number) for number in range(400)))
        finally:
            await bookkeeper.aclose()
        assert proxy.lost_commits > 0
        assert await installed.rows(
            "SELECT count(*), sum(charge_nanos)::bigint, max(o.spent_nanos) FROM call c"
            " JOIN organization o ON o.id = c.organization_id WHERE o.id = %s",
            till.organization_id,
        ) == [(400, sum(charges), sum(charges))]
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        assert await installed.rows("SELECT call_id FROM hold") == []
        await installed.assert_books_clean()


async def test_a_silent_owner_of_the_lock_loses_it(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "A batch": who stops between reading and writing holds an organisation for seconds.

    Neither a stopped process nor a vanished machine may keep the others from their money; when it
    comes back, what it decided on is old and is not written.
    """
    async with behind_a_proxy(durable, tmp_path, seed=2) as (installed, _, _):
        till = await till_of(installed)
        await installed.command(till.grant(100))
        silent = Exchange(await Connector(installed.dsn, name="silent").connect())
        try:
            mine = till.admit(10)
            read = await load(silent, [mine], {}, resent=False)
            assert read.state.organizations
            others = Bookkeeper(
                [PostgresBatchStore(Connector(installed.dsn, name="other"))],
                monotonic=time.monotonic,
            )
            others.start()
            try:
                assert isinstance(await others.submit(till.admit(90)), Admitted)
            finally:
                await others.aclose()
        finally:
            await silent.connection.close()


class Weather:
    """What the network does, act by act."""

    def __init__(self, proxy: Proxy, chance: random.Random) -> None:
        self.proxy = proxy
        self.chance = chance

    async def act(self, name: str, seconds: float) -> None:
        """Do one thing for so long, then heal."""
        proxy = self.proxy
        match name:
            case "latency":
                proxy.latency_seconds = 0.05
            case "dribble":
                proxy.dribble_bytes = self.chance.randint(1, 64)
            case "lost commits":
                proxy.lose_commits = 0.3
            case "refused":
                proxy.refuses = True
                proxy.reset()
            case "reset":
                for _ in range(10):
                    await asyncio.sleep(seconds / 10)
                    proxy.reset(0.3)
            case "stall":
                await proxy.stall(seconds, 0.7)
            case "black hole":
                proxy.swallow(0.7)
            case _:
                raise AssertionError(name)
        await asyncio.sleep(seconds)
        proxy.heal()


ACTS = ("latency", "dribble", "lost commits", "refused", "reset", "stall", "black hole")


async def weather(
    durable: DurableServer, home: Path, *, seed: int, acts: Sequence[tuple[str, float]]
) -> None:
    """One gateway behind bad weather, one in the sun, one organisation for both."""
    chance = random.Random(seed)
    async with behind_a_proxy(durable, home, seed=seed) as (installed, customer, proxy):
        far_url = url_through(proxy, installed.dsn)
        far, near, _ = await asyncio.gather(
            installed.spawn("gateway", database_url=far_url),
            installed.spawn("gateway"),
            installed.spawn("worker", database_url=far_url),
        )
        async with Clients(customer) as clients:
            traffic = Traffic(clients, lambda: [far.url, near.url], chance)
            traffic.start(CALLERS)
            for name, seconds in acts:
                await asyncio.sleep(0.3)
                await Weather(proxy, chance).act(name, seconds)
                await assert_charged_once(installed, customer.organization_id, traffic.whole())
                await installed.assert_books_clean()
            await traffic.stop()
            for gateway in (far, near):
                await served(clients, gateway)
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await assert_charged_once(installed, customer.organization_id, traffic.whole())
        await installed.assert_books_clean()
        assert len(traffic.whole()) >= ANSWERS_MIN, traffic.tally()
        assert {o.status for o in traffic.outcomes} <= {0, 200, 503}, traffic.tally()


async def served(clients: Clients, gateway: FareboxProcess) -> None:
    """A gateway serves again, soon after its way to the database is clear."""
    until = time.monotonic() + 30.0
    while not (outcome := await clients.call(gateway.url, 40, stream=True)).is_whole:
        assert time.monotonic() < until, (outcome, gateway.last_words())
        await asyncio.sleep(0.2)


async def test_bad_weather(durable: DurableServer, tmp_path: Path) -> None:
    """DESIGN promise 2: what the network does to a gateway charges nobody twice or not at all."""
    await weather(durable, tmp_path, seed=1, acts=[(name, 0.4) for name in ACTS])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
async def test_much_bad_weather(durable: DurableServer, tmp_path: Path, seed: int) -> None:
    """DESIGN promise 2: so it is in any weather, and when it lasts."""
    chance = random.Random(seed)
    acts = [(chance.choice(ACTS), chance.choice((0.2, 1.0, 4.0, 20.0))) for _ in range(15)]
    await weather(durable, tmp_path, seed=seed, acts=acts)
