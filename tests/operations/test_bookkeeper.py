"""The bookkeeper over a store in memory that hangs, fails and loses answers as it is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, UnavailableError
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Closed,
    Done,
    Refused,
    Release,
    Result,
    Settle,
)
from farebox.ledger.holds import CallState
from farebox.operations import lane as lanes
from farebox.operations import waiting as waiting_room
from farebox.operations.batches import BatchStoreLostError
from farebox.operations.bookkeeper import Bookkeeper, lane_of
from farebox.operations.lane import BATCH_COMMANDS_MAX, QuarantinedError, QueueFullError
from farebox.operations.pending import ADMIT_DOUBT_SECONDS, SETTLE_DOUBT_SECONDS
from tests.support.ledger_memory import audit
from tests.support.memory_store import Clock, Fault, MemoryStore, memory_store
from tests.support.till import START, Till

Submission = asyncio.Task[Result]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of real time are short; everything that is measured uses the test's clock."""
    monkeypatch.setattr(lanes, "LATE_POLL_SECONDS", 0.002)
    monkeypatch.setattr(lanes, "RECONNECT_SECONDS", (0.0, 0.001))


@asynccontextmanager
async def running(
    *stores: MemoryStore, clock: Callable[[], float] | None = None, drain: float = 1.0
) -> AsyncIterator[Bookkeeper]:
    """A bookkeeper that has begun, and is closed afterwards."""
    bookkeeper = Bookkeeper(stores, monotonic=clock or Clock())
    bookkeeper.start()
    try:
        yield bookkeeper
    finally:
        await bookkeeper.aclose(drain_seconds=drain)


def begin(work: Coroutine[Any, Any, Result]) -> Submission:
    """Submit in a task of its own."""
    return asyncio.get_running_loop().create_task(work)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what a test may ask
            await asyncio.sleep(0.001)


async def settled(tasks: Sequence[Submission]) -> list[Result | BaseException]:
    """What became of each."""
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def funded(bookkeeper: Bookkeeper, till: Till, amount: int) -> None:
    """Give an organisation credit."""
    await bookkeeper.submit(till.grant(amount))


# --- batches -----------------------------------------------------------------------------------


async def test_commands_that_arrive_in_flight_form_the_next_batch() -> None:
    """DESIGN 3: batches form by themselves, in order of arrival, of 256 commands at most."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 10**6)
        gate = asyncio.Event()
        store.steps.append(gate)
        calls = [till.admit(1) for _ in range(600)]
        tasks = [begin(bookkeeper.submit(calls[0]))]
        await until(lambda: len(store.batches) == 2)
        tasks += [begin(bookkeeper.submit(call)) for call in calls[1:]]
        await until(lambda: bookkeeper.queued == 599)
        gate.set()
        results = await settled(tasks)
    assert {type(result) for result in results} == {Admitted}
    assert [len(batch) for batch in store.batches] == [1, 1, 256, 256, 87]
    assert [command for batch in store.batches[1:] for command in batch] == calls
    assert not any(store.resent)


async def test_a_batch_never_has_more_than_its_limit_while_many_wait() -> None:
    """DESIGN 3: waiting admissions and new commands together stay within one batch's limit."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 10)
        first = till.admit(10)
        await bookkeeper.submit(first)
        patient = [
            begin(bookkeeper.submit(till.admit(10), patience_seconds=100)) for _ in range(400)
        ]
        await until(lambda: bookkeeper.waiting == 400)
        brief = [begin(bookkeeper.submit(till.admit(10))) for _ in range(400)]
        answers = await settled(brief)
        assert {a.code for a in answers if isinstance(a, Refused)} == {"balance_held"}
        await bookkeeper.submit(till.release(first))
        assert isinstance(await patient[0], Admitted)
        for task in patient:
            task.cancel()
        await settled(patient)
    assert max(len(batch) for batch in store.batches) <= BATCH_COMMANDS_MAX
    assert len(store.ledger.holds) == 1


def test_an_organisation_has_the_same_lane_on_every_node() -> None:
    """ENGINE "A batch": a lane depends on the id alone, so it is known in advance."""
    known = UUID("01928c7a-3b1f-7c4e-9d21-0c5f8e6a7b13")
    assert [lane_of(known, lanes) for lanes in (1, 2, 3, 8)] == [0, 1, 2, 3]
    assert lane_of(UUID(int=known.int + 1), 2) == 0


