"""Overspend storms: more calls at once than there is money, in several processes on one database.

What must hold at every commit: charged plus held never pass the credit and the floor, nor a limit.
What must hold of every refusal: by its own figures the call did not fit.

Here callers ask the engine itself, with no HTTP between; ``test_crowds`` has gateways. The long one
alone: ``FAREBOX_TEST_ADMISSIONS=1000000 ./dev test-long -k million``.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from tests.faults.storm_director import CENT, FLOORS, Director
from tests.faults.storm_process import TOKEN_NANOS, Plan, Tally
from tests.faults.storm_watch import Watched, watching
from tests.support.figures import Figures
from tests.support.processes import ROOT, Customer, DurableServer, Installation
from tests.support.proxy import Proxy, socket_of, url_through
from tests.support.sizes import size

DOLLAR = Nanos(NANOS_PER_UNIT)
PROCESSES = 2
MANY_PROCESSES = 3
CALLERS = 40
START_SECONDS = 1.5
"""What a process needs before it can begin: they shall begin together."""

SMALL = {"exact": 3_000, "in doubt": 1_000, "everything": 3_000}
MILLION = size("ADMISSIONS", 1_000_000)
FIRST_SEED = size("FIRST_SEED", 1)


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
    hands: int = 1
    pause_seconds: float = 0.005
    """How fast money comes, with the hands: too slow, and all there is to see are refusals; too
    fast, and there is no boundary."""
    share: float = 0.2
    """Of all the admissions of a long run."""


SCENARIOS = {
    # Every answer uses its ceiling up to the last nano; credit comes in drops.
    "exact": Scenario({"exact": 1}, ("top_up",), hands=2, share=0.25),
    # Most of the money comes back at once: the boundary is passed to and fro.
    "cheap": Scenario(
        {"nothing": 6, "part": 3, "exact": 1, "grown": 1},
        ("top_up",),
        patient=0.02,
        pause_seconds=0.02,
    ),
    # The same, and many answers of the database are lost after it has committed.
    "in doubt": Scenario(
        {"nothing": 6, "part": 3, "exact": 1, "grown": 1},
        (*("top_up",) * 9, "lose_node"),
        lost_commits=0.2,
        pause_seconds=0.02,
        share=0.05,
    ),
    "floor": Scenario(
        {"nothing": 4, "part": 4, "over": 1, "exact": 1},
        ("top_up",),
        floor=25 * CENT,
        lowest_floor=25 * CENT,
    ),
    "limit": Scenario(
        {"nothing": 5, "part": 4, "over": 1, "grown": 1},
        ("top_up", "top_up", "move_limit", "drop_limit"),
        hands=2,
        share=0.15,
    ),
    # Overruns, calls that lapse and settle late, grants that end, limits and floors that fall.
    "everything": Scenario(
        {"nothing": 6, "part": 6, "exact": 2, "over": 3, "grown": 2, "forgotten": 2},
        (
            *("top_up",) * 4,
            *("top_up_briefly",) * 6,
            *("move_limit",) * 3,
            *("drop_limit", "move_floor", "change_mind", "lose_node", "advance", "sweep"),
        ),
        patient=0.02,
        floor=FLOORS[-1],
        hands=2,
        share=0.15,
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
            Director(
                installed,
                customer,
                random.Random(seed),
                scenario.acts,
                hands=scenario.hands,
                pause_seconds=scenario.pause_seconds,
            ) as director,
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
                            admissions=-(-admissions // processes),
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


def tell(
    figures: Figures, name: str, watched: Watched, tallies: list[Tally], acts: Counter[str]
) -> None:
    """Add up what came of a storm."""
    refused = sum((Counter(tally.refused) for tally in tallies), Counter[str]())
    ended = sum((Counter(tally.ended) for tally in tallies), Counter[str]())
    counts = {
        "boundary admissions": sum(tally.boundary for tally in tallies),
        "admitted": sum(tally.admitted for tally in tallies),
        "nanos charged": sum(tally.charged for tally in tallies),
        "refused although it fitted": sum(len(tally.wrongly) for tally in tallies),
        **watched.figures(),
    }
    figures.add("storms in all", counts)
    figures.add(f"storm {name!r}", counts)
    figures.add(f"storm {name!r}", {f"refused: {code}": n for code, n in refused.items()})
    figures.add(f"storm {name!r}", {f"ended: {how}": n for how, n in ended.items()})
    figures.add(f"storm {name!r}", {f"act: {act}": n for act, n in acts.items()})


async def assert_never_over(
    installed: Installation, watched: Watched, tallies: list[Tally]
) -> None:
    """Nobody was over at any commit, nobody refused who fitted, and nothing is left behind."""
    watched.assert_never_over()
    assert watched.looks > 0
    assert [line for tally in tallies for line in tally.wrongly] == []
    assert await installed.rows("SELECT call_id FROM hold") == []
    assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
    await installed.assert_books_clean()


async def check_storm(
    durable: DurableServer,
    home: Path,
    figures: Figures,
    name: str,
    *,
    admissions: int,
    processes: int,
) -> Counter[str]:
    """Have a storm and judge it; gives how its calls ended."""
    scenario = SCENARIOS[name]
    seed = FIRST_SEED + list(SCENARIOS).index(name)
    async with durable.installation(home) as installed:
        watched, tallies, acts = await storm(
            installed, scenario, admissions=admissions, processes=processes, seed=seed
        )
        tell(figures, name, watched, tallies, acts)
        await assert_never_over(installed, watched, tallies)
        ((spent,),) = await installed.rows("SELECT sum(spent_nanos)::bigint FROM organization")
    if "move_floor" not in scenario.acts:
        # No floor fell: charged and held were never even level with more than there was.
        assert watched.looks_over == 0
        assert watched.most_over is not None
        assert watched.most_over <= 0
    assert sum(tally.boundary for tally in tallies) >= admissions
    # A call that lapses may be charged by the sweep, which tells no process.
    if "forgotten" not in scenario.endings and "lose_node" not in scenario.acts:
        assert spent == sum(tally.charged for tally in tallies)
    return sum((Counter(tally.ended) for tally in tallies), Counter[str]())


@pytest.mark.parametrize("name", SMALL)
async def test_a_small_storm(
    durable: DurableServer, tmp_path: Path, figures: Figures, name: str
) -> None:
    """DESIGN promise 1: charges plus holds pass neither credit, floor nor limit at any commit."""
    await check_storm(durable, tmp_path, figures, name, admissions=SMALL[name], processes=PROCESSES)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_million_boundary_admissions(
    durable: DurableServer, tmp_path: Path, figures: Figures, name: str
) -> None:
    """DESIGN promise 1: overshoot is 0 nanodollars, in each of six kinds of storm."""
    assert sum(round(100 * scenario.share) for scenario in SCENARIOS.values()) == 100
    each = math.ceil(MILLION * SCENARIOS[name].share)
    ended = await check_storm(
        durable, tmp_path, figures, name, admissions=each, processes=MANY_PROCESSES
    )
    endings = SCENARIOS[name].endings
    assert ended["late"] > 0 or "forgotten" not in endings
    assert ended["absorbed"] > 0 or "over" not in endings
    assert ended["extended"] > 0 or "grown" not in endings


async def persist(
    durable: DurableServer, home: Path, figures: Figures, *, endings: dict[str, int]
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
                        callers=CALLERS,
                        endings=endings,
                        patient=1.0,
                        persistent=True,
                    )
                    for seed in range(PROCESSES)
                )
            )
        tell(figures, "persistent callers", watched, tallies, Counter())
        await assert_never_over(installed, watched, tallies)
        assert watched.looks_over == 0
        assert watched.most_over is not None
        assert watched.most_over <= 0
        ((spent,),) = await installed.rows(
            "SELECT spent_nanos FROM organization WHERE id = %s", customer.organization_id
        )
    assert spent == sum(tally.charged for tally in tallies)
    return DOLLAR - spent, tallies


@pytest.mark.parametrize("endings", [{"exact": 1}, {"part": 3, "nothing": 1}], ids=str)
async def test_persistent_callers_spend_the_money(
    durable: DurableServer, tmp_path: Path, figures: Figures, endings: dict[str, int]
) -> None:
    """DESIGN decision 5: what only holds block is spent by whoever tries again.

    With answers that use their ceiling exactly, the rest is smaller than the cheapest ceiling that
    was refused; with cheaper ones, it is smaller than one ceiling.
    """
    rest, tallies = await persist(durable, tmp_path, figures, endings=endings)
    refused = [t.cheapest_refused for t in tallies if t.cheapest_refused is not None]
    assert 0 <= rest < min(refused)
    assert rest < 5 * CENT
