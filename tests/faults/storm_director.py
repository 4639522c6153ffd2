"""What happens to an organisation while the storm is on: money comes, limits fall, nodes vanish."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Self

from farebox.assembly.database import open_pool
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import SetFloor, SetLimit
from farebox.ledger.grants import Source
from farebox.ledger.limits import Period
from farebox.ledger.organizations import OnLapse
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.sweep import Sweep
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.node_store import PostgresNodeStore, borrowed
from farebox.storage.tenancy_store import advance_clock
from tests.support.processes import Customer, Installation

CENT = NANOS_PER_UNIT // 100
DEAREST = 5 * CENT

FLOORS = (0, 10 * CENT, 25 * CENT)
PAUSE_SECONDS = 0.02


class Director:
    """Does things to one organisation, at random, until told to stop."""

    def __init__(
        self,
        installed: Installation,
        customer: Customer,
        chance: random.Random,
        acts: Sequence[str],
    ) -> None:
        """Choose the acts: names of methods of this class."""
        self.done: Counter[str] = Counter()
        self._installed = installed
        self._customer = customer
        self._chance = chance
        self._acts: list[Callable[[], Awaitable[None]]] = [getattr(self, name) for name in acts]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        dsn = self._installed.dsn
        self._pool = await open_pool(Connector(dsn, name="director"), size=2)
        self._stack.push_async_callback(self._pool.close)
        bookkeeper = Bookkeeper(
            [PostgresBatchStore(Connector(dsn, name="director lane"))], monotonic=time.monotonic
        )
        bookkeeper.start()
        self._stack.push_async_callback(bookkeeper.aclose)
        self._sweep = Sweep(PostgresNodeStore(self._pool), bookkeeper, monotonic=time.monotonic)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def direct(self, until: asyncio.Event) -> None:
        """Act until then."""
        while not until.is_set():
            await asyncio.sleep(PAUSE_SECONDS)
            act = self._chance.choice(self._acts)
            self.done[getattr(act, "__name__", "act")] += 1
            await act()

    async def sweep(self) -> None:
        """End what nobody else will."""
        await self._sweep.step()

    async def top_up(self) -> None:
        """Give a little credit where there is less than a call may need."""
        await self._give(ends=None)

    async def top_up_briefly(self) -> None:
        """The same, with an end that the clock will pass."""
        await self._give(ends=timedelta(minutes=self._chance.randint(1, 90)))

    async def _give(self, *, ends: timedelta | None) -> None:
        organization_id = self._customer.organization_id
        ((unreserved, now),) = await self._installed.rows(
            "SELECT unreserved_nanos, farebox_now() FROM organization WHERE id = %s",
            organization_id,
        )
        if unreserved >= DEAREST:
            return
        amount = Nanos(self._chance.randrange(CENT, 12 * DEAREST))
        source = self._chance.choice((Source.FREE, Source.GRANT, Source.PURCHASED))
        await self._installed.grant(
            organization_id, amount, source=source, expires_at=None if ends is None else now + ends
        )

    async def move_limit(self) -> None:
        """Set the monthly limit near what is used, above or below."""
        organization_id = self._customer.organization_id
        ((spent, held),) = await self._installed.rows(
            "SELECT spent_nanos, reserved_nanos + unsecured_held_nanos FROM organization"
            " WHERE id = %s",
            organization_id,
        )
        maximum = Nanos(max(0, spent + held + self._chance.randrange(-20 * CENT, 100 * CENT)))
        await self._installed.command(
            SetLimit(organization_id=organization_id, period=Period.MONTH, maximum=maximum)
        )

    async def drop_limit(self) -> None:
        """Take the limit away, now and then."""
        if self._chance.random() < 0.2:
            await self._installed.command(
                SetLimit(
                    organization_id=self._customer.organization_id,
                    period=Period.MONTH,
                    maximum=None,
                )
            )

    async def move_floor(self) -> None:
        """Let holds go further below zero, or not so far."""
        await self._installed.command(
            SetFloor(
                organization_id=self._customer.organization_id,
                floor=Nanos(self._chance.choice(FLOORS)),
            )
        )

    async def change_mind(self) -> None:
        """Charge something else for calls that lapse."""
        await self._installed.rows(
            "UPDATE organization SET on_lapse = %s WHERE id = %s",
            self._chance.choice(list(OnLapse)),
            self._customer.organization_id,
        )

    async def lose_node(self) -> None:
        """Make a node one that was last seen long ago, and sweep its holds."""
        await self._installed.rows(
            "UPDATE node SET seen_at = clock_timestamp() - interval '61 s' WHERE id ="
            " (SELECT id FROM node WHERE name LIKE 'storm %%' ORDER BY random() LIMIT 1)"
        )
        await self._sweep.step()

    async def advance(self) -> None:
        """Move the sandbox clock past the end of some grants, and sometimes of holds."""
        by = self._chance.choice((1, 20, 61, 150))
        async with borrowed(self._pool) as connection:
            await advance_clock(connection, timedelta(minutes=by))
        await self._sweep.step()
