"""Running seeds: one or many, in one process or several, with what they add up to."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.simulation.plans import draw_plan
from tests.simulation.planted import planted
from tests.simulation.trace import SimulationError
from tests.simulation.world import World, live_through

LINES_SHOWN = 40
"""Of the trace, before a failure."""

SEEDS_PER_COLLECTION = 10
"""A seed leaves some megabytes of cycles behind."""

PIECE_SEEDS = 25
"""Seeds that a process takes at a time."""


@dataclass(frozen=True)
class Outcome:
    """What became of one seed."""

    seed: int
    digest: str
    counts: Counter[str]
    virtual_seconds: float
    check: str = ""
    """Which checker found something; empty if the seed is clean."""
    message: str = ""
    lines: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.check


@dataclass
class Totals:
    """What many seeds add up to."""

    seeds: int = 0
    virtual_seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)
    digest: int = 0
    """Of every seed's digest, in whatever order they came."""

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.seeds += 1
        self.virtual_seconds += outcome.virtual_seconds
        self.counts += outcome.counts
        word = f"{outcome.seed} {outcome.digest}".encode()
        self.digest ^= int.from_bytes(hashlib.blake2b(word, digest_size=8).digest())
        if not outcome.is_clean:
            self.failures.append(outcome)


def run_seed(seed: int, *, bug: str | None = None, whole_trace: bool = False) -> Outcome:
    """Live one seed through.

    Args:
        seed: Any number.
        bug: A planted bug.
        whole_trace: Keep every line of the trace.
    """
    world = World(draw_plan(seed))
    check = message = ""
    collects = gc.isenabled()
    gc.disable()  # a seed is short and makes many cycles: collecting in the middle is half its time
    try:
        with ExitStack() as stack:
            if bug is not None:
                stack.enter_context(planted(bug))
            live_through(world)
    except SimulationError as error:
        check, message = error.check, str(error)
    finally:
        world.loop.bury()
        asyncio.set_event_loop(None)
        if collects:
            gc.enable()
            if seed % SEEDS_PER_COLLECTION == 0:
                gc.collect()
    return Outcome(
        seed=seed,
        digest=world.trace.digest,
        counts=world.trace.counts,
        virtual_seconds=world.loop.time(),
        check=check,
        message=message,
        lines=tuple(world.trace.lines(None if whole_trace else LINES_SHOWN)),
    )


def run_seeds(
    seeds: Iterable[int], *, processes: int = 1, bug: str | None = None
) -> Iterator[Outcome]:
    """Live many through; the outcomes come in the order of the seeds."""
    if processes == 1:
        for seed in seeds:
            yield run_seed(seed, bug=bug)
        return
    work = ((seed, bug) for seed in seeds)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_run_one, work, chunksize=PIECE_SEEDS)


def _run_one(work: tuple[int, str | None]) -> Outcome:
    seed, bug = work
    return run_seed(seed, bug=bug)