async def test_each_organisation_keeps_to_its_lane() -> None:
    """ENGINE "A batch": a lane that hangs stops its own organisations and no others."""
    tills = [Till(lane=0), Till(lane=1)]
    stores = [memory_store(*tills), memory_store(*tills)]
    gate = asyncio.Event()
    stores[0].steps.append(gate)
    async with running(*stores) as bookkeeper:
        hanging = begin(bookkeeper.submit(tills[0].grant(5)))
        assert isinstance(await bookkeeper.submit(tills[1].admit(0)), Admitted)
        assert not hanging.done()
        gate.set()
        await hanging
    for number, store in enumerate(stores):
        named = {command.organization_id for batch in store.batches for command in batch}
        assert named == {tills[number].organization_id}


async def test_a_command_out_of_range_enters_no_batch() -> None:
    """ENGINE "A batch": values are checked before they can spoil the batch of others."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        with pytest.raises(InvalidInputError, match="fixed"):
            await bookkeeper.submit(till.admit(-1))
    assert store.batches == []


# --- a database that fails ---------------------------------------------------------------------


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


# --- waiting for money ------------------------------------------------------------------------


async def test_a_blocked_admission_waits_until_money_comes_back() -> None:
    """DESIGN 5: a call that only open holds block waits in order and is admitted by a settle."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 30)
        calls = [till.admit(30) for _ in range(4)]
        assert isinstance(await bookkeeper.submit(calls[0]), Admitted)
        waiting = [begin(bookkeeper.submit(call, patience_seconds=5)) for call in calls[1:]]
        await until(lambda: bookkeeper.waiting == 3)
        order = []
        for call, task in zip(calls, waiting, strict=False):
            await bookkeeper.submit(till.settle(call, 0))
            assert isinstance(await task, Admitted)
            order.append([t.done() for t in waiting])
        assert order == [[True, False, False], [True, True, False], [True, True, True]]
        await bookkeeper.submit(till.settle(calls[3], 0))
    assert bookkeeper.waiting == 0


async def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    """DESIGN 5: who waits is decided before who comes, whatever gave the money back."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 30)
        first = till.admit(30)
        await bookkeeper.submit(first)
        waiting = begin(bookkeeper.submit(till.admit(30), patience_seconds=5))
        await until(lambda: bookkeeper.waiting == 1)
        newcomer = begin(bookkeeper.submit(till.admit(30), patience_seconds=5))
        giving_back = begin(bookkeeper.submit(till.release(first)))
        assert isinstance(await waiting, Admitted)
        await giving_back
        assert not newcomer.done()
        newcomer.cancel()


async def test_a_long_line_keeps_its_order() -> None:
    """DESIGN 5: more waiters than one batch decides are still admitted first come, first served."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 10)
        previous = till.admit(10)
        await bookkeeper.submit(previous)
        calls = [till.admit(10) for _ in range(400)]
        for call in calls:
            begin(bookkeeper.submit(call, patience_seconds=1e6))
        await until(lambda: bookkeeper.waiting == 400)
        for call in calls:
            # The clock moves on as well, so that the line is also looked at for itself.
            clock.now += 0.05
            await bookkeeper.submit(till.release(previous))
            while not store.ledger.holds:  # noqa: ASYNC110 - to the very turn of the loop
                await asyncio.sleep(0)
            assert list(store.ledger.holds) == [call.call_id]
            previous = call
        await bookkeeper.submit(till.release(previous))


async def test_money_that_another_process_gave_back_is_found() -> None:
    """DESIGN 5: waiting admissions are decided anew though nothing happened in this process."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=5))
        await until(lambda: bookkeeper.waiting == 1)
        store.ledger.run([till.release(call)], START)
        clock.now += 0.2
        assert isinstance(await waiting, Admitted)


async def test_patience_ends_with_the_refusal_and_its_figures() -> None:
    """DESIGN 5, ERR-11: who waited in vain is told to try again, and what stood in the way."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        await bookkeeper.submit(till.admit(30))
        impatient = await bookkeeper.submit(till.admit(20))
        waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=2))
        await until(lambda: bookkeeper.waiting == 1)
        clock.now = 1.9
        await asyncio.sleep(0.02)
        assert not waiting.done()
        clock.now = 2.0
        refused = await waiting
        for answer in (impatient, refused):
            assert isinstance(answer, Refused)
            assert (answer.code, answer.held, answer.needed) == ("balance_held", 30, 20)
        poor = await bookkeeper.submit(till.admit(31), patience_seconds=2)
        assert isinstance(poor, Refused)
        assert poor.code == "credit_balance_exhausted"
    assert bookkeeper.waiting == 0


