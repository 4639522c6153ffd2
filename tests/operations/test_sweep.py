"""The sweep's decisions, on a store that a test writes; what it does to rows is shown elsewhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from farebox.ledger.commands import AnyCommand, ExpireGrants, Lapse, Refused, Result
from farebox.operations.sweep import (
    CLOCK_JUMP_MAX,
    HOLDS_PER_STEP,
    NODE_SILENCE,
    PAUSE_AFTER_JUMP,
    HoldToLapse,
    Sweep,
    SweepError,
    Swept,
)
from tests.support.ledger_memory import MemoryLedger
from tests.support.memory_store import Clock
from tests.support.till import START, Till


class World:
    """Implements ``SweepStore`` and the bookkeeper, and notes the order of what is asked."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.time = START
        self.slow_seconds = 0.0
        self.holds: list[HoldToLapse] = []
        self.silent: list[str] = []
        self.ended: list[UUID] = []
        self.asked: list[str] = []
        self.submitted: list[AnyCommand] = []
        self.failing: set[UUID] = set()
        self.ledger = MemoryLedger()
        self.sweep = Sweep(self, self, monotonic=self.clock)

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on."""
        self.clock.now += seconds
        self.time += timedelta(seconds=seconds)

    async def real_time(self) -> Any:
        now = self.time
        self.pass_time(self.slow_seconds)
        return now

    async def fence_silent(self, silence: timedelta, looked_at: datetime) -> list[str]:
        assert silence == NODE_SILENCE
        assert looked_at <= self.time
        self.asked.append("fence")
        return self.silent

    async def holds_to_lapse(self, limit: int) -> list[HoldToLapse]:
        assert limit == HOLDS_PER_STEP
        self.asked.append("holds")
        return self.holds

    async def organizations_with_ended_grants(self, limit: int) -> list[UUID]:
        self.asked.append("grants")
        return self.ended

    async def submit(self, command: AnyCommand) -> Result:
        self.submitted.append(command)
        if command.organization_id in self.failing:
            raise AssertionError("broken books")
        (result,) = self.ledger.run([command], START)
        return result


def open_hold(world: World, *, gone: bool = True) -> HoldToLapse:
    """An organisation with an open hold of a fenced node."""
    till = Till()
    till.put_into(world.ledger)
    call = till.admit(0)
    world.ledger.run([call], START)
    world.ledger.epochs[till.node_id] += 1
    return HoldToLapse(till.organization_id, call.call_id, till.node_id, 1, gone)


async def test_a_node_is_fenced_before_its_holds_lapse() -> None:
    """ENGINE "Nodes and lapses": first the epoch ends, so that nothing is admitted under it."""
    world = World()
    world.silent = ["host 1"]
    world.holds = [open_hold(world), open_hold(world, gone=False)]
    world.ended = [world.holds[0].organization_id]
    swept = await world.sweep.step()
    assert world.asked == ["fence", "holds", "grants"]
    assert swept == Swept(lapsed=2, expired_organizations=1, fenced=("host 1",))
    assert [c.reason for c in world.submitted if isinstance(c, Lapse)] == [
        "node_gone",
        "latest_end",
    ]
    assert isinstance(world.submitted[-1], ExpireGrants)


async def test_what_somebody_else_ended_is_not_counted() -> None:
    """ENGINE "Nodes and lapses": two sweepers end each hold once, and neither runs in circles."""
    world = World()
    world.holds = [open_hold(world)]
    other = Sweep(world, world, monotonic=world.clock)
    assert (await other.step()).lapsed == 1
    assert (await world.sweep.step()).lapsed == 0
    assert isinstance((await world.submit(world.submitted[0])), Refused)
    assert len(world.ledger.calls) == 1


async def test_one_that_cannot_be_ended_keeps_no_other() -> None:
    """ENGINE "A batch": one tenant's broken rows do not stop the sweep of the others."""
    world = World()
    world.holds = [open_hold(world) for _ in range(5)]
    world.ended = [hold.organization_id for hold in world.holds]
    world.failing = {world.holds[0].organization_id}
    with pytest.raises(SweepError, match=r"2 could not be ended.*broken books"):
        await world.sweep.step()
    assert len(world.ledger.calls) == 4
    assert sum(isinstance(c, ExpireGrants) for c in world.submitted) == 5


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(seconds=-31), timedelta(hours=1)])
async def test_the_sweep_pauses_when_the_clock_jumps(jump: timedelta) -> None:
    """ENGINE "Nodes and lapses": a moved clock lapses nothing until all have renewed by it."""
    world = World()
    world.holds = [open_hold(world)]
    world.pass_time(5)
    assert not (await Sweep(world, world, monotonic=world.clock).step()).paused
    world.asked.clear()
    sweep = Sweep(world, world, monotonic=world.clock)
    await sweep.step()
    world.asked.clear()
    world.pass_time(5)
    world.time += jump
    assert await sweep.step() == Swept(paused=True)
    world.pass_time(PAUSE_AFTER_JUMP.total_seconds() - 1)
    assert (await sweep.step()).paused
    assert world.asked == []
    world.pass_time(1)
    assert not (await sweep.step()).paused
    assert world.asked == ["fence", "holds", "grants"]


@pytest.mark.parametrize(("apart_seconds", "pauses"), [(40, True), (90, False)])
async def test_a_clock_that_jumps_twice_within_a_silence_has_jumped(
    apart_seconds: int, pauses: bool
) -> None:
    """ENGINE "Nodes and lapses": two tolerated jumps together make a living node silent."""
    world = World()
    paused = []
    for second in range(200):
        world.pass_time(1)
        if second in {60, 60 + apart_seconds}:
            world.time += timedelta(seconds=20)
        for _ in "again", "at", "once":  # as with full pages
            paused += [(await world.sweep.step()).paused]
    assert any(paused) is pauses
    remembered = len(world.sweep._looks)
    assert remembered <= 63


async def test_an_ordinary_clock_is_no_jump() -> None:
    """ENGINE "Nodes and lapses": drift, slow answers and long pauses between steps are none."""
    world = World()
    for seconds in (5.0, 65.0, 3600.0, 65.0):
        world.pass_time(seconds)
        world.time += CLOCK_JUMP_MAX * 0.9
        assert not (await world.sweep.step()).paused
    # The database took long to answer, once; its clock did not move.
    world.slow_seconds = 100.0
    assert not (await world.sweep.step()).paused
    world.slow_seconds = 0.0
    world.pass_time(5)
    assert not (await world.sweep.step()).paused
