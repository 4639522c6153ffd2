"""A lane whose database hangs, fails, loses answers, rejects values or keeps a row locked."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import pytest

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import (
    Admitted,
    AnyCommand,
    Closed,
    Done,
    ExpireGrants,
    Refused,
    Release,
    Settle,
)
from farebox.ledger.holds import CallState
from farebox.operations import lane as lanes
from farebox.operations.batches import BatchStoreLostError
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.lane import QuarantinedError
from farebox.operations.pending import ADMIT_DOUBT_SECONDS, SETTLE_DOUBT_SECONDS
from tests.support.bookkeeping import Submission, begin, funded, running, settled, until
from tests.support.ledger_memory import audit
from tests.support.memory_store import Clock, Fault, memory_store
from tests.support.till import Till

pytestmark = pytest.mark.usefixtures("quick")


async def test_a_lost_answer_is_asked_for_again_and_counts_once() -> None:
    """ENGINE "Idempotency": a lost connection is no failed commit; the same ids, one effect."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 100)
        call = till.admit(10)
        store.steps.extend([Fault.LOST_AFTER, Fault.LOST_BEFORE])
        admitted = await bookkeeper.submit(call)
        assert isinstance(admitted, Admitted)
        assert admitted.exists
        store.steps.append(Fault.LOST_AFTER)
        closed = await bookkeeper.submit(till.settle(call, 7))
        assert isinstance(closed, Closed)
        assert (closed.charge, closed.exists) == (7, True)
    assert store.resent == [False, False, True, True, False, True]
    assert store.ledger.organizations[till.organization_id].spent == 7
    audit(store.ledger)


async def test_an_admission_gives_up_while_its_batch_is_tried_again_and_again() -> None:
    """ENGINE "Idempotency": with the database away an admission fails in time, a settle does not.

    The hold that turns out to stand afterwards is released.
    """
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 100)
        charged = till.admit(10)
        await bookkeeper.submit(charged)
        store.steps.append(Fault.LOST_AFTER)
        store.forever = Fault.LOST_BEFORE
        in_doubt = begin(bookkeeper.submit(till.admit(20)))
        settling = begin(bookkeeper.submit(till.settle(charged, 7)))
        await until(lambda: len(store.batches) > 4)
        clock.now += ADMIT_DOUBT_SECONDS
        with pytest.raises(UnavailableError):
            await in_doubt
        clock.now += 600
        await until(lambda: len(store.batches) > 9)
        assert not settling.done()
        store.forever = None
        assert isinstance(await settling, Closed)
        await until(lambda: not store.ledger.holds)
    states = {call.state for call in store.ledger.calls.values()}
    assert states == {CallState.SETTLED, CallState.RELEASED}
    audit(store.ledger)


async def test_new_admissions_fail_in_time_while_the_lane_hangs() -> None:
    """ENGINE "Idempotency": what is queued behind a hanging batch fails after its own 5 seconds.

    It is never sent afterwards.
    """
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 100)
        gate = asyncio.Event()
        store.steps.append(gate)
        in_flight = begin(bookkeeper.submit(till.admit(20)))
        await until(lambda: len(store.batches) == 2)
        clock.now = 2.0
        queued = begin(bookkeeper.submit(till.admit(20)))
        await asyncio.sleep(0.01)
        clock.now = ADMIT_DOUBT_SECONDS
        with pytest.raises(UnavailableError, match="in time"):
            await in_flight
        assert not queued.done()
        clock.now = 2.0 + ADMIT_DOUBT_SECONDS
        with pytest.raises(UnavailableError, match="in time"):
            await queued
        await until(lambda: bookkeeper.queued == 0)
        gate.set()
        await until(lambda: len(store.batches) == 3)
        assert [type(c) for c in store.batches[2]] == [Release]
    assert not store.ledger.holds


async def test_a_settle_is_given_up_at_the_end_of_its_holds_life() -> None:
    """ENGINE "Idempotency": for at most the hold's lifetime; then the sweep decides."""
    till = Till()
    store = memory_store(till)
    store.forever = Fault.LOST_BEFORE
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        settling = begin(bookkeeper.submit(till.settle(till.admit(10), 7)))
        await until(lambda: len(store.batches) > 2)
        clock.now = SETTLE_DOUBT_SECONDS
        with pytest.raises(UnavailableError):
            await settling
        store.forever = None
        # The lane is free again.
        assert isinstance(await bookkeeper.submit(till.grant(5)), object)
    assert all(isinstance(c, Settle) for batch in store.batches[:-1] for c in batch)


async def test_an_unsettled_batch_is_sent_again() -> None:
    """ENGINE "A batch": deadlock and lock timeout resend the same ids."""
    tills = [Till(), Till()]
    store = memory_store(*tills)
    store.steps.append(Fault.UNSETTLED)
    async with running(store) as bookkeeper:
        results = await asyncio.gather(*(bookkeeper.submit(till.grant(5)) for till in tills))
    assert not any(isinstance(result, Refused) for result in results)
    assert store.resent == [False, False, False]


