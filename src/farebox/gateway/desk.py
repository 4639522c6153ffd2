"""What every call needs at hand: the money, the catalogue, counters, ids and running calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from farebox.gateway.keeping import NoteContent
from farebox.gateway.metering import CountTokens
from farebox.gateway.metrics import Metrics
from farebox.gateway.sales import Sales
from farebox.ledger.commands import AnyCommand, Result
from farebox.operations.nodes import Node
from farebox.operations.refusals import Refusal

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""Larger requests are refused before they are read: enough for several inline images."""

ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
"""A larger whole answer is a fault of the upstream; 2,048 embeddings of 3,072 numbers fit."""

SETTLE_SECONDS_MAX: Final = 30.0
"""With the database away for longer, the answer is broken off and the hold lapses (ENGINE.md)."""

USAGE_AFTER_DISCONNECT_SECONDS: Final = 2.0
"""How long the usage of a finished answer is waited for though the client is gone."""

PATIENCE_SECONDS: Final = 2.0
"""How long an admission waits in order for money that open calls hold (DESIGN.md decision 5)."""

DRAIN_POLL_SECONDS: Final = 0.02
"""How often calls that are about to end are looked at while the gateway stops."""

logger: Final = structlog.get_logger("farebox.gateway")


class Bookkeeping(Protocol):
    """The bookkeeper, as far as calls need it."""

    async def submit(self, command: AnyCommand, *, patience_seconds: float = 0.0) -> Result:
        """Have a command decided and committed."""


class Running(Protocol):
    """A call that is under way."""

    async def report(self) -> None:
        """Note its use so far, so that a lapse charges it."""

    async def abort(self) -> None:
        """Close its upstream: its hold is lost."""


class NoteRequest(Protocol):
    """Notes an admitted call beside the money path: never waits, never keeps its content."""

    def __call__(
        self,
        organization_id: UUID,
        project_id: UUID,
        key_id: UUID,
        *,
        run: str,
        user: str,
        model: str,
        body: bytes,
    ) -> None:
        """See :class:`farebox.operations.request_watch.RequestWatch`."""


class NoteExhausted(Protocol):
    """Notes a call that a provider refused for want of our own money; never waits (ERR-08)."""

    def __call__(self, account_id: UUID, *, provider: str, status: int, call_id: UUID) -> None:
        """See :class:`farebox.operations.provider_watch.ProviderWatch`."""


class Desk:
    """Shared by all calls of a gateway."""

    def __init__(
        self,
        *,
        bookkeeper: Bookkeeping,
        node: Node,
        sales: Sales,
        metrics: Metrics,
        count_tokens: CountTokens,
        new_call_id: Callable[[], UUID],
        monotonic: Callable[[], float],
        note_refusal: Callable[[Refusal], None],
    ) -> None:
        self.bookkeeper = bookkeeper
        self.node = node
        self.sales = sales
        self.metrics = metrics
        self.count_tokens = count_tokens
        self.new_call_id = new_call_id
        self.monotonic = monotonic
        self.note_refusal = note_refusal
        self.note_use: Callable[[UUID, UUID, datetime], None] = _unnoted
        """Hears of every admitted call: its key, project and instant (ORG-15)."""
        self.note_request: NoteRequest | None = None
        """Hears of every admitted call, what it asked for included: for the watch (ANO-01)."""
        self.note_exhausted: NoteExhausted | None = None
        """Hears of every call that found our own account at the provider used up."""
        self.note_content: NoteContent | None = None
        """Stores what calls say, where their project wants that; and for how many days."""
        self.help_url = ""
        """Where a person adds credit or raises a limit; empty where no console is known."""
        self.classic_codes = False
        """Whether billing refusals have one code for every cause (ERR-02)."""
        self.running: dict[UUID, Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something that must finish whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def report_running(self) -> None:
        """Have every running stream note its use; called with the heartbeat.

        None waits for another's answer, so that they share batches, and one that cannot report
        keeps no other from it; but each reads what it has said in a turn of its own, so that a
        thousand streams do not hold up each other's events meanwhile.
        """
        reports: list[asyncio.Task[None]] = []
        for call in list(self.running.values()):
            reports.append(asyncio.ensure_future(call.report()))
            await asyncio.sleep(0)
        for result in await asyncio.gather(*reports, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("report_failed", error=repr(result))

    def abort_running(self) -> None:
        """Close the upstream of every running call: this node's holds are lost."""
        for call in list(self.running.values()):
            self.spawn(call.abort())

    async def drain(self, seconds: float) -> None:
        """Wait for what is still finishing, and for what that begins."""
        until = self.monotonic() + seconds
        while (self._tasks or self.running) and (left := until - self.monotonic()) > 0:
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=left)
            else:
                await asyncio.sleep(min(left, DRAIN_POLL_SECONDS))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background_work_failed", error=repr(error))


async def patiently(work: Awaitable[Any], seconds: float) -> Any:
    """Wait for shielded work, at most so long; the work goes on either way."""
    async with asyncio.timeout(seconds):
        return await asyncio.shield(work)


def _unnoted(key_id: UUID, project_id: UUID, at: datetime) -> None:
    """Nobody wants to know when keys are used."""
