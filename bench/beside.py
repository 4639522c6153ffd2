"""Two databases side by side, one plain and one with something more in it, measured in turns.

Each has a server and a gateway of its own; only the one that is measured works. A difference is
taken within a round, so the machine's drift falls on both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg

from bench.database import bundled, settle_down
from bench.engine import CHARGE, Tenant, fund, make_tenants, pairs
from bench.figures import difference, paired, ratio, shown, spread, table
from bench.gateway import Case, load
from bench.installation import Ledger, install
from bench.machine import Conditions, machine_facts, postgres_facts
from bench.targets import TARGET_CORE, Target
from farebox.assembly.processes import spare_the_collector
from farebox.system.postgres.server import RunningServer

PROCESSES: Final = 2
CONCURRENCY: Final = 512
"""Calls in flight per process: several full batches."""

FIGURES: Final = {
    "pairs_per_second": "admit + settle pairs a second, one organisation",
    "added_p50_us": "gateway, 1 at once: added median, us",
    "per_second": "gateway, 64 at once: calls a second",
}


@dataclass(slots=True)
class Place:
    """One database with its gateway, and the organisation that the engine's pairs go to."""

    name: str
    server: RunningServer
    target: Target
    node: UUID
    tenant: Tenant
    ledger: Ledger = field(default_factory=Ledger)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def make_pairs(self, tenants: list[Tenant], seconds: float) -> int:
        """Have the engine make pairs in processes of their own; gives how many."""
        dsn = self.server.dsn
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            arguments = [(dsn, self.node, tenants, seconds)] * PROCESSES
            made = sum(pool.starmap(_make_pairs, arguments))
        self.ledger.answers += made
        self.ledger.told_nanos += made * CHARGE
        return made

    def note(self, name: str, figure: float) -> None:
        """Keep a round's figure."""
        self.figures.setdefault(name, []).append(figure)


def make_place(stack: ExitStack, name: str, folder: Path, upstream: Target) -> Place:
    """A database with one organisation for the gateway and one for the engine."""
    server = bundled(stack, folder / name)
    installation = install(server.dsn, folder / name, upstream.url)
    with psycopg.connect(server.dsn) as connection:
        # What the engine's pairs say they were rated by; the gateway starts after this.
        connection.execute("UPDATE catalogue SET revision = 1")
    url, process = installation.gateway(stack, TARGET_CORE, folder / f"{name}.log")
    node, tenants = make_tenants(server.dsn, 1)
    asyncio.run(fund(server.dsn, tenants, scopes=0))
    target = Target("farebox", url, process, installation.key)
    return Place(name, server, target, node, tenants[0])


def measure(
    places: tuple[Place, Place], upstream: Target, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """All rounds; the first warms up and is thrown away."""
    for place in places:
        settle_down(place.server)
    conditions: Conditions = {
        **machine_facts(folder),
        "postgresql": postgres_facts(places[0].server.dsn),
        "rounds": args.rounds,
        "seconds_a_figure": args.seconds,
        "engine_processes": PROCESSES,
    }
    for number in range(args.rounds + 1):
        # Whoever comes first in one round comes last in the next.
        for place in places if number % 2 else places[::-1]:
            found = _round(place, upstream, folder, args.seconds)
            for name, figure in found.items() if number else ():
                place.note(name, figure)
    return {
        "conditions": conditions,
        "rows": [_row(name, *places) for name in FIGURES],
        "books": {place.name: place.ledger.compare(place.server.dsn) for place in places},
    }


def _round(place: Place, upstream: Target, folder: Path, seconds: float) -> dict[str, float]:
    made = place.make_pairs([place.tenant], seconds)
    alone, many = Case("json", 1000, 1), Case("json", 1000, 64)
    base = load(upstream, alone, min(seconds, 1.0), folder, place.ledger)
    one = load(place.target, alone, seconds, folder, place.ledger)
    rate = load(place.target, many, seconds, folder, place.ledger)
    return {
        "pairs_per_second": made / seconds,
        "added_p50_us": one["p50_us"] - base["p50_us"],
        "per_second": rate["per_second"],
    }


def _row(name: str, plain: Place, fuller: Place) -> dict[str, Any]:
    mine, other = plain.figures[name], fuller.figures[name]
    return {
        "figure": FIGURES[name],
        plain.name: spread(mine),
        fuller.name: spread(other),
        "ratio": paired(other, mine, ratio),
        "difference": paired(other, mine, difference),
    }


def _make_pairs(dsn: str, node: UUID, tenants: list[Tenant], seconds: float) -> int:
    import uvloop

    spare_the_collector()
    return uvloop.run(pairs(dsn, node, tenants, CONCURRENCY, seconds))


def written(report: dict[str, Any], names: tuple[str, str]) -> str:
    """The report as a table in Markdown."""
    rows = [
        (r["figure"], *(shown(r[name]) for name in names), shown(r["ratio"], 3))
        for r in report["rows"]
    ]
    return table(("figure", *names, "ratio"), rows)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that both measurements have."""
    found = argparse.ArgumentParser(description=doc)
    found.add_argument("--rounds", type=int, default=7)
    found.add_argument("--seconds", type=float, default=4.0, help="a figure and a round")
    found.add_argument("--folder", type=Path, help="on which disk the databases lie")
    found.add_argument("--json", type=Path, help="also write the whole report here")
    return found


def told(report: dict[str, Any], names: tuple[str, str], args: argparse.Namespace) -> None:
    """Print a report."""
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report["conditions"], indent=1))
    print(written(report, names))
    print("books:", json.dumps(report["books"]))
