"""What happens to an organisation while the storm is on: money comes, limits fall, nodes vanish."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, LiteralString, Self

from farebox.assembly.database import open_pool
from farebox.kit.ids import uuid7
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import (
    AnyCommand,
    Done,
    GrantCredit,
    Granted,
    Refused,
    SetFloor,
    SetLimit,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Period
from farebox.ledger.organizations import OnLapse
from farebox.ledger.scopes import ScopeKind
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


class Director:
    """Does things to one organisation, at random, until told to stop."""

    def __init__(
        self,
        installed: Installation,
        customer: Customer,
        chance: random.Random,
        acts: Sequence[str],
        *,
        hands: int = 1,
        pause_seconds: float = 0.005,
    ) -> None:
        """Choose the acts, names of methods of this class, and how fast they follow.

        Args:
            installed: Where.
            customer: Whose organisation.
            chance: What chooses.
            acts: What it chooses from.
            hands: How many are done at once.
            pause_seconds: Between two acts of one hand.
        """
        self._hands = hands
        self._pause_seconds = pause_seconds
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
        self._bookkeeper = Bookkeeper(
            [PostgresBatchStore(Connector(dsn, name="director lane"))], monotonic=time.monotonic
        )
        self._bookkeeper.start()
        self._stack.push_async_callback(self._bookkeeper.aclose)
        self._sweep = Sweep(
            PostgresNodeStore(self._pool), self._bookkeeper, monotonic=time.monotonic
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def direct(self, until: asyncio.Event) -> None:
        """Act until then, with several hands."""
        await asyncio.gather(*(self._act(until) for _ in range(self._hands)))

    async def _act(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await asyncio.sleep(self._pause_seconds)
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
        unreserved, now = await self._row(
            "SELECT unreserved_nanos, farebox_now() FROM organization WHERE id = %s"
        )
        if unreserved >= DEAREST:
            return
        amount = Nanos(self._chance.randrange(CENT, 12 * DEAREST))
        source = self._chance.choice((Source.FREE, Source.GRANT, Source.PURCHASED))
        await self._command(
            GrantCredit(
                organization_id=organization_id,
                grant_id=uuid7(now, os.urandom(10)),
                source=source,
                amount=amount,
                expires_at=None if ends is None else now + ends,
                default_expiry=False,
                reference="a storm",
            )
        )

    async def move_limit(self) -> None:
        """Set one of the limits near what is used, above or below."""
        spent, held = await self._row(
            "SELECT spent_nanos, reserved_nanos + unsecured_held_nanos FROM organization"
            " WHERE id = %s"
        )
        maximum = Nanos(max(0, spent + held + self._chance.randrange(-10 * CENT, 300 * CENT)))
        await self._set_limit(maximum)

    async def drop_limit(self) -> None:
        """Take one of the limits away, now and then."""
        if self._chance.random() < 0.2:
            await self._set_limit(None)

    async def _set_limit(self, maximum: Nanos | None) -> None:
        customer = self._customer
        kind, ref, period = self._chance.choice(
            (
                (ScopeKind.ORGANIZATION, "", Period.MONTH),
                (ScopeKind.ORGANIZATION, "", Period.MONTH),
                (ScopeKind.PROJECT, customer.project_id.hex, Period.WEEK),
                (ScopeKind.KEY, customer.key_id.hex, Period.DAY),
            )
        )
        await self._command(
            SetLimit(
                organization_id=customer.organization_id,
                scope_kind=kind,
                scope_ref=ref,
                period=period,
                maximum=maximum,
            )
        )

    async def move_floor(self) -> None:
        """Let holds go further below zero, or not so far."""
        await self._command(
            SetFloor(
                organization_id=self._customer.organization_id,
                floor=Nanos(self._chance.choice(FLOORS)),
            )
        )

    async def change_mind(self) -> None:
        """Charge something else for calls that lapse."""
        async with borrowed(self._pool) as connection:
            await connection.execute(
                "UPDATE organization SET on_lapse = %s WHERE id = %s",
                (self._chance.choice(list(OnLapse)), self._customer.organization_id),
            )

    async def lose_node(self) -> None:
        """Make a node that holds money one that was last seen long ago, and sweep its holds."""
        async with borrowed(self._pool) as connection:
            await connection.execute(
                "UPDATE node SET seen_at = clock_timestamp() - interval '61 s' WHERE id ="
                " (SELECT node_id FROM hold WHERE organization_id = %s ORDER BY random() LIMIT 1)",
                (self._customer.organization_id,),
            )
        await self._sweep.step()

    async def _row(self, sql: LiteralString) -> tuple[Any, ...]:
        """The one row about the organisation."""
        async with borrowed(self._pool) as connection:
            cursor = await connection.execute(sql, (self._customer.organization_id,))
            row = await cursor.fetchone()
        assert row is not None
        return row

    async def _command(self, command: AnyCommand) -> None:
        result = await self._bookkeeper.submit(command)
        # Another hand may have moved the clock past the end of a grant that was still to be.
        is_late = isinstance(result, Refused) and result.code == "already_expired"
        assert is_late or isinstance(result, Granted | Done), result

    async def advance(self) -> None:
        """Move the sandbox clock past the end of some grants, and sometimes of holds."""
        by = self._chance.choice((1, 20, 61, 150))
        async with borrowed(self._pool) as connection:
            await advance_clock(connection, timedelta(minutes=by))
        await self._sweep.step()
