"""Limits that change while calls run, and windows that turn while calls are open.

Limits are made, raised, lowered and removed over the API and by the command line in the middle of
traffic; the sandbox's clock turns their windows. At every commit all counters are counted anew. The
long ones alone: ``./dev test-long -k limits_change``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from farebox.kit.money import Nanos, format_amount
from tests.faults.limit_cases import COUNTED_MODEL, CREDIT, TOKENS
from tests.faults.limit_house import House, Order, Tenant, Told, house
from tests.faults.limit_judge import Judge
from tests.faults.test_limit_storms import recounted
from tests.faults.traffic import MODEL
from tests.support.figures import Figures
from tests.support.processes import DurableServer
from tests.support.sizes import size

CHANGES = size("LIMIT_CHANGES", 500)
"""Changes of limits in the middle of traffic."""
SMALL_CHANGES = 50

CALLERS = 12

Rule = tuple[str, str, str, str, str, str]
"""Kind and name of the scope, measure, period, effect, models."""

RULES: tuple[Rule, ...] = (
    ("organization", "", "money", "month", "hard", ""),
    ("organization", "", "tokens", "minute", "hard", ""),
    ("organization", "", "calls", "week", "alert", ""),
    ("project", "main", "calls", "day", "hard", "gpt-4*"),
    ("project", "side", "parallel", "total", "hard", ""),
    ("project", "side", "money", "total", "allocation", ""),
    ("key", "side", "money", "week", "throttle", ""),
    ("key", "", "tokens", "month", "hard", ""),
    ("user", "", "calls", "day", "hard", ""),
    ("user", "user-1", "calls", "day", "hard", ""),
    ("user", "user-1", "money", "total", "hard", ""),
    ("feature", "search", "tokens", "month", "hard", COUNTED_MODEL),
    ("environment", "live", "calls", "utc_day", "hard", ""),
    ("run", "crawl", "money", "total", "hard", ""),
    ("run", "", "tokens", "day", "hard", ""),
    ("run", "other", "parallel", "total", "stop", ""),
    ("tag", "team=search", "tokens", "day", "shadow", ""),
)

LARGEST = {"money": 6 * 10**9, "tokens": 200_000, "calls": 200, "parallel": 8}
"""About what a few hundred calls come to."""

RAISES_OVER = timedelta(seconds=2)
"""Longer than any raise: none ends while its limit is looked at."""

PAUSE_SECONDS = 0.2
"""Of a caller who was refused."""

ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")

OPTIONS = {
    "month": "--monthly",
    "week": "--weekly",
    "day": "--daily",
    "total": "--total",
    "minute": "--per-minute",
    "utc_day": "--per-day",
}


@dataclass
class Traffic:
    """Callers of one tenant, until told to stop."""

    home: House
    tenant: Tenant
    chance: random.Random
    told: list[Told] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def caller(self) -> None:
        """One call after the other."""
        while not self.over.is_set():
            told = await self.home.call(self.tenant, self.order())
            self.told.append(told)
            await asyncio.sleep(0.005 if told.is_whole else PAUSE_SECONDS)

    def order(self) -> Order:
        """Any call."""
        chance = self.chance
        labels = {
            "key": chance.choice(("main", "side")),
            "user": f"user-{chance.randrange(3)}",
            "feature": chance.choice(("search", "chat")),
            "environment": chance.choice(("live", "test")),
            "run": chance.choice(("crawl", "crawl/page", "other")),
            "tags": "team=search",
        }
        return Order(
            chance.choice(TOKENS) // 2,
            labels,
            stream=chance.random() < 0.5,
            model=chance.choice((MODEL, MODEL, COUNTED_MODEL)),
            share=chance.choice((0.2, 0.6, 1.0)),
            head_ms=chance.choice((0, 20, 120)),
        )


class Changer:
    """Makes, raises, lowers and removes limits, and turns the clock."""

    def __init__(self, home: House, tenant: Tenant, chance: random.Random, *, clock: bool) -> None:
        self.home = home
        self.tenant = tenant
        self.chance = chance
        self.clock = clock
        self.done: Counter[str] = Counter()
        self.standing: dict[Rule, str] = {}
        """The limits there are, with their ids."""

    async def change(self, times: int) -> None:
        """So many changes."""
        acts = [self.set, self.set, self.to_the_brim, self.raise_briefly, self.remove]
        for number in range(times):
            await asyncio.sleep(0.01)
            if self.clock and number % 20 == 10:
                await self.turn()
            elif number % 30 == 15:
                await self.move()
            elif number % 25 == 5:
                await self.command()
            else:
                act = self.chance.choice(acts)
                await act()

    async def set(self) -> None:
        """Make one, or move the one there is."""
        rule = self.chance.choice(RULES)
        done = "raised or lowered" if rule in self.standing else "made"
        await self._set(rule, self.chance.randrange(LARGEST[rule[2]]))
        self.done[done] += 1

    async def to_the_brim(self) -> None:
        """Lower one to just about what is used and held at that moment."""
        rule = self.chance.choice(RULES)
        shown = await self._set(rule, LARGEST[rule[2]])
        used = [shown["used"], shown["held"]]
        total = sum(int(Nanos(0) if a is None else _number(a)) for a in used)
        await self._set(rule, max(0, total + self.chance.choice((-1, 0, 1))))
        self.done["lowered to what is used"] += 1

    async def raise_briefly(self) -> None:
        """Another maximum until a moment that the calls will live to see."""
        rule = self.chance.choice(RULES)
        ((now,),) = await self.home.installed.rows("SELECT farebox_now()")
        until = now + timedelta(milliseconds=self.chance.randrange(100, 1_000))
        largest = LARGEST[rule[2]]
        more = {"raised_to": 2 * largest, "raised_until": until.isoformat()}
        await self._set(rule, self.chance.randrange(largest), **more)
        self.done["raised for a while"] += 1

    async def remove(self) -> None:
        """Take one away."""
        if self.standing:
            rule = self.chance.choice(list(self.standing))
            await self.home.remove_limit(self.tenant, self.standing.pop(rule))
            self.done["removed"] += 1

    async def command(self) -> None:
        """Make, move or remove one by the command line."""
        rule = self.chance.choice(RULES)
        kind, name, measure, period, effect, models = rule
        maximum: int | None = self.chance.randrange(LARGEST[measure])
        if rule in self.standing and self.chance.random() < 0.3:
            maximum = None
        if effect == "stop" and maximum is not None:
            maximum = 0
        text = "none" if maximum is None else str(maximum)
        if measure == "money" and maximum is not None:
            text = format_amount(maximum)
        options = ["--org", self.tenant.name]
        if kind != "organization":
            scope = self.tenant.scope_id(kind, name)
            options += [f"--{kind}", scope] if name else ["--each", kind]
        options += ["--parallel" if measure == "parallel" else OPTIONS[period], text]
        options += [f"--{measure}"] if measure in {"tokens", "calls"} else []
        options += [f"--{effect}"] if effect != "hard" else []
        options += ["--models", models] if models else []
        listed = await self.home.command("limits", "set", *options)
        assert listed["object"] == "list"
        if maximum is None:
            self.standing.pop(rule)
        elif rule not in self.standing:
            await self._set(rule, maximum)
        self.done["by the command line"] += 1

    async def move(self) -> None:
        """Change the zone that days, weeks and months begin by."""
        zone = self.chance.choice(ZONES)
        await self.home.command("orgs", "update", self.tenant.name, "--zone", zone)
        self.done["zone changed"] += 1

    async def turn(self) -> None:
        """Turn windows while calls are open."""
        by = self.chance.choice((timedelta(minutes=1), timedelta(hours=11), timedelta(days=9)))
        await self.home.advance(by)
        self.done["clock turned"] += 1

    async def _set(self, rule: Rule, maximum: int, **more: Any) -> dict[str, Any]:
        kind, name, measure, period, effect, models = rule
        if effect == "stop":
            maximum, more = 0, {}
        shown = await self.home.set_limit(
            self.tenant,
            scope_kind=kind,
            scope_name=name,
            measure=measure,
            period=period,
            effect=effect,
            models=models,
            maximum=maximum,
            **more,
        )
        self.standing[rule] = shown["id"]
        return shown


def _number(shown: str | int) -> int:
    whole, _, rest = str(shown).partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0")) if isinstance(shown, str) else shown


async def change_in_traffic(
    durable: DurableServer, folder: Path, figures: Figures, *, changes: int, seed: int
) -> None:
    """Traffic of one tenant while its limits change."""
    chance = random.Random(seed)
    async with house(durable, folder) as home:
        tenant = await home.tenant("changing", CREDIT, zone="Europe/Berlin")
        traffic = Traffic(home, tenant, chance)
        changer = Changer(home, tenant, chance, clock=True)
        callers = [asyncio.create_task(traffic.caller()) for _ in range(CALLERS)]
        try:
            await changer.change(changes)
        finally:
            traffic.over.set()
            await asyncio.gather(*callers)
        await home.advance(RAISES_OVER)
        recount = await asyncio.to_thread(recounted, home, tenant)
        judge = Judge(home, tenant, recount, traffic.told)
        counts = await judge.whatever_changed(command=True, receipts=10)
        codes = Counter("whole" if told.is_whole else told.code for told in traffic.told)
        assert codes["whole"]
        assert codes.total() > codes["whole"]
        counts |= {
            "calls made": codes.total(),
            "calls answered": codes["whole"],
            "commits watched": recount.commits,
            "counters compared at commits": recount.counters_compared,
            "worst over a limit": recount.worst_over,
        }
        figures.add("limits that change in traffic", counts)
        figures.add(
            "limits that change in traffic", {f"done: {k}": n for k, n in changer.done.items()}
        )


async def test_limits_change_in_the_middle_of_traffic(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """DESIGN promise 1, BUD-02, BUD-16: made, raised, lowered, removed; exact at every commit."""
    await change_in_traffic(durable, tmp_path, figures, changes=SMALL_CHANGES, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_limits_change_many_times_in_the_middle_of_traffic(
    durable: DurableServer, tmp_path: Path, figures: Figures, seed: int
) -> None:
    """DESIGN promise 1, BUD-02, BUD-16: the same for longer, from other seeds."""
    await change_in_traffic(durable, tmp_path, figures, changes=CHANGES, seed=seed)
