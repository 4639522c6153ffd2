"""The gateway against what it is measured by: interleaved rounds, pinned cores, medians, ratios.

``python -m bench.gateway [--rounds 5] [--connections 1 16 64] [--shapes json sse]
[--bytes 1000 20000] [--scopes 2] [--rivals FOLDER]``.

Every round visits every target for each shape, size and number of connections, so that the
machine's drift falls on all alike; differences and ratios are taken within a round. The first
round warms everything up and is thrown away, but its charges are counted: at the end every answer's
charge must be in the database, one by one and in the sums, and no hold may be open.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

from bench import rivals
from bench.database import bundled, scratch
from bench.figures import difference, paired, ratio, shown, spread, table
from bench.installation import Ledger, install
from bench.machine import machine_facts, postgres_facts
from bench.processes import pin, python
from bench.targets import LOAD_CORE, TARGET_CORE, Target, direct, nginx, passthrough

SHAPES: Final = ("json", "sse")
OWN: Final = ("direct", "nginx", "pass-through", "farebox")


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix."""

    shape: str
    size: int
    connections: int


@dataclass(slots=True)
class Rounds:
    """What was measured: by case and target, one report per round."""

    reports: dict[tuple[Case, str], list[dict[str, Any]]] = field(default_factory=dict)

    def note(self, case: Case, target: str, report: dict[str, Any]) -> None:
        """Keep one report."""
        self.reports.setdefault((case, target), []).append(report)

    def figures(self, case: Case, target: str, name: str) -> list[float]:
        """A figure of a target, round by round."""
        return [report[name] for report in self.reports[case, target]]

    def compared(self, case: Case, target: str) -> dict[str, Any]:
        """A target's row: its own figures, and what it adds to the direct call."""
        reports = self.reports[case, target]
        row: dict[str, Any] = {
            "shape": case.shape,
            "bytes": case.size,
            "connections": case.connections,
            "target": target,
            "requests": sum(r["requests"] for r in reports),
            "lost": sum(r["lost"] for r in reports),
            "statuses": _added_up([r["statuses"] for r in reports]),
        }
        for name in ("per_second", "p50_us", "p95_us", "p99_us", "first_byte_p50_us", "cpu_us"):
            row[name] = spread(self.figures(case, target, name))
        for name in ("p50_us", "p95_us", "first_byte_p50_us"):
            mine, base = self.figures(case, target, name), self.figures(case, "direct", name)
            row[f"added_{name}"] = paired(mine, base, difference)
        if (case, "farebox") in self.reports:
            mine = self.figures(case, "farebox", "per_second")
            row["farebox_times"] = paired(mine, self.figures(case, target, "per_second"), ratio)
        return row


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All targets in turn, round by round."""
    cases = [Case(*case) for case in product(args.shapes, args.bytes, args.connections)]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home")
        conditions = {
            **machine_facts(folder),
            "postgresql": postgres_facts(server.dsn),
            "postgresql_cores": ",".join(map(str, sorted(os.sched_getaffinity(server.pid)))),
            "target_core": TARGET_CORE,
            "load_and_upstream_core": LOAD_CORE,
            "rounds": args.rounds,
            "seconds_a_round": args.seconds,
        }
        targets = [t for t in _targets(stack, args, folder, server.dsn) if t is not None]
        conditions["not_here"] = sorted({*args.targets} - {t.name for t in targets})
        rounds, ledger = Rounds(), Ledger()
        for number, case in product(range(args.rounds + 1), cases):
            for target in targets:
                report = load(target, case, args.seconds, folder, ledger)
                if number:
                    rounds.note(case, target.name, report)
        memory = {t.name: t.process.memory() for t in targets if t.process is not None}
        return {
            "conditions": conditions,
            "rows": [rounds.compared(case, t.name) for case in cases for t in targets],
            "memory_mb": {
                name: {"rss": m.resident, "pss": m.proportional} for name, m in memory.items()
            },
            "books": ledger.compare(server.dsn) if ledger.answers else None,
        }


def _targets(
    stack: ExitStack, args: argparse.Namespace, folder: Path, dsn: str
) -> Iterator[Target | None]:
    upstream = direct(stack, folder)
    yield upstream
    if "nginx" in args.targets:
        yield nginx(stack, folder, upstream)
    if "pass-through" in args.targets:
        yield passthrough(stack, folder, upstream)
    if "farebox" in args.targets:
        installation = install(dsn, folder / "home", upstream.url, scopes=args.scopes)
        url, process = installation.gateway(stack, TARGET_CORE, folder / "farebox.log")
        yield Target("farebox", url, process, installation.key)
    for name in rivals.installed(args.rivals) if args.rivals else ():
        if name in args.targets:
            yield rivals.rival(stack, name, args.rivals, folder, upstream)


def load(
    target: Target, case: Case, seconds: float, folder: Path, ledger: Ledger
) -> dict[str, Any]:
    """One round of load on a target."""
    charges = folder / "charges"
    command = [
        *python("bench.load", f"{target.url}/v1/chat/completions"),
        f"--key={target.key}",
        f"--connections={case.connections}",
        f"--seconds={seconds}",
        f"--bytes={case.size}",
        f"--charges={charges}",
        *(f"--header={header}" for header in target.headers),
        *(["--stream"] if case.shape == "sse" else []),
    ]
    before = target.process.cpu_seconds() if target.process else 0.0
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, preexec_fn=lambda: pin(LOAD_CORE)
    )
    after = target.process.cpu_seconds() if target.process else 0.0
    report: dict[str, Any] = json.loads(done.stdout)
    report["cpu_us"] = round((after - before) * 1e6 / max(1, report["requests"]), 1)
    if target.name == "farebox":
        ledger.add(report, charges)
    return report


def _added_up(statuses: list[dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in statuses:
        for status, count in one.items():
            found[status] = found.get(status, 0) + count
    return found


def written(report: dict[str, Any]) -> str:
    """The report as tables in Markdown."""
    head = (
        "target",
        "calls/s",
        "p50 us",
        "p95 us",
        "added p50 us",
        "added p95 us",
        "first byte added us",
        "CPU us/call",
        "Farebox does x times",
        "not 200",
    )
    parts: list[str] = []
    cases = dict.fromkeys((r["shape"], r["bytes"], r["connections"]) for r in report["rows"])
    for case in cases:
        shape, size, connections = case
        rows = [
            (
                r["target"],
                shown(r["per_second"]),
                shown(r["p50_us"]),
                shown(r["p95_us"]),
                shown(r["added_p50_us"]),
                shown(r["added_p95_us"]),
                shown(r["added_first_byte_p50_us"]),
                shown(r["cpu_us"]),
                shown(r["farebox_times"], 2) if "farebox_times" in r else "-",
                sum(n for status, n in r["statuses"].items() if status != "200") + r["lost"],
            )
            for r in report["rows"]
            if (r["shape"], r["bytes"], r["connections"]) == case
        ]
        parts += [f"\n{shape}, {size:,} bytes, {connections} at once\n", table(head, rows)]
    return "\n".join(parts)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--seconds", type=float, default=2.0, help="of load, a round and a cell")
    found.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    found.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    found.add_argument("--bytes", type=int, nargs="+", default=[1000, 20_000], help="of the body")
    found.add_argument(
        "--scopes", type=int, choices=range(3), default=0, help="limited scopes of every call"
    )
    everything = [*OWN, *rivals.NAMES]
    found.add_argument("--targets", nargs="+", choices=everything, default=everything)
    found.add_argument("--rivals", type=Path, help="where bench.rivals installed them")
    found.add_argument("--folder", type=Path, help="on which disk the database lies")
    found.add_argument("--json", type=Path, help="also write the whole report here")
    return found


def main() -> None:
    """Measure and print."""
    args = parser().parse_args()
    report = measure(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report["conditions"], indent=1))
    print(written(report))
    print("\nmemory, MB:", json.dumps(report["memory_mb"]))
    print("books:", json.dumps(report["books"]))


if __name__ == "__main__":
    main()
