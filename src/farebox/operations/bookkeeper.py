"""The bookkeeper: one per process, it turns single commands into batches and answers each.

Commands that arrive while a commit is in flight form the next batch: no timer, natural batching. An
organisation always goes to the same lane. What it promises (ENGINE.md, "A batch", "Idempotency"):

* a command whose answer was lost is sent again with the same ids until there is an answer, for as
  long as its deadline allows; a hold is never released because a connection failed;
* an admission that only open holds block waits in order and is decided anew whenever money comes
  back, until its patience ends;
* an admission whose caller is gone is withdrawn, or released if it was already under way;
* a command that the database rejects is found by halving and put aside; the rest commits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final
from uuid import UUID

from farebox.kit.errors import FareboxError, UnavailableError
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Extend,
    Refused,
    Release,
    Report,
    Result,
    check,
)
from farebox.operations.batches import (
    BatchRejectedError,
    BatchStore,
    BatchStoreLostError,
    BatchUnsettledError,
)

BATCH_COMMANDS_MAX: Final = 256
"""More in one batch makes each wait longer without making any cheaper."""

QUEUE_COMMANDS_MAX: Final = 20_000
"""Admissions that one lane lets queue; settles are always taken: their holds bound them."""

WAITERS_PER_ORGANIZATION_MAX: Final = 1_000
"""Admissions of one organisation that may wait for money at once; more are told at once."""

WAIT_POLL_SECONDS: Final = 0.1
"""How often waiting admissions are decided anew though this process gave nothing back: another
process may have."""

RECONNECT_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries while the database is away; the last one repeats."""

ADMIT_DOUBT_SECONDS: Final = 5.0
"""How long an admission is tried while the database is away, before its client gets a 503."""

SETTLE_DOUBT_SECONDS: Final = 7_200.0
"""How long a settle is tried: the longest life of an ordinary hold (ENGINE.md, "Idempotency")."""


class QuarantinedError(FareboxError):
    """The database rejected this command; it was put aside for an operator to rule on."""

    code: ClassVar[str] = "quarantined"


class QueueFullError(UnavailableError):
    """Too many commands are waiting for the database."""

    code: ClassVar[str] = "queue_full"


