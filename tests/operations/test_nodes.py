"""A node's life, by a clock that the test moves and a store that obeys or fails."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from farebox.kit.errors import UnavailableError
from farebox.operations import nodes
from farebox.operations.nodes import HEARTBEAT_SECONDS, SILENCE_SECONDS_MAX, Node
from farebox.operations.sweep import NODE_SILENCE
from tests.support.memory_store import Clock

NODE_ID = UUID(int=7)


class Rows:
    """Implements ``operations.nodes.NodeStore`` on two numbers."""

    def __init__(self) -> None:
        self.epoch = 0
        self.renewed = 0
        self.error: Exception | None = None
        self.fail_to_register = False
        self.hangs = False

    async def register(self, node_id: UUID, name: str) -> int:
        assert (node_id, name) == (NODE_ID, "host 1")
        self._obey()
        if self.fail_to_register:
            raise UnavailableError
        self.epoch += 1
        return self.epoch

    async def renew(self, node_id: UUID, epoch: int) -> bool:
        if self.hangs:
            await asyncio.sleep(3600)
        self._obey()
        self.renewed += epoch == self.epoch
        return epoch == self.epoch

    async def retire(self, node_id: UUID, epoch: int) -> None:
        self._obey()
        self.epoch += epoch == self.epoch

    def _obey(self) -> None:
        if self.error is not None:
            raise self.error


class Watched(Node):
    """A node, and how often it was lost."""

    def __init__(self, rows: Rows, clock: Clock) -> None:
        self.lost = 0
        super().__init__(rows, node_id=NODE_ID, name="host 1", monotonic=clock, on_lost=self._count)

    def state(self) -> tuple[bool, int]:
        """Whether it may admit, and under which epoch."""
        return self.may_admit, self.epoch

    def _count(self) -> None:
        self.lost += 1


async def test_a_node_admits_while_it_renews() -> None:
    """ENGINE "Nodes and lapses": 40 seconds of its own time without a renewal end admission."""
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    assert node.state() == (False, 0)
    await node.start()
    assert node.state() == (True, 1)
    clock.now = SILENCE_SECONDS_MAX - 1
    await node.beat()
    clock.now += SILENCE_SECONDS_MAX - 0.01
    assert node.state() == (True, 1)
    clock.now += 0.01
    assert node.state() == (False, 1)
    assert node.lost == 0
    await node.aclose()


async def test_a_silent_node_stops_once_and_well_before_it_is_fenced() -> None:
    """ENGINE "Nodes and lapses": it closes its calls after 40 seconds; the sweep waits for 60.

    A second silence is told again.
    """
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    for lost in range(1, 3):
        rows.error = UnavailableError()
        while node.state()[0]:
            assert node.lost == lost - 1
            clock.now += HEARTBEAT_SECONDS
            await node.beat()
        for _ in range(3):
            clock.now += HEARTBEAT_SECONDS
            await node.beat()
        assert node.lost == lost
        rows.error = None
        await node.beat()
        assert node.state() == (True, 1)
    # A beat takes at most one interval, and so does the pause before it.
    assert NODE_SILENCE.total_seconds() > SILENCE_SECONDS_MAX + 2 * HEARTBEAT_SECONDS
    await node.aclose()


async def test_a_renewal_counts_from_its_question() -> None:
    """ENGINE "Nodes and lapses": the row is at least as fresh as the node believes."""
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    renew = rows.renew

    async def slow(node_id: UUID, epoch: int) -> bool:
        clock.now += 4
        return await renew(node_id, epoch)

    rows.renew = slow  # type: ignore[method-assign]
    await node.beat()
    clock.now = SILENCE_SECONDS_MAX
    assert not node.may_admit
    await node.aclose()


async def test_a_fenced_node_closes_its_calls_and_begins_anew() -> None:
    """ENGINE "Nodes and lapses": what ran under the old epoch has no hold; the next one admits."""
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    rows.epoch = 5
    rows.fail_to_register = True
    await node.beat()
    assert (node.lost, node.may_admit, node.epoch) == (1, False, 1)
    await node.beat()
    rows.fail_to_register = False
    await node.beat()
    assert (node.lost, node.may_admit, node.epoch) == (1, True, 6)
    rows.epoch = 8
    await node.beat()
    assert (node.lost, node.epoch) == (2, 9)
    await node.aclose()


async def test_a_hanging_database_is_no_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Nodes and lapses": a question without an answer is given up in time."""
    monkeypatch.setattr(nodes, "HEARTBEAT_SECONDS", 0.01)
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    rows.hangs = True
    clock.now = SILENCE_SECONDS_MAX
    async with asyncio.timeout(5):
        while not node.lost:  # noqa: ASYNC110 - the heart beats by itself
            await asyncio.sleep(0.01)
    await node.aclose()


@pytest.mark.parametrize("error", [UnavailableError(), RuntimeError("unforeseen")])
async def test_nothing_stops_the_heart(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Nodes and lapses": whatever goes wrong once, the node goes on renewing."""
    monkeypatch.setattr(nodes, "HEARTBEAT_SECONDS", 0.001)
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    rows.error = error
    clock.now = SILENCE_SECONDS_MAX
    async with asyncio.timeout(5):
        while not node.lost:  # noqa: ASYNC110 - the heart beats by itself
            await asyncio.sleep(0.001)
        rows.error = None
        while not node.may_admit:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert node.lost == 1
    await node.aclose()


async def test_a_stopped_node_retires() -> None:
    """ENGINE "Nodes and lapses": what it leaves behind may lapse at once, and it admits no more."""
    rows, clock = Rows(), Clock()
    node = Watched(rows, clock)
    await node.start()
    await node.aclose()
    assert (rows.epoch, node.may_admit, node.lost) == (2, False, 0)
    rows.error = UnavailableError()
    await node.aclose()  # the database is away: the sweep will find it unseen


async def test_a_node_that_cannot_register_does_not_start() -> None:
    """ENGINE "Nodes and lapses": without a row there is no epoch to admit under."""
    rows = Rows()
    rows.error = UnavailableError()
    node = Watched(rows, Clock())
    with pytest.raises(UnavailableError):
        await node.start()
    assert not node.may_admit
