"""The sweep: it ends holds whose node is gone or whose time is up, and posts breakage.

``step`` does one round; a clock only decides when to call it. A node is fenced off before its holds
are lapsed, so that it can admit nothing more under its old epoch. The sweep pauses, and says so,
when the database's clock jumps against the worker's own monotonic clock (ENGINE.md, "Nodes and
lapses"), at once or in steps within a node's silence: a moved clock must not lapse holds of nodes
that are alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import FareboxError
from farebox.ledger.commands import AnyCommand, Closed, ExpireGrants, Lapse, Result

NODE_SILENCE: Final = timedelta(seconds=60)
"""A node unseen for this long is gone; it has stopped by itself after 40 seconds."""

CLOCK_JUMP_MAX: Final = timedelta(seconds=30)
PAUSE_AFTER_JUMP: Final = timedelta(seconds=120)
"""Long enough for every living node to renew by the new clock."""

LOOKS_APART_SECONDS: Final = 1.0
"""Of the looks at the clock that are remembered."""

HOLDS_PER_STEP: Final = 256
ORGANIZATIONS_PER_STEP: Final = 100


class HoldToLapse(msgspec.Struct, frozen=True):
    """An open hold that the sweep must end."""

    organization_id: UUID
    call_id: UUID
    node_id: UUID
    epoch: int
    node_gone: bool


class SweepError(FareboxError):
    """Some holds or grants could not be ended; the next step tries them again."""


class SweepStore(Protocol):
    """What the sweep asks of the database."""

    async def real_time(self) -> datetime:
        """The database's real clock."""

    async def fence_silent(self, silence: timedelta, looked_at: datetime) -> list[str]:
        """End the epochs of silent nodes that hold money; gives their names.

        Nobody's, where the clock is over ``CLOCK_JUMP_MAX`` away from when we looked at it.
        """

    async def holds_to_lapse(self, limit: int) -> list[HoldToLapse]:
        """Open holds whose node is gone or whose time is up."""

    async def organizations_with_ended_grants(self, limit: int) -> list[UUID]:
        """Organisations that have breakage to post."""


class Submits(Protocol):
    """The bookkeeper, as far as the sweep needs it."""

    async def submit(self, command: AnyCommand) -> Result:
        """Have a command decided and committed."""


class Swept(msgspec.Struct, frozen=True):
    """What one step did."""

    lapsed: int = 0
    expired_organizations: int = 0
    fenced: tuple[str, ...] = ()
    paused: bool = False


class _Look(NamedTuple):
    """A look at the database's clock, between two instants of our own."""

    now: datetime
    asked: float
    answered: float

    def has_jumped_since(self, before: _Look) -> bool:
        """Whether the clock went further between two looks than ours, by more than is tolerated."""
        passed = (self.now - before.now).total_seconds()
        jump_max = CLOCK_JUMP_MAX.total_seconds()
        shortest, longest = self.asked - before.answered, self.answered - before.asked
        return not shortest - jump_max <= passed <= longest + jump_max


class Sweep:
    """Ends what nobody else will end."""

    def __init__(
        self, store: SweepStore, bookkeeper: Submits, *, monotonic: Callable[[], float]
    ) -> None:
        self._store = store
        self._bookkeeper = bookkeeper
        self._monotonic = monotonic
        self._looks: list[_Look] = []
        """The last one, and those in which a living node may have been seen for the last time."""
        self._paused_until = float("-inf")

    async def step(self) -> Swept:
        """Do one round; call again at once while it finds a full page.

        Raises:
            SweepError: Some could not be ended; all the others were.
            UnavailableError: The database is away.
        """
        looked_at, jumped = await self._look_at_clock()
        if jumped:
            return Swept(paused=True)
        fenced = await self._store.fence_silent(NODE_SILENCE, looked_at)
        holds = await self._store.holds_to_lapse(HOLDS_PER_STEP)
        lapsed = await self._submit(
            Lapse(
                organization_id=hold.organization_id,
                call_id=hold.call_id,
                node_id=hold.node_id,
                epoch=hold.epoch,
                reason="node_gone" if hold.node_gone else "latest_end",
            )
            for hold in holds
        )
        ended = await self._store.organizations_with_ended_grants(ORGANIZATIONS_PER_STEP)
        expired = await self._submit(ExpireGrants(organization_id=each) for each in ended)
        failures = [error for error in lapsed + expired if isinstance(error, Exception)]
        if failures:
            raise SweepError(f"{len(failures)} could not be ended; the first: {failures[0]!r}")
        return Swept(
            lapsed=sum(isinstance(result, Closed) for result in lapsed),
            expired_organizations=len(ended),
            fenced=tuple(fenced),
        )

    async def _submit(self, commands: Iterable[AnyCommand]) -> list[Result | BaseException]:
        """Have all of them decided together, so that none stands in another's way."""
        return await asyncio.gather(
            *(self._bookkeeper.submit(command) for command in commands), return_exceptions=True
        )

    async def _look_at_clock(self) -> tuple[datetime, bool]:
        """Its time now, and whether it has jumped against our own; both are remembered.

        The database looked at its clock some time between our question and its answer, so only
        what no such instant explains is a jump.
        """
        asked = self._monotonic()
        now = await self._store.real_time()
        look = _Look(now, asked, self._monotonic())
        oldest = asked - NODE_SILENCE.total_seconds()
        looks = [each for each in self._looks[:-1] if each.asked >= oldest] + self._looks[-1:]
        if any(map(look.has_jumped_since, looks)):
            self._paused_until = look.answered + PAUSE_AFTER_JUMP.total_seconds()
            looks.clear()
        if len(looks) > 1 and asked - looks[-2].asked <= LOOKS_APART_SECONDS:
            looks.pop()  # steps may follow each other at once
        self._looks = [*looks, look]
        return now, look.answered < self._paused_until