class _Pending:
    """A command on its way, and who wants its answer."""

    __slots__ = ("command", "deadline", "future", "patience_until", "sent", "withdrawn")

    def __init__(
        self,
        command: AnyCommand,
        future: asyncio.Future[Result],
        *,
        deadline: float,
        patience_until: float,
    ) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.patience_until = patience_until
        self.sent = False
        self.withdrawn = False


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
        self._lanes = [_Lane(store, monotonic) for store in stores]

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
        return sum(lane.waiting_count for lane in self._lanes)

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
        now = self._monotonic()
        patient = isinstance(command, Admit | Extend)
        pending = _Pending(
            command,
            asyncio.get_running_loop().create_future(),
            deadline=now + (ADMIT_DOUBT_SECONDS if patient else SETTLE_DOUBT_SECONDS),
            patience_until=now + patience_seconds,
        )
        lane.put(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            pending.withdrawn = True
            raise


def lane_of(organization_id: UUID, lanes: int) -> int:
    """The lane of an organisation: the same on every node, whatever the process."""
    return organization_id.int % lanes


class _Lane:
    """One connection and the commands on their way to it."""

    def __init__(self, store: BatchStore, monotonic: Callable[[], float]) -> None:
        self.store = store
        self.queue: deque[_Pending] = deque()
        self.waiting_count = 0
        self._monotonic = monotonic
        self._waiting: dict[UUID, deque[_Pending]] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._polled_at = 0.0
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self, drain_seconds: float) -> None:
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=drain_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = [*self.queue, *(p for kept in self._waiting.values() for p in kept)]
        for pending in left:
            _fail(pending, UnavailableError("Farebox is stopping."))
        await self.store.aclose()

    def put(self, pending: _Pending) -> None:
        if self._closing:
            raise UnavailableError("Farebox is stopping.")
        if len(self.queue) >= QUEUE_COMMANDS_MAX and isinstance(pending.command, Admit | Report):
            raise QueueFullError
        self.queue.append(pending)
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            if not self.queue and not self._due():
                if self._closing and not self.queue:
                    return
                self._arrived.clear()
                await self._until_something()
                continue
            batch = self._take()
            if batch:
                await self._settle_batch(batch, self._send)

    async def _until_something(self) -> None:
        if not self._waiting:
            await self._arrived.wait()
            return
        try:
            async with asyncio.timeout(WAIT_POLL_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            pass

    def _due(self) -> bool:
        """Tell whether waiting admissions should be decided anew without any new command."""
        if not self._waiting:
            return False
        return self._closing or self._monotonic() - self._polled_at >= WAIT_POLL_SECONDS

    def _take(self) -> list[_Pending]:
        """Form the next batch: those who wait come before those who are new, in order."""
        fresh: list[_Pending] = []
        while self.queue and len(fresh) < BATCH_COMMANDS_MAX:
            pending = self.queue.popleft()
            if not (pending.withdrawn and isinstance(pending.command, Admit)):
                fresh.append(pending)
        revisit = {p.command.organization_id for p in fresh}
        if self._due():
            revisit = set(self._waiting)
            self._polled_at = self._monotonic()
        batch: list[_Pending] = []
        for organization_id in revisit & self._waiting.keys():
            kept = self._waiting[organization_id]
            while kept and len(batch) < BATCH_COMMANDS_MAX:
                pending = kept.popleft()
                self.waiting_count -= 1
                if not pending.withdrawn:
                    batch.append(pending)
            if not kept:
                del self._waiting[organization_id]
        return batch + fresh

    async def _settle_batch(
        self, batch: list[_Pending], send: Callable[[list[_Pending]], Awaitable[list[Result]]]
    ) -> None:
        """Send a batch; halve it where the database rejects a value."""
        try:
            results = await send(batch)
        except BatchRejectedError as error:
            if len(batch) == 1:
                await self._put_aside(batch[0], error)
                return
            half = len(batch) // 2
            await self._settle_batch(batch[:half], send)
            await self._settle_batch(batch[half:], send)
        except UnavailableError as error:
            for pending in batch:
                _fail(pending, error)
        except Exception as error:  # noqa: BLE001 - a broken invariant must not stop the lane
            for pending in batch:
                _fail(pending, error)
        else:
            for pending, result in zip(batch, results, strict=True):
                self._answer(pending, result)

    async def _send(self, batch: list[_Pending]) -> list[Result]:
        """Send until there is an answer; commands whose deadline passes meanwhile drop out."""
        tries = 0
        while True:
            resent = any(p.sent for p in batch)
            for pending in batch:
                pending.sent = True
            try:
                return await self.store.run([p.command for p in batch], resent=resent)
            except BatchUnsettledError:
                tries += 1
                if tries > len(RECONNECT_SECONDS):
                    raise
            except BatchStoreLostError as error:
                pause = RECONNECT_SECONDS[min(tries, len(RECONNECT_SECONDS) - 1)]
                tries += 1
                self._drop_late(batch, error)
                if not batch:
                    return []
                await asyncio.sleep(pause)

    def _drop_late(self, batch: list[_Pending], error: UnavailableError) -> None:
        """Answer those whose time is up; an admission that was committed after all is released."""
        now = self._monotonic()
        for pending in [*batch, *self.queue]:
            if pending.deadline <= now or self._closing:
                _fail(pending, error)
                pending.withdrawn = True
        # A withdrawn admission in doubt must be asked about once more, so it stays in the batch;
        # only what nobody asks about any more leaves it.
        batch[:] = [p for p in batch if not _given_up(p, now, closing=self._closing)]

    async def _put_aside(self, pending: _Pending, error: BatchRejectedError) -> None:
        try:
            await self.store.quarantine(pending.command, error.message)
        except Exception as failure:  # noqa: BLE001 - the caller must hear of it either way
            _fail(pending, failure)
            return
        _fail(pending, QuarantinedError(f"{QuarantinedError.__doc__} {error.message}"))

    def _answer(self, pending: _Pending, result: Result) -> None:
        if isinstance(result, Refused) and result.blocked_by_holds and self._may_wait(pending):
            kept = self._waiting.setdefault(pending.command.organization_id, deque())
            kept.append(pending)
            self.waiting_count += 1
            return
        if pending.withdrawn or pending.future.cancelled():
            self._take_back(pending, result)
            return
        if not pending.future.done():
            pending.future.set_result(result)

    def _may_wait(self, pending: _Pending) -> bool:
        kept = self._waiting.get(pending.command.organization_id, ())
        return (
            not pending.withdrawn
            and not self._closing
            and pending.patience_until > self._monotonic()
            and len(kept) < WAITERS_PER_ORGANIZATION_MAX
        )

    def _take_back(self, pending: _Pending, result: Result) -> None:
        """Nobody waits for this admission any more: give its hold back."""
        if not isinstance(pending.command, Admit) or not isinstance(result, Admitted):
            return
        release = Release(
            organization_id=pending.command.organization_id,
            call_id=pending.command.call_id,
            reason="client_gone_before_dispatch",
        )
        future = asyncio.get_running_loop().create_future()
        now = self._monotonic()
        self.queue.append(
            _Pending(release, future, deadline=now + SETTLE_DOUBT_SECONDS, patience_until=now)
        )
        self._arrived.set()


def _given_up(pending: _Pending, now: float, *, closing: bool) -> bool:
    """Tell whether a command in doubt is left to the sweep."""
    if not isinstance(pending.command, Admit):
        return pending.deadline <= now or closing
    return pending.deadline + SETTLE_DOUBT_SECONDS <= now or closing


def _fail(pending: _Pending, error: BaseException) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)
