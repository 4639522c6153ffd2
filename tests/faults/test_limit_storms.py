"""Storms against every kind of limit: more calls at once, on two gateways, than any of them takes.

``limit_cases`` has the table. At every commit all counters are counted anew from the rows of holds
and calls; afterwards everything that people are shown is compared with that. The whole size alone:
``./dev test-long -k every_kind_of_limit``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from tests.faults.limit_cases import GROUPS, Case
from tests.faults.limit_house import House, Order, Tenant, Told, house
from tests.faults.limit_judge import CREDIT_CODES, TIER_CODES, Judge
from tests.faults.limit_log import read_log
from tests.faults.limit_recount import Recount
from tests.support.figures import Figures
from tests.support.processes import DurableServer
from tests.support.sizes import size

STORM = size("LIMIT_STORM", 500)
"""Calls at once against each kind of limit."""
SMALL_STORM = 24

TOGETHER = 3
"""Storms of the whole size at a time: a machine that cannot keep up tests patience, not limits."""

WALL_SECONDS = 2.1
"""A little longer than the wall time that the cases give a run."""


async def prepare(home: House, case: Case, calls: int) -> Tenant:
    """A tenant of its own, and its limits."""
    tenant = await home.tenant(case.name, case.credit(calls))
    for limit in case.limits:
        await home.set_limit(tenant, **limit.order(calls))
    if case.tier:
        await home.command("tiers", "assign", case.name, "--org", tenant.name)
    return tenant


async def make_tiers(home: House, cases: Sequence[Case], calls: int) -> None:
    """Before there is anybody who would stand in the lowest of them by rule."""
    for position, case in enumerate(cases):
        if case.tier:
            place = ("--position", str(position))
            await home.command("tiers", "set", case.name, *place, *case.tier_options(calls))


async def storm(home: House, tenant: Tenant, case: Case, calls: int) -> list[Told]:
    """So many calls at once, and again in each wave."""
    told: list[Told] = []

    async def one(order: Order) -> None:
        while True:
            answer = await home.call(tenant, order)
            told.append(answer)
            if answer.code != "balance_held":
                return  # what only open holds stand in the way of is tried again

    for wave in range(case.waves):
        if wave:
            await asyncio.sleep(WALL_SECONDS)
        await asyncio.gather(*(one(order) for order in case.orders(calls)))
    return told


def recounted(home: House, tenant: Tenant) -> Recount:
    """Everything that was committed, followed from the beginning."""
    recount = Recount(tenant.id, tenant.zone, tenant.credit)
    for commit in read_log(home.installed.dsn, tenant.id):
        recount.take(commit)
    assert recount.missing() == []
    return recount


def judge_codes(case: Case, told: Sequence[Told]) -> None:
    """Only limits of the case refuse, and they do."""
    right = {code for limit in case.limits for code in limit.codes()}
    if case.tier:
        right |= TIER_CODES
    if case.credit_room is not None:
        right |= {*CREDIT_CODES, "balance_held"}
    codes = Counter("whole" if each.is_whole else each.code for each in told)
    assert codes["whole"], (case.name, codes)
    assert set(codes) <= {"whole", *right}, (case.name, codes)
    final = codes.total() - codes["whole"] - codes["balance_held"]
    assert final or not case.refuses, (case.name, codes)
    if not right:
        assert set(codes) == {"whole"}, (case.name, codes)


async def weather(
    home: House, tenant: Tenant, case: Case, calls: int, figures: Figures, *, command: bool
) -> None:
    """One case from its first call to its last look."""
    began = time.monotonic()
    told = await storm(home, tenant, case, calls)
    took = time.monotonic() - began
    await home.installed.until(
        "SELECT NOT EXISTS (SELECT FROM hold WHERE organization_id = %s)", tenant.id
    )
    judge_codes(case, told)
    recount = await asyncio.to_thread(recounted, home, tenant)
    counts = await Judge(home, tenant, recount, told).everything(command=command, receipts=3)
    codes = Counter("whole" if each.is_whole else each.code for each in told)
    counts |= {
        "calls made": len(told),
        "calls answered": codes.pop("whole", 0),
        "calls refused": codes.total(),
        "commits watched": recount.commits,
        "counters compared at commits": recount.counters_compared,
        "worst over a limit": recount.worst_over,
        "worst nanos over the credit": max(0, recount.worst_over_credit),
        "tokens made beyond what was ordered": recount.beyond_orders,
        "nanos charged": sum(each.charge or 0 for each in told),
    }
    figures.add("storms against limits", {"storms": 1, **counts})
    figures.add(f"storm: {case.name}", {"calls": len(told), "seconds": took} | dict(codes))


async def storms(
    durable: DurableServer,
    folder: Path,
    figures: Figures,
    cases: Sequence[Case],
    *,
    calls: int,
    together: int,
    commands: Collection[str] | None = None,
) -> None:
    """All cases on the same two gateways, so many of them at a time."""
    some = asyncio.Semaphore(together)

    async def in_turn(home: House, tenant: Tenant, case: Case) -> None:
        async with some:
            command = commands is None or case.name in commands
            await weather(home, tenant, case, calls, figures, command=command)

    async with house(durable, folder) as home:
        await make_tiers(home, cases, calls)
        tenants = [await prepare(home, case, calls) for case in cases]
        await asyncio.gather(*(map(in_turn, [home] * len(cases), tenants, cases)))


async def test_small_storms_against_every_kind_of_limit(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """DESIGN promise 1, BUD-10, LIM-04: no kind of limit is passed; what is shown is enforced."""
    cases = [case for group in GROUPS.values() for case in group]
    asked = {"everything at once", "with a raise"}
    await storms(durable, tmp_path, figures, cases, calls=SMALL_STORM, together=9, commands=asked)


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
async def test_five_hundred_calls_against_every_kind_of_limit(
    durable: DurableServer, tmp_path: Path, figures: Figures, group: str
) -> None:
    """DESIGN promise 1: 500 concurrent calls against each kind of limit, on two gateways."""
    await storms(durable, tmp_path, figures, GROUPS[group], calls=STORM, together=TOGETHER)
