"""A lane: one connection to the database and the commands on their way to it.

Commands that arrive while a batch is in flight form the next one. Every command that was taken gets
an answer or an error, whatever the database does: short-lived ones after seconds, even while the
lane itself is still waiting for an answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import ClassVar, Final
from uuid import UUID

from farebox.kit.errors import FareboxError, UnavailableError
from farebox.ledger.commands import Admit, Admitted, Refused, Release, Report, Result
from farebox.operations.batches import (
    BatchRejectedError,
    BatchStore,
    BatchStoreLostError,
    BatchUnsettledError,
)
from farebox.operations.pending import Pending
from farebox.operations.waiting import WaitingRoom

BATCH_COMMANDS_MAX: Final = 256
"""More in one batch makes each wait longer without making any cheaper."""

WAITERS_PER_BATCH_MAX: Final = 128
"""Waiting admissions that one batch decides anew, so that new commands always have room too."""

QUEUE_COMMANDS_MAX: Final = 20_000
"""Admissions that one lane lets queue; settles are always taken: their holds bound them."""

WAIT_POLL_SECONDS: Final = 0.1
"""How often waiting admissions are decided anew though this process gave nothing back: another
process may have."""

LATE_POLL_SECONDS: Final = 0.25
"""How often commands in flight are looked over for those whose time is up."""

RECONNECT_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries while the database is away; the last one repeats."""

STUCK_SECONDS: Final = (0.0, 0.1, 1.0, 5.0, 15.0, 30.0)
"""Pauses between tries of an organisation whose row somebody else keeps locked; the last repeats.
Each try may stop the lane for the lock timeout, so they become rare."""


class QuarantinedError(FareboxError):
    """The database rejected this command; it was put aside for an operator to rule on."""

    code: ClassVar[str] = "quarantined"


class QueueFullError(UnavailableError):
    """Too many commands are waiting for the database."""

    code: ClassVar[str] = "queue_full"


class _StuckLine:
    """Commands of one organisation that cannot be decided now, though others can."""

    __slots__ = ("pendings", "retry_at")

    def __init__(self, pendings: list[Pending], retry_at: float) -> None:
        self.pendings = pendings
        self.retry_at = retry_at


