"""Overspend storms over HTTP: more calls at once on two gateways than there is money.

What is watched is the same as in ``test_storms``; here every call goes the whole way, as JSON or as
a stream, and the clients add up what they were told. The long ones alone:
``FAREBOX_TEST_CROWD=2000 ./dev test-long -k at_once``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from farebox.kit.money import Nanos
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Period
from tests.faults.crowd import DOLLAR, Budget, Crowd, judge_budget, judge_refusals
from tests.faults.storm_director import CENT, FLOORS, Director
from tests.faults.storm_watch import Watched, watching
from tests.faults.traffic import Clients, assert_charged_once
from tests.support.figures import Figures
from tests.support.processes import Customer, DurableServer, Installation
from tests.support.sizes import size

CROWD = size("CROWD", 2_000)
SMALL_CROWD = 120

LATENCIES_MS = (0, 50, 200)
LONG_LATENCIES_MS = (*LATENCIES_MS, 2_500)
"""Of the provider: the last is longer than an admission waits for money that others hold."""

BUDGETS = {
    "balance": Budget(),
    "floor": Budget(floor=20 * CENT),
    "limit": Budget(limit=60 * CENT),
}

ACTS = (
    *("top_up",) * 6,
    *("top_up_briefly",) * 6,
    *("move_limit",) * 4,
    *("drop_limit", "move_floor", "change_mind", "advance", "sweep"),
)
"""What happens to an organisation whose calls do anything; losing a node is done apart."""


class Scene:
    """Two gateways, and what a crowd does to one organisation on them."""

    def __init__(self, installed: Installation, urls: list[str], figures: Figures) -> None:
        self.installed = installed
        self.urls = urls
        self.figures = figures

    def crowd(self, clients: Clients, calls: int) -> Crowd:
        """Clients for this scene."""
        latencies = LONG_LATENCIES_MS if calls >= CROWD else LATENCIES_MS
        return Crowd(clients, self.urls, random.Random(calls), latencies)

    async def spend(self, kind: str, name: str, *, calls: int) -> None:
        """So many calls at once, of one kind, against a dollar and a budget."""
        budget = BUDGETS[name]
        customer = await self._customer(f"{kind} {name}", budget)
        with watching(self.installed.dsn, customer.organization_id) as watched:
            async with Clients(customer) as clients:
                crowd = self.crowd(clients, calls)
                await crowd.gather(kind, calls)
        self._tell(f"crowd {kind!r} {name!r}", watched, crowd)
        watched.assert_never_over()
        assert (watched.limit_commits > 0) == (budget.limit is not None)
        assert watched.looks_over == 0
        assert watched.most_over is not None
        assert watched.most_over <= 0
        await judge_budget(self.installed, customer, budget, crowd, kind)

    async def anything(self, *, calls: int) -> None:
        """Any calls, while money comes and ends, limits and floors fall, and a node is lost."""
        customer = await self._customer("anything", Budget(floor=FLOORS[-1]))
        await self.installed.rows(
            "UPDATE project SET slices = true WHERE id = %s", customer.project_id
        )
        over = asyncio.Event()
        with watching(self.installed.dsn, customer.organization_id) as watched:
            async with (
                Clients(customer) as clients,
                Director(self.installed, customer, random.Random(calls), ACTS) as director,
            ):
                crowd = self.crowd(clients, calls)
                crowd.insists = False
                directing = asyncio.create_task(director.direct(over))
                losing = asyncio.create_task(self._lose_nodes(director, over))
                try:
                    await crowd.gather("anything", calls)
                finally:
                    over.set()
                    await asyncio.gather(directing, losing)
        self._tell("crowd 'anything'", watched, crowd)
        self.figures.add("crowd 'anything'", {f"act: {act}": n for act, n in director.done.items()})
        watched.assert_never_over()
        await judge_refusals(self.installed, customer, crowd, lowest_floor=0)
        whole = crowd.whole()
        assert whole
        await assert_charged_once(self.installed, customer.organization_id, whole)
        statuses = {outcome.status for outcome in crowd.outcomes}
        assert statuses <= {0, 200, 429, 502, 503}, crowd.codes()

    async def _lose_nodes(self, director: Director, over: asyncio.Event) -> None:
        """A node that is lost serves again with its next heartbeat: one at a time, and not soon."""
        while not over.is_set():
            await asyncio.sleep(1.0)
            await director.lose_node()
            director.done["lose_node"] += 1
            await asyncio.wait([asyncio.create_task(over.wait())], timeout=6.0)

    async def _customer(self, name: str, budget: Budget) -> Customer:
        customer = await self.installed.customer(name, DOLLAR, floor=Nanos(budget.floor))
        if budget.limit is not None:
            await self.installed.command(
                SetLimit(
                    organization_id=customer.organization_id,
                    period=Period.MONTH,
                    maximum=Nanos(budget.limit),
                )
            )
        return customer

    def _tell(self, subject: str, watched: Watched, crowd: Crowd) -> None:
        counts = {
            "calls": len(crowd.outcomes),
            "nanos charged": crowd.charged(),
            **watched.figures(),
        }
        self.figures.add("crowds in all", counts)
        self.figures.add(subject, counts)
        self.figures.add(subject, {f"calls: {code}": n for code, n in crowd.codes().items()})


async def crowds(
    durable: DurableServer,
    home: Path,
    figures: Figures,
    storms: Sequence[tuple[str, str]],
    *,
    calls: int,
) -> None:
    """Some crowds at once, each against an organisation of its own, on the same two gateways."""
    async with durable.installation(home) as installed:
        gateways = await asyncio.gather(installed.spawn("gateway"), installed.spawn("gateway"))
        scene = Scene(installed, [gateway.url for gateway in gateways], figures)
        await asyncio.gather(
            *(
                scene.spend(kind, name, calls=calls) if name else scene.anything(calls=calls)
                for kind, name in storms
            )
        )
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await installed.assert_books_clean()


async def test_crowds_on_two_gateways(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """DESIGN promise 1, over HTTP: JSON and streams, whatever answers cost."""
    storms = [("exact", "balance"), ("cheap", "limit"), ("overrun", "floor")]
    await crowds(durable, tmp_path, figures, storms, calls=SMALL_CROWD)


async def test_a_crowd_while_everything_changes(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """DESIGN promise 1, over HTTP: grants end, limits and floors fall, holds lapse on the way."""
    await crowds(durable, tmp_path, figures, [("anything", "")], calls=SMALL_CROWD)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["exact", "cheap", "overrun"])
@pytest.mark.parametrize("name", BUDGETS)
async def test_two_thousand_calls_at_once(
    durable: DurableServer, tmp_path: Path, figures: Figures, kind: str, name: str
) -> None:
    """DESIGN promise 1: 2,000 concurrent calls against a dollar, by balance, floor and limit."""
    await crowds(durable, tmp_path, figures, [(kind, name)], calls=CROWD)


@pytest.mark.long
async def test_anything_at_once(durable: DurableServer, tmp_path: Path, figures: Figures) -> None:
    """DESIGN promise 1: 2,000 clients and whatever may happen to their organisation."""
    await crowds(durable, tmp_path, figures, [("anything", "")], calls=CROWD)