async def test_patience_ends_while_the_database_hangs() -> None:
    """DESIGN 5: who waits in line is answered in time though the lane hangs on another batch."""
    till, other = Till(), Till()
    store = memory_store(till, other)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        await bookkeeper.submit(till.admit(30))
        waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=2))
        await until(lambda: bookkeeper.waiting == 1)
        gate = asyncio.Event()
        store.steps.append(gate)
        granting = begin(bookkeeper.submit(other.grant(5)))
        await asyncio.sleep(0.01)
        clock.now = 2.0
        assert isinstance(await waiting, Refused)
        gate.set()
        await granting


async def test_patience_may_be_longer_than_doubt() -> None:
    """DESIGN 5: while the database answers, a long wait is no sign that it is away."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=60))
        await until(lambda: bookkeeper.waiting == 1)
        for _ in range(30):
            clock.now += 1.0
            await asyncio.sleep(0.005)
        assert not waiting.done()
        await bookkeeper.submit(till.release(call))
        assert isinstance(await waiting, Admitted)


async def test_only_so_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 5: one organisation's line is bounded; whoever finds it full is told at once."""
    monkeypatch.setattr(waiting_room, "WAITERS_PER_ORGANIZATION_MAX", 3)
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 30)
        await bookkeeper.submit(till.admit(30))
        tasks = [begin(bookkeeper.submit(till.admit(20), patience_seconds=9)) for _ in range(5)]
        done, _ = await asyncio.wait(tasks, timeout=5, return_when="FIRST_COMPLETED")
        await until(lambda: sum(task.done() for task in tasks) == 2)
        assert bookkeeper.waiting == 3
        assert [task.done() for task in tasks] == [False, False, False, True, True]
        assert done
        for task in tasks:
            task.cancel()


# --- callers who leave ------------------------------------------------------------------------


async def test_an_admission_not_yet_sent_is_withdrawn() -> None:
    """ENGINE "The end of a call": an admit not yet in a batch is withdrawn, never sent."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        gate = asyncio.Event()
        store.steps.append(gate)
        first = begin(bookkeeper.submit(till.grant(100)))
        await until(lambda: store.batches)
        leaving = begin(bookkeeper.submit(till.admit(10)))
        await until(lambda: bookkeeper.queued == 1)
        leaving.cancel()
        gate.set()
        await first
        await bookkeeper.submit(till.grant(1))
    assert not any(isinstance(c, Admit) for batch in store.batches for c in batch)


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LOST_AFTER])
async def test_an_admission_in_flight_is_released(fault: Fault) -> None:
    """ENGINE "The end of a call": otherwise its answer is awaited and the hold released."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 100)
        gate = asyncio.Event()
        store.steps.extend([gate, fault] if fault is Fault.NONE else [fault, gate])
        leaving = begin(bookkeeper.submit(till.admit(10)))
        await until(lambda: len(store.batches) == (2 if fault is Fault.NONE else 3))
        leaving.cancel()
        await asyncio.sleep(0)
        gate.set()
        await until(lambda: store.ledger.calls)
    (call,) = store.ledger.calls.values()
    assert call.state is CallState.RELEASED
    assert not store.ledger.holds


async def test_a_caller_cancelled_together_with_its_answer_leaves_no_hold() -> None:
    """ENGINE "The end of a call": the answer that nobody takes any more is released too."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 100)
        leaving = begin(bookkeeper.submit(till.admit(10)))
        # Just after the lane has set the answer, before the caller's task has run.
        while not store.ledger.holds:  # noqa: ASYNC110 - to the very turn of the loop
            await asyncio.sleep(0)
        while not leaving.done():
            leaving.cancel()
            await asyncio.sleep(0)
        assert leaving.cancelled()
        await until(lambda: store.ledger.calls)
    assert not store.ledger.holds


async def test_a_waiting_admission_that_leaves_is_forgotten() -> None:
    """DESIGN 5: who leaves the line is not admitted when money comes back."""
    till = Till()
    store = memory_store(till)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        leaving = begin(bookkeeper.submit(till.admit(20), patience_seconds=9))
        await until(lambda: bookkeeper.waiting == 1)
        leaving.cancel()
        await bookkeeper.submit(till.release(call))
        await until(lambda: bookkeeper.waiting == 0)
    assert not store.ledger.holds
    assert len(store.ledger.calls) == 1


async def test_a_settle_takes_effect_though_its_caller_left() -> None:
    """ENGINE "The end of a call": whoever stops waiting for a charge does not undo it."""
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        leaving = begin(bookkeeper.submit(till.settle(call, 9)))
        await asyncio.sleep(0)
        leaving.cancel()
    assert store.ledger.organizations[till.organization_id].spent == 9


# --- the end ----------------------------------------------------------------------------------


async def test_a_full_queue_takes_settles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Idempotency": admissions are bounded; a settle is always taken."""
    monkeypatch.setattr(lanes, "QUEUE_COMMANDS_MAX", 2)
    till = Till()
    store = memory_store(till)
    async with running(store) as bookkeeper:
        await funded(bookkeeper, till, 100)
        call = till.admit(10)
        await bookkeeper.submit(call)
        gate = asyncio.Event()
        store.steps.append(gate)
        tasks = [begin(bookkeeper.submit(till.grant(1))) for _ in range(3)]
        await until(lambda: len(store.batches) == 3)
        tasks += [begin(bookkeeper.submit(till.grant(1))) for _ in range(2)]
        await until(lambda: bookkeeper.queued == 2)
        for command in (till.admit(1), till.report(call, 1)):
            with pytest.raises(QueueFullError):
                await bookkeeper.submit(command)
        settling = begin(bookkeeper.submit(till.settle(call, 3)))
        await asyncio.sleep(0)
        gate.set()
        assert isinstance(await settling, Closed)
        await settled(tasks)


