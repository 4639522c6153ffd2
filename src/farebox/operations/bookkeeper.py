"""The bookkeeper: one per process, it turns single commands into batches and answers each.

Commands that arrive while a commit is in flight form the next batch: no timer, natural batching. An
organisation always goes to the same lane. What it promises (ENGINE.md, "A batch", "Idempotency"):

* a command whose answer was lost is sent again with the same ids until there is an answer, for as
  long as its deadline allows; a hold is never released because a connection failed;
* an admission that only open holds block waits in order and is decided anew whenever money comes
  back, until its patience ends;
* an admission whose caller is gone is withdrawn, or released if it was already under way;
* a command that the database rejects is found by halving and put aside; the rest commits;
* an organisation whose row somebody else keeps locked waits by itself; the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from farebox.ledger.commands import AnyCommand, Result
from farebox.ledger.range_checks import check
from farebox.operations.batches import BatchStore
from farebox.operations.lane import Lane
from farebox.operations.pending import Pending


class Bookkeeper:
    """Submits commands to lanes of batches."""

    def __init__(self, stores: Sequence[BatchStore], *, monotonic: Callable[[], float]) -> None:
        """Make one lane per store.

        Args:
            stores: The lanes' connections; the same number on every node.
            monotonic: Seconds of a clock that only goes forward.
        """
        assert stores
        self._monotonic = monotonic
        self._lanes = [Lane(store, monotonic) for store in stores]

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        for lane in self._lanes:
            lane.start()

    async def aclose(self, *, drain_seconds: float = 10.0) -> None:
        """Finish what is queued, as far as the time allows, and stop."""
        await asyncio.gather(*(lane.aclose(drain_seconds) for lane in self._lanes))

    @property
    def queued(self) -> int:
        """Commands that wait for a batch, over all lanes."""
        return sum(len(lane.queue) for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Admissions that wait for money to come back."""
        return sum(lane.waiting.count for lane in self._lanes)

    async def submit(self, command: AnyCommand, *, patience_seconds: float = 0.0) -> Result:
        """Have a command decided and committed.

        Args:
            command: What is asked.
            patience_seconds: How long an admission may wait in order for money that open calls
                hold.

        Returns:
            The engine's answer. If the caller is cancelled meanwhile, an admission is taken back,
            and anything else still takes effect.

        Raises:
            InvalidInputError: A value is out of range.
            UnavailableError: The database is away; the command may have taken effect.
            QuarantinedError: The database rejected the command.
        """
        check(command)
        lane = self._lanes[lane_of(command.organization_id, len(self._lanes))]
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        pending = Pending(command, future, now=self._monotonic(), patience_seconds=patience_seconds)
        lane.put(pending)
        try:
            return await future
        except asyncio.CancelledError:
            lane.withdraw(pending)
            raise


def lane_of(organization_id: UUID, lanes: int) -> int:
    """The lane of an organisation: the same on every node, whatever the process."""
    return organization_id.int % lanes
