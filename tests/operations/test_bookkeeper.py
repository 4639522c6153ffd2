"""The bookkeeper over a store in memory: batches, callers who leave, and its end."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, UnavailableError
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Closed,
    Refused,
)
from farebox.ledger.holds import CallState
from farebox.operations import lane as lanes
from farebox.operations.bookkeeper import Bookkeeper, lane_of
from farebox.operations.lane import BATCH_COMMANDS_MAX, QueueFullError
from tests.support.bookkeeping import Submission, begin, funded, running, settled, until
from tests.support.memory_store import Clock, Fault, memory_store
from tests.support.till import Till

pytestmark = pytest.mark.usefixtures("quick")


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