async def test_closing_finishes_what_is_there() -> None:
    """ENGINE "The end of a call": a stop drains the queue, tells who waits, and takes no more."""
    till = Till()
    store = memory_store(till)
    bookkeeper = Bookkeeper([store], monotonic=Clock())
    bookkeeper.start()
    await funded(bookkeeper, till, 30)
    call = till.admit(30)
    await bookkeeper.submit(call)
    waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=60))
    await until(lambda: bookkeeper.waiting == 1)
    store.steps.extend([Fault.LOST_AFTER, Fault.LOST_BEFORE])
    settling = begin(bookkeeper.submit(till.settle(call, 20)))
    await asyncio.sleep(0)
    await bookkeeper.aclose()
    assert isinstance(await settling, Closed)
    assert isinstance(await waiting, Refused)
    assert store.closed
    with pytest.raises(UnavailableError, match="stopping"):
        await bookkeeper.submit(till.grant(1))
    await bookkeeper.aclose()


@pytest.mark.parametrize("hanging", [True, False])
async def test_closing_leaves_nobody_without_an_answer(hanging: bool) -> None:
    """ENGINE "Idempotency": with the database away a stop ends in time and fails everyone."""
    till = Till()
    store = memory_store(till)
    bookkeeper = Bookkeeper([store], monotonic=Clock())
    bookkeeper.start()
    if hanging:
        store.steps.append(asyncio.Event())
    else:
        store.forever = Fault.LOST_BEFORE
    tasks = [begin(bookkeeper.submit(till.settle(till.admit(), 5)))]
    await until(lambda: store.batches)
    tasks += [begin(bookkeeper.submit(till.admit())), begin(bookkeeper.submit(till.grant(1)))]
    await asyncio.sleep(0.01)
    await bookkeeper.aclose(drain_seconds=0.05)
    results = await settled(tasks)
    assert [type(result) for result in results] == [UnavailableError] * 3
    assert store.closed


async def test_an_unused_bookkeeper_closes() -> None:
    """ENGINE "A batch": one that never began lets its connections go all the same."""
    store = memory_store()
    await Bookkeeper([store], monotonic=Clock()).aclose()
    assert store.closed


async def test_nothing_is_kept_of_what_is_done() -> None:
    """ENGINE "A batch": a lane remembers no command that has been answered."""
    tills = [Till() for _ in range(4)]
    store = memory_store(*tills)
    store.steps.extend(list(Fault) * 3)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        tasks: list[Submission] = []
        for number in range(600):
            till = tills[number % 4]
            call = till.admit(1)
            tasks += [
                begin(bookkeeper.submit(till.grant(2))),
                begin(bookkeeper.submit(call, patience_seconds=0.5)),
                begin(bookkeeper.submit(till.settle(call, 1))),
            ]
            if number % 7 == 0:
                tasks[-2].cancel()
        await asyncio.sleep(0.1)
        for _ in range(40):
            clock.now += 1.0
            await asyncio.sleep(0.005)
        await settled(tasks)
        (lane,) = bookkeeper._lanes
        await until(lambda: not lane._flying)
        assert bookkeeper.queued == bookkeeper.waiting == 0
        assert (lane._flying, dict(lane._stuck), dict(lane._stuck_tries)) == ([], {}, {})
        assert lane.waiting._lines == {}


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
