"""Admissions that wait, in order, for money that open calls hold."""

from __future__ import annotations

import asyncio

import pytest

from farebox.ledger.commands import (
    Admit,
    Admitted,
    Refused,
)
from farebox.operations import waiting as waiting_room
from tests.support.bookkeeping import begin, funded, running, settled, until
from tests.support.memory_store import Clock, memory_store
from tests.support.till import START, Till

pytestmark = pytest.mark.usefixtures("quick")


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


async def test_a_flood_of_new_commands_keeps_nobody_waiting() -> None:
    """DESIGN 5: who waits is decided anew in time, however many new commands there are."""
    till, other = Till(), Till()
    store = memory_store(till, other)
    clock = Clock()
    async with running(store, clock=clock) as bookkeeper:
        await funded(bookkeeper, till, 30)
        call = till.admit(30)
        await bookkeeper.submit(call)
        waiting = begin(bookkeeper.submit(till.admit(20), patience_seconds=5))
        await until(lambda: bookkeeper.waiting == 1)
        gate = asyncio.Event()
        store.steps.append(gate)
        tasks = [begin(bookkeeper.submit(other.admit(0)))]
        await until(lambda: not store.steps)
        tasks += [begin(bookkeeper.submit(other.admit(0))) for _ in range(4 * 256)]
        await until(lambda: bookkeeper.queued >= 4 * 256)
        store.ledger.run([till.release(call)], START)
        clock.now += 0.2
        gate.set()
        await settled([waiting, *tasks])
    assert isinstance(waiting.result(), Admitted)
    tried = [
        i
        for i, batch in enumerate(store.batches)
        if any(c.fixed == 20 for c in batch if isinstance(c, Admit))
    ]
    flood = [i for i, batch in enumerate(store.batches) if len(batch) > 200]
    assert tried[-1] == flood[0]
