"""The simulation itself: seeds are clean, replay exactly, and find the bugs that are planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.expected import EXPECTED, missing
from tests.simulation.plans import draw_plan
from tests.simulation.planted import BUGS
from tests.simulation.running import Outcome, Totals, run_seed, run_seeds

ROOT = Path(__file__).resolve().parents[2]

SHORT_SEEDS = range(20)
LONG_SEEDS = range(10_000)


def simulate(seeds: range, *, processes: int = 1) -> Totals:
    """Live seeds through; the first failure says how to see it."""
    totals = Totals()
    for outcome in run_seeds(seeds, processes=processes):
        totals.add(outcome)
        assert outcome.is_clean, (
            f"{outcome.message}\n{os.linesep.join(outcome.lines)}\n"
            f"replay: python -m tests.simulation --seed {outcome.seed} --trace"
        )
    return totals


def test_some_seeds_are_clean() -> None:
    """Promises 1 and 2: whatever goes wrong, no commit overspends, nothing is lost or doubled."""
    totals = simulate(SHORT_SEEDS)
    assert totals.seeds == len(SHORT_SEEDS)
    # They did something: calls were admitted and refused, nodes died, holds lapsed, answers came
    # late, batches were sent again.
    for kind in ("admit admitted", "admit balance_held", "crash", "pause", "fence", "batch resent"):
        assert totals.counts[kind] > 0, kind
    assert totals.counts["client whole"] > 100


@pytest.mark.long
def test_ten_thousand_seeds_are_clean() -> None:
    """Promises 1 and 2, at length; and everything that can go wrong went wrong somewhere."""
    assert missing(simulate(LONG_SEEDS, processes=2).counts) == []


def test_a_seed_replays_exactly() -> None:
    """A failure can be replayed: the same seed gives the same trace, event for event."""
    first, other, again = run_seed(11), run_seed(12), run_seed(11)
    assert first.digest == again.digest
    assert first.lines == again.lines
    assert first.counts == again.counts
    assert first.digest != other.digest


def test_a_seed_replays_in_another_process() -> None:
    """A failure can be replayed anywhere: no order depends on hashes, addresses or the machine."""
    digests = set()
    for hash_seed in ("0", "1"):
        said = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "13"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        digests.add(said.partition("digest ")[2].split()[0])
    assert digests == {run_seed(13).digest}


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.is_rare])
def test_a_planted_bug_is_found(name: str) -> None:
    """The checks see what they are there for: some seed finds the bug, and is clean without it."""
    outcome = first_failure(name)
    assert outcome.check in BUGS[name].found_by, outcome.message
    assert run_seed(outcome.seed).is_clean


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.is_rare])
def test_a_planted_bug_that_needs_a_coincidence_is_found(name: str) -> None:
    """The same for bugs that show in one seed of many."""
    outcome = first_failure(name)
    assert outcome.check in BUGS[name].found_by, outcome.message


def first_failure(name: str) -> Outcome:
    """The first seed that finds a bug, within as many as the bug may take."""
    for outcome in run_seeds(range(BUGS[name].seeds), bug=name):
        if not outcome.is_clean:
            return outcome
    pytest.fail(f"{BUGS[name].says}: not found in {BUGS[name].seeds} seeds")


def test_plans_differ_and_every_fault_is_in_some() -> None:
    """Swarm testing: each seed has a plan of its own, and no kind of fault is in all of them."""
    plans = [draw_plan(seed) for seed in range(200)]
    assert len({tuple(plan.lines()[1:]) for plan in plans}) == len(plans)
    for name in ("crashes", "pauses", "partitions", "outages", "clock_jumps", "poisons"):
        shares = [bool(getattr(plan, name)) for plan in plans]
        assert any(shares), name
        assert not all(shares), name


def test_the_list_of_expected_events_names_each_once() -> None:
    """A run that exercised nothing is a failure; the list that says so has no gaps or doubles."""
    assert len(EXPECTED) == len(set(EXPECTED)) > 90
    assert missing(simulate(range(0)).counts) == list(EXPECTED)