class Lane:
    """One connection and the commands on their way to it."""

    def __init__(self, store: BatchStore, monotonic: Callable[[], float]) -> None:
        self.queue: deque[Pending] = deque()
        self.waiting = WaitingRoom()
        self._store = store
        self._monotonic = monotonic
        self._flying: list[Pending] = []
        self._stuck: dict[UUID, _StuckLine] = {}
        self._stuck_tries: dict[UUID, int] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._polled_at = float("-inf")
        self._numbers = 0
        self._closing = False

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self, drain_seconds: float) -> None:
        """Finish what is there as far as the time allows, fail the rest, let the connection go."""
        self._closing = True
        self._arrived.set()
        try:
            if self._task is not None:
                _, late = await asyncio.wait({self._task}, timeout=drain_seconds)
                for task in late:
                    task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            for pending in (*self._everything(), *self.waiting.clear()):
                pending.fail(UnavailableError("Farebox is stopping; it may have taken effect."))
            await self._store.aclose()

    def put(self, pending: Pending) -> None:
        """Take a command.

        Raises:
            UnavailableError: The lane is closing, or full.
        """
        if self._closing:
            raise UnavailableError("Farebox is stopping.")
        if len(self.queue) >= QUEUE_COMMANDS_MAX and isinstance(pending.command, Admit | Report):
            raise QueueFullError
        self._put(pending)

    def withdraw(self, pending: Pending) -> None:
        """Note that a command's caller is gone; an admission is taken back."""
        pending.withdrawn = True
        future = pending.future
        # An answer that was on its way to a caller who is cancelled in the same moment reaches
        # nobody: its hold must not stay.
        if future.done() and not future.cancelled() and future.exception() is None:
            self._take_back(pending, future.result())

    def _put(self, pending: Pending) -> None:
        self._numbers += 1
        pending.number = self._numbers
        self.queue.append(pending)
        self._arrived.set()

    # Forming batches.

    async def _work(self) -> None:
        while True:
            batch = self._take_stuck() or self._take()
            if batch:
                self._flying = batch
                self._watch()
                await self._settle(list(batch))
                self._flying = []
            elif self._closing and not (self.queue or self._stuck or self.waiting.count):
                return
            else:
                await self._until_something()

    async def _until_something(self) -> None:
        if self.queue:
            return
        self._arrived.clear()
        if not (self.waiting.count or self._stuck):
            await self._arrived.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_POLL_SECONDS):
                await self._arrived.wait()

    def _take(self) -> list[Pending]:
        """Form the next batch: those who wait come before those who are new, in order."""
        now = self._monotonic()
        due = self.waiting.count > 0 and (
            self._closing or now - self._polled_at >= WAIT_POLL_SECONDS
        )
        room = BATCH_COMMANDS_MAX - min(self.waiting.count, WAITERS_PER_BATCH_MAX)
        fresh: list[Pending] = []
        while self.queue and len(fresh) < room:
            pending = self.queue.popleft()
            if pending.is_over(now):
                pending.fail_late(now)
            elif (stuck := self._stuck.get(pending.command.organization_id)) is not None:
                stuck.pendings.append(pending)
            else:
                fresh.append(pending)
        # A new admission must not pass those of its organisation that wait, and what gives money
        # back may let them go: either way they are decided first.
        revisited = dict.fromkeys(p.command.organization_id for p in fresh)
        if due:
            self._polled_at = now
            revisited = dict.fromkeys(self.waiting.organizations())
        waited = self.waiting.take(revisited, BATCH_COMMANDS_MAX - len(fresh))
        for pending in waited:
            pending.go_on(now)
        return waited + fresh

    def _take_stuck(self) -> list[Pending]:
        """The commands of an organisation that was stuck and may be tried again: they alone."""
        now = self._monotonic()
        for organization_id, line in self._stuck.items():
            if line.retry_at <= now:
                del self._stuck[organization_id]
                for pending in line.pendings:
                    pending.fail_late(now)
                useful = [p for p in line.pendings if not p.is_over(now)]
                self.queue.extendleft(reversed(useful[BATCH_COMMANDS_MAX:]))
                return useful[:BATCH_COMMANDS_MAX]
        return []

    # Sending them.

    async def _settle(self, batch: list[Pending]) -> None:
        """Have a batch decided; part it where it cannot be decided as a whole."""
        try:
            for pending, result in zip(batch, await self._send(batch), strict=True):
                self._stuck_tries.pop(pending.command.organization_id, None)
                self._answer(pending, result)
        except BatchRejectedError as error:
            if len(batch) == 1:
                await self._put_aside(batch[0], error)
                return
            half = len(batch) // 2
            await self._settle(batch[:half])
            await self._settle(batch[half:])
        except BatchUnsettledError:
            parts: dict[UUID, list[Pending]] = {}
            for pending in batch:
                parts.setdefault(pending.command.organization_id, []).append(pending)
            for organization_id, part in parts.items():
                if len(parts) == 1:
                    self._park(organization_id, part)
                else:
                    await self._settle(part)
        except Exception as error:  # noqa: BLE001 - a broken invariant must not stop the lane
            for pending in batch:
                pending.fail(error)

    async def _send(self, batch: list[Pending]) -> list[Result]:
        """Send until there is an answer; commands whose time is up meanwhile drop out."""
        tries = 0
        while True:
            now = self._monotonic()
            for pending in batch:
                pending.fail_late(now)
            batch[:] = [p for p in batch if not p.is_over(now)]
            if not batch:
                return []
            resent = any(p.in_doubt for p in batch)
            try:
                return await self._store.run([p.command for p in batch], resent=resent)
            except BatchStoreLostError:
                for pending in batch:
                    pending.in_doubt = True
                await asyncio.sleep(_pause(RECONNECT_SECONDS, tries))
                tries += 1

    async def _put_aside(self, pending: Pending, error: BatchRejectedError) -> None:
        tries = 0
        while not pending.is_over(self._monotonic()):
            try:
                await self._store.quarantine(pending.command, error.message)
            except UnavailableError:
                await asyncio.sleep(_pause(RECONNECT_SECONDS, tries))
                tries += 1
            except Exception as failure:  # noqa: BLE001 - the caller must hear of it either way
                pending.fail(failure)
                return
            else:
                pending.fail(QuarantinedError(f"{QuarantinedError.__doc__} {error.message}"))
                return
        pending.fail_late(self._monotonic())

    def _park(self, organization_id: UUID, part: list[Pending]) -> None:
        """Put an organisation's commands aside for a while, so that the others can go on."""
        tries = self._stuck_tries.get(organization_id, 0)
        self._stuck_tries[organization_id] = tries + 1
        retry_at = self._monotonic() + _pause(STUCK_SECONDS, tries)
        line = self._stuck.get(organization_id)
        if line is not None:
            # Another part of the same batch got stuck before: both wait, neither is forgotten.
            part = [*line.pendings, *part]
        self._stuck[organization_id] = _StuckLine(part, retry_at)

    # Answering.

    def _answer(self, pending: Pending, result: Result) -> None:
        if isinstance(result, Refused) and result.blocked_by_holds and self._may_wait(pending):
            pending.wait(result)
            self.waiting.keep(pending)
        elif pending.withdrawn or pending.future.cancelled():
            self._take_back(pending, result)
        else:
            pending.answer(result)

    def _may_wait(self, pending: Pending) -> bool:
        return (
            not pending.future.done()
            and not self._closing
            and pending.patience_until > self._monotonic()
            and self.waiting.has_room(pending.command.organization_id)
        )

    def _take_back(self, pending: Pending, result: Result) -> None:
        """Nobody waits for this admission any more: give its hold back."""
        if not isinstance(pending.command, Admit) or not isinstance(result, Admitted):
            return
        release = Release(
            organization_id=pending.command.organization_id,
            call_id=pending.command.call_id,
            reason="client_gone_before_dispatch",
        )
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_nobody_asks)
        self._put(Pending(release, future, now=self._monotonic()))

    # Time.

    def _watch(self) -> None:
        """Look after the commands' time while the lane waits for the database."""
        if self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(LATE_POLL_SECONDS, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._monotonic()
        for pending in self._everything():
            pending.fail_late(now)
        if any(pending.is_over(now) for pending in self.queue):
            self.queue = deque(p for p in self.queue if not p.is_over(now))
        for pending in self.waiting.leave(now):
            assert pending.refused is not None
            pending.answer(pending.refused)
        if self._flying or self.queue or self._stuck or self.waiting.count:
            self._watch()

    def _everything(self) -> chain[Pending]:
        """Every command that was taken, but those who wait for money."""
        lines = (line.pendings for line in self._stuck.values())
        return chain(self._flying, self.queue, *lines)


def _pause(pauses: tuple[float, ...], tries: int) -> float:
    return pauses[min(tries, len(pauses) - 1)]


def _nobody_asks(future: asyncio.Future[Result]) -> None:
    """Take note of a future's error, which nobody else will."""
    if not future.cancelled():
        future.exception()
