"""What a seed is made of: its size, its money, its faults, all drawn before it begins.

Each kind of fault is in some seeds and not in others, so that rare ones are not always drowned by
frequent ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Final

ZONES: Final = {
    "UTC": datetime(2027, 4, 1, tzinfo=UTC),
    "America/New_York": datetime(2027, 4, 1, 4, tzinfo=UTC),
    "Asia/Kolkata": datetime(2027, 3, 31, 18, 30, tzinfo=UTC),
    "Pacific/Apia": datetime(2027, 3, 31, 11, tzinfo=UTC),
}
"""Zones of organisations, and when April begins there."""


@dataclass(frozen=True)
class Plan:
    """A seed, unfolded."""

    seed: int
    gateways: int
    workers: int
    organizations: int
    lanes: int
    calls: int
    """How many calls clients begin, retries aside."""
    callers: int
    """Clients that call at the same time, per organisation."""
    operators: int
    """Commands of operators, per organisation."""
    seconds: float
    """Virtual seconds of traffic and faults, about."""
    begins: datetime
    """By the database's clock; often just before a month ends somewhere."""
    credit: int
    """Nanos that each organisation begins with."""
    ceiling_share: float
    """A usual ceiling as a share of the credit."""
    patience_seconds: float
    """How long an admission may wait in order for money that open calls hold."""
    latest_end_seconds: float
    call_seconds_max: float
    upstream_seconds: float
    overrun_share: float
    exact_share: float
    hostile: bool
    """Operators take back and dispute the credit that everything stands on."""
    limited: bool
    """Operators set limits."""
    storm: bool
    """Every caller calls at once."""
    modelled: bool
    """The second implementation runs beside the engine; it costs as much as the engine itself."""
    beyond_the_model: bool
    """Limits too that it does not know: throttles, allocations, runs."""
    # Faults.
    crashes: int
    pauses: int
    partitions: int
    gentle_stops: int
    outages: int
    clock_jumps: int
    poisons: int
    console_changes: int
    break_chance: float
    silent_share: float
    error_chance: float
    stall_chance: float
    disconnect_chance: float
    wire_seconds: float
    commit_seconds: float

    def lines(self) -> list[str]:
        """Every option, for people."""
        return [f"{field.name} = {getattr(self, field.name)}" for field in fields(self)]


def draw_plan(seed: int) -> Plan:
    """Unfold a seed."""
    chance = random.Random(f"{seed} plan")

    def sometimes(share: float, most: int) -> int:
        return chance.randint(1, most) if chance.random() < share else 0

    def rarely(share: float, *values: float) -> float:
        return chance.choice(values) if chance.random() < share else 0.0

    organizations = chance.choice((1, 1, 2, 2, 3, 4))
    month_ends = chance.choice(list(ZONES.values()))
    modelled = chance.random() < 0.35
    latest_end = chance.choice((40.0, 90.0, 200.0))
    seconds = chance.choice((20.0, 60.0, 120.0))
    return Plan(
        seed=seed,
        gateways=chance.randint(2, 5) if chance.random() < 0.5 else 2,
        workers=chance.choice((1, 1, 2)),
        organizations=organizations,
        lanes=chance.choice((1, 2, 2)),
        calls=chance.randint(40, 110),
        callers=chance.choice((2, 6, 20)),
        operators=chance.randint(3, 12),
        seconds=seconds,
        begins=month_ends - timedelta(seconds=chance.choice((0.5, 50)) * seconds * chance.random()),
        credit=chance.choice((1_000, 1_000_000, 10_000_000_000)),
        ceiling_share=chance.choice((0.01, 0.05, 0.2)),
        patience_seconds=chance.choice((0.3, 0.3, 2.0)),
        latest_end_seconds=latest_end,
        call_seconds_max=latest_end * 0.8,
        upstream_seconds=chance.choice((0.05, 1.0, 10.0, 25.0)),
        overrun_share=rarely(0.5, 0.05, 0.3),
        exact_share=chance.choice((0.0, 0.3, 1.0)),
        hostile=chance.random() < 0.2,
        limited=chance.random() < 0.6,
        storm=chance.random() < 0.2,
        modelled=modelled,
        beyond_the_model=not modelled and chance.random() < 0.3,
        crashes=sometimes(0.5, 3),
        pauses=sometimes(0.5, 3),
        partitions=sometimes(0.4, 2),
        gentle_stops=sometimes(0.25, 2),
        outages=sometimes(0.3, 2),
        clock_jumps=sometimes(0.25, 2),
        poisons=sometimes(0.15, 3),
        console_changes=sometimes(0.5, 5),
        break_chance=rarely(0.5, 0.005, 0.03, 0.1),
        silent_share=chance.choice((0.0, 0.2, 1.0)),
        error_chance=rarely(0.4, 0.01, 0.1),
        stall_chance=rarely(0.4, 0.01, 0.1),
        disconnect_chance=rarely(0.6, 0.05, 0.3),
        wire_seconds=chance.choice((0.0002, 0.002, 0.02)),
        commit_seconds=chance.choice((0.0002, 0.002, 0.02)),
    )