async def test_a_locked_organisation_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ENGINE "A batch": whoever keeps one row locked stops one organisation, not its lane."""
    monkeypatch.setattr(lanes, "STUCK_SECONDS", (0.0, 1.0))
    locked, free = Till(), Till()
    store = memory_store(locked, free)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        call = locked.admit(0)
        await bookkeeper.submit(call)
        store.locked.add(locked.organization_id)
        settling = begin(bookkeeper.submit(locked.settle(call, 0)))
        admitting = begin(bookkeeper.submit(locked.admit(0)))
        granting = begin(bookkeeper.submit(free.grant(5)))
        await granting
        for _ in range(3):
            tried = len(store.batches)
            await asyncio.gather(*(bookkeeper.submit(free.admit(1)) for _ in range(3)))
            assert len(store.batches) <= tried + 4
        assert not settling.done()
        clock.now = ADMIT_DOUBT_SECONDS
        with pytest.raises(UnavailableError):
            await admitting
        later = begin(bookkeeper.submit(locked.grant(3)))
        await until(lambda: later.done() or bookkeeper.queued == 0)
        store.locked.clear()
        for _ in range(3):
            clock.now += 1.0
            await asyncio.sleep(0.15)
        assert isinstance(await settling, Closed)
        await later
        # It is as any other again.
        alone = len(store.batches)
        await asyncio.gather(bookkeeper.submit(locked.grant(1)), bookkeeper.submit(free.grant(1)))
        assert len(store.batches) == alone + 1
    assert {hold.organization_id for hold in store.ledger.holds.values()} == {free.organization_id}


async def test_every_part_of_a_batch_that_gets_stuck_is_kept() -> None:
    """ENGINE "A batch": while a batch is halved somebody locks its organisation; nobody is lost."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        gate = asyncio.Event()
        store.steps.append(gate)
        first = begin(bookkeeper.submit(till.grant(1)))
        await until(lambda: store.batches)
        grants = [till.grant(5) for _ in range(8)]
        store.poison = [grants[7]]
        tasks = [begin(bookkeeper.submit(grant)) for grant in grants]
        await until(lambda: bookkeeper.queued == 8)
        # The whole is rejected; then each half, and the rest of the second one, finds the lock.
        store.steps.extend([Fault.NONE, Fault.UNSETTLED, Fault.UNSETTLED])
        gate.set()
        await first
        async with asyncio.timeout(10):
            while not all(task.done() for task in tasks):
                clock.now += 1.0
                await asyncio.sleep(0.01)
        results = await settled(tasks)
    assert [isinstance(result, QuarantinedError) for result in results] == [False] * 7 + [True]
    assert len(store.ledger.grants) == 8


async def test_a_rejected_command_is_found_and_put_aside() -> None:
    """ENGINE "A batch": the single offender is quarantined, and the rest of the batch commits."""
    tills = [Till() for _ in range(10)]
    store = memory_store(*tills)
    async with running(store) as bookkeeper:
        gate = asyncio.Event()
        store.steps.append(gate)
        first = begin(bookkeeper.submit(tills[0].grant(1)))
        await until(lambda: store.batches)
        commands = [till.grant(5) for till in tills for _ in range(5)]
        store.poison = [commands[13], commands[44]]
        store.quarantine_faults.append(BatchStoreLostError())
        tasks = [begin(bookkeeper.submit(command)) for command in commands]
        await until(lambda: bookkeeper.queued == 50)
        gate.set()
        await first
        results = await settled(tasks)
    failed = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [13, 44]
    assert all(isinstance(results[i], QuarantinedError) for i in failed)
    assert store.quarantined == [commands[13], commands[44]]
    assert len(store.ledger.grants) == 49
    audit(store.ledger)


async def test_a_broken_invariant_fails_its_batch_and_the_lane_goes_on() -> None:
    """ENGINE "A batch": an error that nobody foresaw is told, and does not stop the lane."""
    till = Till()
    store = memory_store(till)
    store.steps.append(Fault.BROKEN)
    async with running(store) as bookkeeper:
        with pytest.raises(AssertionError, match="broken invariant"):
            await bookkeeper.submit(till.grant(5))
        await bookkeeper.submit(till.grant(5))
    assert len(store.ledger.grants) == 1


