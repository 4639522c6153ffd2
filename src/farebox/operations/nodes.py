"""A node's life: it registers, renews its row every few seconds, and stops when it cannot.

A hold belongs to a node and its epoch. A node that could not renew for a while stops admitting and
closes its upstream calls well before the sweep may lapse their holds, so that a call never runs on
for long without a hold (ENGINE.md, "Nodes and lapses"). All durations are of a monotonic clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID

from farebox.kit.errors import UnavailableError

HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS_MAX: Final = 40.0
"""A node that could not renew for this long stops."""


class NodeStore(Protocol):
    """Where node rows are."""

    async def register(self, node_id: UUID, name: str) -> int:
        """Make the node's row, or begin its next epoch; gives the epoch."""

    async def renew(self, node_id: UUID, epoch: int) -> bool:
        """Renew the row; False if the epoch has been fenced off."""

    async def retire(self, node_id: UUID, epoch: int) -> None:
        """End the epoch: what the node still holds may lapse at once."""


class Node:
    """This process, as the database knows it."""

    def __init__(
        self,
        store: NodeStore,
        *,
        node_id: UUID,
        name: str,
        monotonic: Callable[[], float],
        on_lost: Callable[[], None],
    ) -> None:
        """Describe the node.

        Args:
            store: Where its row is.
            node_id: New for every start of a process.
            name: Host and process, for people.
            monotonic: Seconds of a clock that only goes forward.
            on_lost: Called when the node must close its upstream calls.
        """
        self.id = node_id
        self.epoch = 0
        self._store = store
        self._name = name
        self._monotonic = monotonic
        self._on_lost = on_lost
        self._renewed_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    @property
    def may_admit(self) -> bool:
        """Tell whether the node renewed recently enough to take new calls."""
        return self._monotonic() - self._renewed_at < SILENCE_SECONDS_MAX

    async def start(self) -> None:
        """Register and begin to renew."""
        await self._register()
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def aclose(self) -> None:
        """Stop renewing and retire the epoch."""
        self._renewed_at = float("-inf")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._store.retire(self.id, self.epoch)
        except UnavailableError:
            return  # the sweep will find the epoch unseen

    async def _register(self) -> None:
        asked_at = self._monotonic()
        self.epoch = await self._store.register(self.id, self._name)
        self._renewed_at = asked_at
        self._lost = False

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self.beat()
            except Exception:  # noqa: BLE001 - a node that beats no more would run on without holds
                if not self.may_admit:
                    self._lose()

    async def beat(self) -> None:
        """Renew once; tell whoever runs calls when the node is lost."""
        # Counted from before the question: the row is at least as fresh as this.
        asked_at = self._monotonic()
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                if await self._store.renew(self.id, self.epoch):
                    self._renewed_at = asked_at
                    self._lost = False
                    return
                # Fenced off: its holds lapse. Whatever still runs has no hold any more.
                self._renewed_at = float("-inf")
                self._lose()
                await self._register()
        except (UnavailableError, TimeoutError):
            if not self.may_admit:
                self._lose()

    def _lose(self) -> None:
        """Say so, once for every time that it is lost."""
        if not self._lost:
            self._lost = True
            self._on_lost()
