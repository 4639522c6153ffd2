"""Simulate seeds: ``python -m tests.simulation --seeds 0:10000 --processes 2``.

Exit status 0: every seed is clean and every kind of event happened. 1: a check failed, or a kind of
event never happened. 2: the arguments are wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.simulation.expected import SEEDS_ENOUGH, missing
from tests.simulation.plans import draw_plan
from tests.simulation.planted import BUGS
from tests.simulation.running import Outcome, Totals, run_seed, run_seeds

PROGRESS_SECONDS = 20.0


def main() -> int:
    """Run the command."""
    arguments = _arguments()
    if arguments.seed is not None:
        return _one(arguments.seed, bug=arguments.plant, whole_trace=arguments.trace)
    return _many(arguments.seeds, processes=arguments.processes, bug=arguments.plant)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=_range, default=range(200), help="FIRST:END, end excluded")
    which.add_argument("--seed", type=int, help="replay one and show the end of its trace")
    parser.add_argument("--trace", action="store_true", help="with --seed: show the whole trace")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--plant", choices=sorted(BUGS), help="plant a bug")
    return parser.parse_args()


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def _one(seed: int, *, bug: str | None, whole_trace: bool) -> int:
    if whole_trace:
        _say(*draw_plan(seed).lines(), "")
    outcome = run_seed(seed, bug=bug, whole_trace=whole_trace)
    _say(*outcome.lines, "", *_counts(outcome.counts), "")
    _say(f"seed {seed}: {outcome.virtual_seconds:.0f} virtual seconds, digest {outcome.digest}")
    if outcome.is_clean:
        _say("clean")
        return 0
    _say("", f"FAILED {outcome.message}")
    return 1


def _many(seeds: range, *, processes: int, bug: str | None) -> int:
    totals = Totals()
    began = said = time.monotonic()
    for outcome in run_seeds(seeds, processes=processes, bug=bug):
        totals.add(outcome)
        if not outcome.is_clean:
            _say(*_failure(outcome, bug), "")
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            _say(f"{totals.seeds} of {len(seeds)} seeds, {len(totals.failures)} failures")
    seconds = time.monotonic() - began
    _say(*_counts(totals.counts), "")
    _say(
        f"commit {commit()}",
        f"seeds {seeds.start} to {seeds.stop - 1}: {totals.seeds}, {len(totals.failures)} failed",
        f"{seconds:.0f} s on {processes} processes,"
        f" {seconds * processes / max(1, totals.seeds):.3f} s each;"
        f" {totals.virtual_seconds / 3600:.1f} virtual hours",
        f"digest of all traces {totals.digest:016x}",
    )
    absent = missing(totals.counts) if totals.seeds >= SEEDS_ENOUGH and bug is None else []
    if absent:
        _say(f"FAILED: never happened: {', '.join(absent)}")
    return 1 if totals.failures or absent else 0


def _failure(outcome: Outcome, bug: str | None) -> list[str]:
    plant = "" if bug is None else f" --plant {bug}"
    return [
        *outcome.lines,
        "",
        f"FAILED seed {outcome.seed} at commit {commit()}: {outcome.message}",
        f"replay: {sys.executable} -m tests.simulation --seed {outcome.seed}{plant} --trace",
    ]


def _counts(counts: dict[str, int]) -> list[str]:
    return [f"{kind:<44} {counts[kind]:>9}" for kind in sorted(counts)]


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