async def test_a_quarantine_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "A batch": whatever goes wrong with a rejected command, its caller hears of it."""
    till = Till()
    store = memory_store(till)
    grants = [till.grant(5), till.grant(6)]
    store.poison = grants
    store.quarantine_faults.append(RuntimeError("no space"))
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        with pytest.raises(RuntimeError, match="no space"):
            await bookkeeper.submit(grants[0])
        store.quarantine_faults.extend(BatchStoreLostError() for _ in range(10_000))
        waiting = begin(bookkeeper.submit(grants[1]))
        await until(lambda: len(store.quarantine_faults) < 9_990)
        clock.now = SETTLE_DOUBT_SECONDS
        with pytest.raises(UnavailableError):
            await waiting
        store.quarantine_faults.clear()


async def test_the_sweep_is_not_kept_by_what_it_will_ask_again() -> None:
    """ENGINE "Nodes and lapses": a lapse that cannot be decided fails soon, and is asked anew."""
    till = Till()
    store = memory_store(till)
    store.forever = Fault.LOST_BEFORE
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        asking: list[AnyCommand] = [
            till.lapse(till.admit()),
            ExpireGrants(organization_id=till.organization_id),
        ]
        tasks = [begin(bookkeeper.submit(command)) for command in asking]
        await until(lambda: len(store.batches) > 2)
        clock.now = ADMIT_DOUBT_SECONDS
        assert [type(result) for result in await settled(tasks)] == [UnavailableError] * 2
        sent = len(store.batches)
        await asyncio.sleep(0.05)
        assert len(store.batches) <= sent + 1


async def test_a_report_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Nodes and lapses": old notes do not pile up while the database is away."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        gate = asyncio.Event()
        store.steps.append(gate)
        first = begin(bookkeeper.submit(till.report(call, 1)))
        await until(lambda: len(store.batches) == 3)
        tasks: list[Submission] = []
        for number in range(2, 6):
            tasks.append(begin(bookkeeper.submit(till.report(call, number))))
            await asyncio.sleep(0.01)
            clock.now += 4.0
        await until(lambda: bookkeeper.queued <= 2)
        gate.set()
        results = await settled([first, *tasks])
    assert isinstance(results[-1], Done)
    assert isinstance(results[1], UnavailableError)
    hold = store.ledger.holds[call.call_id]
    assert hold.progress is not None
    assert hold.progress.metered == 5


class Storm:
    """Calls of three organisations over two lanes, with faults and cancellations by a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tills = [Till() for _ in range(3)]
        self.stores = [memory_store(*self.tills), memory_store()]
        self.ledger = self.stores[1].ledger = self.stores[0].ledger
        self.clock = Clock()
        self.charged: dict[UUID, int] = {}
        self.settles: list[Submission] = []

    async def call(self, bookkeeper: Bookkeeper, till: Till) -> None:
        """One call as the gateway makes it: its end is shielded."""
        call = till.admit(self.chance.randrange(1, 30))
        try:
            patience = self.chance.choice((0.0, 0.5))
            result = await bookkeeper.submit(call, patience_seconds=patience)
        except UnavailableError:
            return
        if isinstance(result, Admitted):
            metered = self.charged[call.call_id] = self.chance.randrange(call.fixed + 1)
            self.settles.append(begin(bookkeeper.submit(till.settle(call, metered))))
            await asyncio.shield(self.settles[-1])

    async def tick(self) -> None:
        """Time goes on."""
        while True:
            self.clock.now += 0.1
            await asyncio.sleep(0.001)

    async def rage(self) -> None:
        """120 calls, some of whose callers leave."""
        ticking = asyncio.create_task(self.tick())
        async with running(*self.stores, clock=self.clock, drain=5) as bookkeeper:
            for till in self.tills:
                await funded(bookkeeper, till, 100)
            faults = [Fault.NONE, Fault.UNSETTLED, Fault.LOST_BEFORE, Fault.LOST_AFTER]
            for store in self.stores:
                store.steps.extend(self.chance.choices(faults, weights=[3, 1, 1, 2], k=60))
            tasks: list[asyncio.Task[None]] = []
            for number in range(120):
                tasks.append(asyncio.create_task(self.call(bookkeeper, self.tills[number % 3])))
                if self.chance.random() < 0.3:
                    await asyncio.sleep(0)
                if self.chance.random() < 0.25:
                    self.chance.choice(tasks).cancel()
                self.clock.now += self.chance.choice((0.0, 0.0, 0.01, 0.2))
            async with asyncio.timeout(20):
                await asyncio.wait(tasks)
                await settled(self.settles)
        ticking.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert bookkeeper.queued == bookkeeper.waiting == 0


@pytest.mark.parametrize("seed", range(12))
async def test_in_any_storm_every_caller_is_answered_and_the_books_are_right(seed: int) -> None:
    """DESIGN promise 2: no order of faults loses a charge, makes two of it, or leaves a hold."""
    storm = Storm(seed)
    await storm.rage()
    assert storm.ledger.holds == {}
    for call_id, metered in storm.charged.items():
        call = storm.ledger.calls[call_id]
        assert (call.state, call.charge) == (CallState.SETTLED, metered)
    audit(storm.ledger)
