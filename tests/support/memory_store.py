"""A batch store in memory that does what a test tells it to: hang, fail, lose an answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from farebox.ledger.commands import Admit, AnyCommand, Result
from farebox.operations.batches import (
    BatchRejectedError,
    BatchStoreLostError,
    BatchUnsettledError,
)
from tests.support.ledger_memory import MemoryLedger
from tests.support.till import START, Till


class Fault(Enum):
    """What may become of one batch."""

    NONE = "none"
    UNSETTLED = "unsettled"
    LOST_BEFORE = "lost before the commit"
    LOST_AFTER = "lost after the commit"
    BROKEN = "a broken invariant"


Step = Fault | asyncio.Event


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(repr=False)
class MemoryStore:
    """Implements ``operations.batches.BatchStore`` on plain dictionaries."""

    ledger: MemoryLedger
    steps: deque[Step] = field(default_factory=deque)
    """What becomes of the next batches; an event holds its batch in flight until it is set."""
    forever: Fault | None = None
    """What becomes of every batch after the steps."""
    poison: Sequence[AnyCommand] = ()
    """Commands that the database rejects."""
    locked: set[object] = field(default_factory=set)
    """Organisations that somebody else has locked."""
    batches: list[list[AnyCommand]] = field(default_factory=list)
    resent: list[bool] = field(default_factory=list)
    quarantined: list[AnyCommand] = field(default_factory=list)
    quarantine_faults: deque[Exception] = field(default_factory=deque)
    closed: bool = False

    async def run(self, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
        """Decide a batch as the real store would, or fail as the next step says."""
        assert not self.closed
        assert commands
        self.batches.append(list(commands))
        self.resent.append(resent)
        step: Step = self.steps.popleft() if self.steps else self.forever or Fault.NONE
        await asyncio.sleep(0)
        if isinstance(step, asyncio.Event):
            await step.wait()
        if self.locked & {c.organization_id for c in commands} or step is Fault.UNSETTLED:
            raise BatchUnsettledError
        if step is Fault.LOST_BEFORE:
            raise BatchStoreLostError
        if any(c in self.poison for c in commands):
            raise BatchRejectedError
        assert step is not Fault.BROKEN, "a broken invariant"
        for command in commands:
            if isinstance(command, Admit) and not resent:
                # The real store would not look for it, and trip over the primary key.
                assert command.call_id not in self.ledger.holds
        results = self.ledger.run(commands, START + timedelta(seconds=len(self.batches)))
        if step is Fault.LOST_AFTER:
            raise BatchStoreLostError
        return results

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        """Note the command."""
        await asyncio.sleep(0)
        if self.quarantine_faults:
            raise self.quarantine_faults.popleft()
        self.quarantined.append(command)

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


def memory_store(*tills: Till) -> MemoryStore:
    """A store with some organisations."""
    ledger = MemoryLedger()
    for till in tills:
        till.put_into(ledger)
    return MemoryStore(ledger)
