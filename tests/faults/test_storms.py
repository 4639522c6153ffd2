"""Overspend storms: more calls at once than there is money, in several processes on one database.

What must hold at every commit: charged plus held never pass the credit and the floor, nor a limit.
What must hold of every refusal: by its own figures the call did not fit.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Period
from farebox.rating.ceiling import LINES_MAX
from tests.faults.storm_director import CENT, FLOORS, Director
from tests.faults.storm_process import TOKEN_NANOS, Plan, Tally
from tests.faults.storm_watch import Watched, watching
from tests.faults.traffic import Clients, Outcome, pace, prompt_bound, say, usage
from tests.support.processes import ROOT, Customer, DurableServer, Installation
from tests.support.proxy import Proxy, socket_of, url_through

DOLLAR = Nanos(NANOS_PER_UNIT)
PROCESSES = 2
MANY_PROCESSES = 3
CALLERS = 40
LATENCIES_MS = (0, 50, 200)
LONG_LATENCIES_MS = (*LATENCIES_MS, 2_500)
"""Of the provider: the last is longer than an admission waits for money that others hold."""
START_SECONDS = 1.5
"""What a process needs before it can begin: they shall begin together."""

# --- the engine itself, no HTTP between -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """What callers do, and what happens meanwhile."""

    endings: Mapping[str, int]
    acts: tuple[str, ...]
    floor: int = 0
    lowest_floor: int = 0
    patient: float = 0.0
    lost_commits: float = 0.0
    """Share of acknowledgements that get lost on their way."""


SCENARIOS = {
    # Every answer uses its ceiling up to the last nano; credit comes in drops.
    "exact": Scenario({"exact": 1}, ("top_up",)),
    # Most of the money comes back at once: the boundary is passed to and fro.
    "cheap": Scenario({"nothing": 6, "part": 3, "exact": 1}, ("top_up",), patient=0.02),
    # The same, and many answers of the database are lost after it has committed.
    "in doubt": Scenario(
        {"nothing": 6, "part": 3, "exact": 1}, ("top_up", "lose_node"), lost_commits=0.2
    ),
    "floor": Scenario(
        {"nothing": 4, "part": 4, "over": 1, "exact": 1},
        ("top_up",),
        floor=25 * CENT,
        lowest_floor=25 * CENT,
    ),
    "limit": Scenario({"nothing": 5, "part": 4, "over": 1}, ("top_up", "move_limit", "drop_limit")),
    # Overruns, calls that lapse and settle late, grants that end, limits and floors that fall.
    "everything": Scenario(
        {"nothing": 6, "part": 6, "exact": 2, "over": 3, "forgotten": 2},
        (
            *("top_up",) * 4,
            *("top_up_briefly",) * 6,
            *("move_limit",) * 3,
            *("drop_limit", "move_floor", "change_mind", "lose_node", "advance", "sweep"),
        ),
        patient=0.02,
        floor=FLOORS[-1],
    ),
}


async def storm(
    installed: Installation, scenario: Scenario, *, admissions: int, processes: int, seed: int
) -> tuple[Watched, list[Tally], Counter[str]]:
    """Processes ask for so many admissions of 2 to 5 cents against about a dollar."""
    customer = await installed.customer("acme", DOLLAR, floor=Nanos(scenario.floor))
    over = asyncio.Event()
    with watching(installed.dsn, customer.organization_id) as watched:
        async with (
            Proxy(socket_of(installed.dsn), seed=seed) as proxy,
            Director(installed, customer, random.Random(seed), scenario.acts) as director,
        ):
            proxy.lose_commits = scenario.lost_commits
            dsn = url_through(proxy, installed.dsn) if scenario.lost_commits else installed.dsn
            directing = asyncio.create_task(director.direct(over))
            try:
                tallies = await asyncio.gather(
                    *(
                        run_process(
                            installed,
                            customer,
                            dsn=dsn,
                            seed=seed * 100 + number,
                            admissions=admissions // processes,
                            endings=dict(scenario.endings),
                            patient=scenario.patient,
                            lowest_floor=scenario.lowest_floor,
                        )
                        for number in range(processes)
                    )
                )
            finally:
                over.set()
                await directing
            await director.sweep()
            assert (proxy.lost_commits > 0) == (scenario.lost_commits > 0)
    return watched, tallies, director.done


async def plan(installed: Installation, customer: Customer, **more: object) -> Plan:
    """The plan of one process."""
    ((price_id, account_id, revision),) = await installed.rows(
        "SELECT v.id, a.id, c.revision FROM price_version v, upstream_account a, catalogue c"
        " WHERE v.provider = 'openai' AND v.model = 'gpt-5.4' AND v.lane = 'standard'"
    )
    facts = {
        "dsn": installed.dsn,
        "organization_id": customer.organization_id,
        "project_id": customer.project_id,
        "key_id": customer.key_id,
        "price_id": price_id,
        "account_id": account_id,
        "catalogue_revision": revision,
        "begin_at": time.time() + START_SECONDS,
        "callers": CALLERS,
        "tokens_min": 2 * CENT // TOKEN_NANOS,
        "tokens_max": 5 * CENT // TOKEN_NANOS,
    }
    return msgspec.convert({**facts, **more}, Plan)


async def run_process(installed: Installation, customer: Customer, **more: object) -> Tally:
    """Run one process of a storm to its end."""
    orders = await plan(installed, customer, **more)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.storm_process",
        msgspec.json.encode(orders).decode(),
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    output = await process.stdout.read()
    assert await process.wait() == 0
    return msgspec.json.decode(output, type=Tally)


async def assert_never_over(
    installed: Installation, watched: Watched, tallies: list[Tally]
) -> None:
    """Nobody was over at any commit, nobody refused who fitted, and nothing is left behind."""
    assert watched.commits > 0
    assert watched.looks > 0
    assert watched.commits_over == 0, watched
    assert watched.limit_commits_over == 0, watched
    assert watched.imbalance == 0, watched
    assert [line for tally in tallies for line in tally.wrongly] == []
    assert await installed.rows("SELECT call_id FROM hold") == []
    assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
    await installed.assert_books_clean()


async def check_storm(
    durable: DurableServer, home: Path, name: str, admissions: int, *, processes: int
) -> tuple[int, Counter[str]]:
    """Have a storm and judge it; gives the admissions decided at the boundary, and the ends."""
    scenario = SCENARIOS[name]
    async with durable.installation(home) as installed:
        watched, tallies, done = await storm(
            installed, scenario, admissions=admissions, processes=processes, seed=processes
        )
        say(name, watched, tallies, done)
        await assert_never_over(installed, watched, tallies)
    if "move_floor" not in scenario.acts:
        assert watched.most_over is not None
        assert watched.most_over_at_commit is not None
        assert max(watched.most_over, watched.most_over_at_commit) <= 0
    ended = sum((Counter(tally.ended) for tally in tallies), Counter[str]())
    return sum(tally.boundary for tally in tallies), ended


@pytest.mark.parametrize("name", ["exact", "in doubt", "everything"])
async def test_a_small_storm(durable: DurableServer, tmp_path: Path, name: str) -> None:
    """DESIGN promise 1: charges plus holds pass neither credit, floor nor limit at any commit."""
    boundary, _ = await check_storm(durable, tmp_path, name, 3_000, processes=PROCESSES)
    assert boundary >= 3_000


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_million_boundary_admissions(
    durable: DurableServer, tmp_path: Path, name: str
) -> None:
    """DESIGN promise 1: overshoot is 0 nanodollars; a sixth of a million each, six ways."""
    boundary, ended = await check_storm(durable, tmp_path, name, 168_000, processes=MANY_PROCESSES)
    assert boundary >= 168_000
    assert ended["late"] > 0 or "forgotten" not in SCENARIOS[name].endings
    assert ended["absorbed"] > 0 or "over" not in SCENARIOS[name].endings


async def persist(
    durable: DurableServer, home: Path, *, endings: dict[str, int], callers: int
) -> tuple[int, list[Tally]]:
    """Callers who go on until posted money cannot pay; gives the rest, and what came of it."""
    async with durable.installation(home) as installed:
        customer = await installed.customer("acme", DOLLAR)
        with watching(installed.dsn, customer.organization_id) as watched:
            tallies = await asyncio.gather(
                *(
                    run_process(
                        installed,
                        customer,
                        seed=seed,
                        admissions=10_000_000,
                        callers=callers,
                        endings=endings,
                        patient=1.0,
                        persistent=True,
                    )
                    for seed in range(PROCESSES)
                )
            )
        say("persistent", watched, tallies)
        await assert_never_over(installed, watched, tallies)
        assert watched.most_over_at_commit is not None
        assert watched.most_over_at_commit <= 0
        ((spent,),) = await installed.rows(
            "SELECT spent_nanos FROM organization WHERE id = %s", customer.organization_id
        )
    assert spent == sum(tally.charged for tally in tallies)
    return DOLLAR - spent, tallies


@pytest.mark.parametrize("endings", [{"exact": 1}, {"part": 3, "nothing": 1}], ids=str)
async def test_persistent_callers_spend_the_money(
    durable: DurableServer, tmp_path: Path, endings: dict[str, int]
) -> None:
    """DESIGN decision 5: what only holds block is spent by whoever tries again.

    With answers that use their ceiling exactly, the rest is smaller than the cheapest ceiling that
    was refused; with cheaper ones, it is smaller than one ceiling.
    """
    rest, tallies = await persist(durable, tmp_path, endings=endings, callers=20)
    refused = [t.cheapest_refused for t in tallies if t.cheapest_refused is not None]
    assert 0 <= rest < min(refused)
    assert rest < 5 * CENT


# --- gateways, over HTTP --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """What an organisation may spend, and by what."""

    floor: int = 0
    limit: int | None = None

    @property
    def nanos(self) -> int:
        """All that may be charged, with a dollar of credit."""
        return min(DOLLAR + self.floor, self.limit if self.limit is not None else 10 * DOLLAR)


BUDGETS = {
    "balance": Budget(),
    "floor": Budget(floor=20 * CENT),
    "limit": Budget(limit=60 * CENT),
}


class Crowd:
    """Many clients at once on two gateways."""

    def __init__(
        self, clients: Clients, urls: list[str], chance: random.Random, latencies_ms: Sequence[int]
    ) -> None:
        self.latencies_ms = latencies_ms
        self.clients = clients
        self.urls = urls
        self.chance = chance
        self.outcomes: list[Outcome] = []

    async def call(self, number: int, share: float, fault: str = "") -> Outcome:
        """One call of 2 to 5 cents that uses a share of its ceiling."""
        stream = number % 2 == 0
        tokens = self.chance.randint(610, 1_580)
        orders = usage(
            int(prompt_bound(tokens, stream=stream) * share), max(1, int(tokens * share))
        )
        if fault:
            orders["x-sandbox-usage"] = f"prompt={prompt_bound(tokens, stream=stream)}"
            orders["x-sandbox-fault"] = fault
        orders |= pace(head_ms=self.chance.choice(self.latencies_ms))
        outcome = await self.clients.call(
            self.urls[number // 2 % len(self.urls)], tokens, stream=stream, directives=orders
        )
        self.outcomes.append(outcome)
        return outcome

    async def one(self, number: int, kind: str) -> None:
        """What one client does."""
        match kind:
            case "exact":
                await self.call(number, 1.0)
            case "overrun":
                await self.call(number, 1.0, "overrun=300")
            case _:
                await self.persist(number, 0.3)

    async def persist(self, number: int, share: float) -> None:
        """Call again for as long as only holds stand in the way, or the call was answered."""
        while True:
            outcome = await self.call(number, share)
            if not outcome.is_whole and outcome.code != "balance_held":
                return

    def charged(self) -> int:
        """What the clients were told that they were charged."""
        return sum(outcome.charge or 0 for outcome in self.outcomes)

    def codes(self) -> Counter[str]:
        """How the calls ended."""
        return Counter("whole" if o.is_whole else o.code for o in self.outcomes)


async def crowd_storm(
    installed: Installation, urls: list[str], kind: str, name: str, *, calls: int
) -> Watched:
    """So many calls at once, of one kind, against a dollar and a budget."""
    budget = BUDGETS[name]
    customer = await installed.customer(f"{kind} {name}", DOLLAR, floor=Nanos(budget.floor))
    organization_id = customer.organization_id
    if budget.limit is not None:
        maximum = Nanos(budget.limit)
        await installed.command(
            SetLimit(organization_id=organization_id, period=Period.MONTH, maximum=maximum)
        )
    with watching(installed.dsn, organization_id) as watched:
        async with Clients(customer) as clients:
            latencies = LONG_LATENCIES_MS if calls >= 1_000 else LATENCIES_MS
            crowd = Crowd(clients, urls, random.Random(calls), latencies)
            await asyncio.gather(*(crowd.one(number, kind) for number in range(calls)))
    say(kind, name, watched, crowd.codes())
    await judge_crowd(installed, customer, budget, crowd, kind)
    assert watched.most_over_at_commit is not None
    assert watched.most_over_at_commit <= 0
    return watched


async def crowd_storms(
    durable: DurableServer, home: Path, storms: Sequence[tuple[str, str]], *, calls: int
) -> None:
    """Some of them at once, each against an organisation of its own, on the same two gateways."""
    async with durable.installation(home) as installed:
        gateways = await asyncio.gather(installed.spawn("gateway"), installed.spawn("gateway"))
        urls = [gateway.url for gateway in gateways]
        all_watched = await asyncio.gather(
            *(crowd_storm(installed, urls, kind, name, calls=calls) for kind, name in storms)
        )
        for watched in all_watched:
            await assert_never_over(installed, watched, [])


async def judge_crowd(
    installed: Installation, customer: Customer, budget: Budget, crowd: Crowd, kind: str
) -> None:
    """Everybody was answered or refused rightly, and the money is spent to less than a ceiling."""
    codes = crowd.codes()
    refusals = {"balance_held", "credit_balance_exhausted", "organization_spend_limit_exceeded"}
    assert codes.keys() <= {"whole", *refusals}, codes
    ((spent, absorbed),) = await installed.rows(
        "SELECT spent_nanos, absorbed_nanos FROM organization WHERE id = %s",
        customer.organization_id,
    )
    assert spent == crowd.charged()
    refused = sum(codes[code] for code in refusals)
    await installed.until(
        "SELECT coalesce(sum(times), 0) = %s FROM refusal WHERE organization_id = %s",
        refused,
        customer.organization_id,
    )
    rows = await installed.rows(
        "SELECT code, needed_nanos, available_nanos, limit_figures FROM refusal"
        " WHERE organization_id = %s",
        customer.organization_id,
    )
    for code, needed, available, figures in rows:
        if figures is not None and code != "credit_balance_exhausted":
            assert figures["used"] + figures["held"] + needed > figures["maximum"]
        else:
            assert needed > available + budget.floor
    rest = budget.nanos - spent
    cheapest = min(row[1] for row in rows)
    # A ceiling has a nano to spare for each line that may round; that is what comes back.
    spare = LINES_MAX * codes["whole"]
    assert 0 <= rest < cheapest + spare
    assert (absorbed > 0) == (kind == "overrun")


async def test_crowds_on_two_gateways(durable: DurableServer, tmp_path: Path) -> None:
    """DESIGN promise 1, over HTTP: JSON and streams, whatever answers cost."""
    storms = [("exact", "balance"), ("cheap", "limit"), ("overrun", "floor")]
    await crowd_storms(durable, tmp_path, storms, calls=150)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["exact", "cheap", "overrun"])
@pytest.mark.parametrize("name", BUDGETS)
async def test_two_thousand_calls_at_once(
    durable: DurableServer, tmp_path: Path, kind: str, name: str
) -> None:
    """DESIGN promise 1: 2,000 concurrent calls against a dollar, by balance, floor and limit."""
    await crowd_storms(durable, tmp_path, [(kind, name)], calls=2_000)
