"""One process of a storm: a node with a bookkeeper, and callers with no HTTP between.

Run as a program by the storm tests, so that several of them meet in one database as gateways do.
Its plan is its argument and its tally is its output, both JSON.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import msgspec

from farebox.assembly.database import open_pool
from farebox.kit.errors import UnavailableError
from farebox.kit.ids import uuid7_from_millis
from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Closed,
    Done,
    Extend,
    LineItem,
    Refused,
    Release,
    Settle,
    Usage,
)
from farebox.ledger.holds import CallState, Dimensions
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.nodes import Node
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.node_store import PostgresNodeStore

UNIT = "cached_input"
UNIT_PRICE = 250_000_000
TOKEN_NANOS = 250
"""The cheapest unit of gpt-5.4: amounts are fine enough to use a dollar up to the last nano."""

LANES = 2
FORGOTTEN_MAX = 4
"""Calls of one process that nobody settles until their node was lost; more would stop the storm."""

GROWTH_STEPS_MAX = 3

NODE_LOST = frozenset({"stale_epoch", "hold_closed", "hold_not_found"})
"""Refused because the node was given up, maybe while the admission was in doubt."""

REFUSED_PAUSE_SECONDS = 0.03
"""Before the next call of one that was refused: money has to move for a boundary to be passed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does."""

    dsn: str
    organization_id: UUID
    project_id: UUID
    key_id: UUID
    price_id: UUID
    account_id: UUID
    catalogue_revision: int
    seed: int
    begin_at: float
    """Unix seconds: all processes begin together."""
    admissions: int
    """Decisions at the boundary to ask for."""
    callers: int
    tokens_min: int
    tokens_max: int
    """A ceiling is a whole number of tokens in this range."""
    endings: dict[str, int]
    """Weights of: exact, part, over, nothing, grown, forgotten."""
    persistent: bool = False
    """Callers go on for as long as only holds stand in the way, then end."""
    patient: float = 0.0
    """Share of admissions that wait in order."""
    lowest_floor: int = 0
    """No refusal is right that fits above this floor."""


class Tally(msgspec.Struct):
    """What came of it."""

    admitted: int = 0
    boundary: int = 0
    """Admissions decided where the rest did not pay for every ceiling."""
    refused: dict[str, int] = {}
    wrongly: list[str] = []
    """Refusals whose own figures say that the call fitted."""
    cheapest_refused: int | None = None
    """Nanos, of refusals for lack of posted money."""
    ended: dict[str, int] = {}
    charged: int = 0
    seconds: float = 0.0


class StormProcess:
    """Callers, and what they did."""

    def __init__(self, plan: Plan, bookkeeper: Bookkeeper, node: Node) -> None:
        self.plan = plan
        self.bookkeeper = bookkeeper
        self.node = node
        self.chance = random.Random(plan.seed)
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.tally = Tally()
        self.forgotten: list[tuple[Admit, int]] = []
        self._registering = asyncio.Lock()
        self._dearest = plan.tokens_max * TOKEN_NANOS
        self._dimensions = Dimensions(
            plan.project_id, plan.key_id, "", "test", "gpt-5.4", "standard", "chat/completions"
        )
        self._endings: dict[str, Callable[[Admit, int], Awaitable[None]]] = {
            "exact": self._settle,
            "part": lambda call, tokens: self._settle(call, self.chance.randint(1, tokens)),
            "over": lambda call, tokens: self._settle(
                call, tokens + self.chance.randint(1, tokens)
            ),
            "nothing": self._release,
            "grown": self._grow,
            "forgotten": self._forget,
        }

    async def run(self) -> Tally:
        """Call until the plan is done, then end what was forgotten."""
        began = time.monotonic()
        await asyncio.gather(*(self._caller() for _ in range(self.plan.callers)))
        await self.remember()
        self.tally.refused, self.tally.ended = dict(self.refused), dict(self.ended)
        self.tally.seconds = time.monotonic() - began
        return self.tally

    async def remember(self) -> None:
        """Settle what was forgotten: late, where the sweep came first."""
        forgotten, self.forgotten = self.forgotten, []
        await asyncio.gather(*(self._settle(call, tokens) for call, tokens in forgotten))

    async def _caller(self) -> None:
        plan, chance = self.plan, self.chance
        names, weights = list(plan.endings), list(plan.endings.values())
        while self.tally.boundary < plan.admissions:
            tokens = chance.randint(plan.tokens_min, plan.tokens_max)
            call = self._admit(tokens)
            patience = 2.0 if chance.random() < plan.patient else 0.0
            try:
                result = await self.bookkeeper.submit(call, patience_seconds=patience)
            except UnavailableError:
                # Nobody knows; if the hold stands, the bookkeeper gives it back when it does.
                self.refused["unavailable"] += 1
                continue
            if isinstance(result, Admitted):
                self.tally.admitted += 1
                self.tally.boundary += result.available < self._dearest
                await self._endings[chance.choices(names, weights)[0]](call, tokens)
                continue
            assert isinstance(result, Refused), result
            self.refused[result.code] += 1
            if result.code in NODE_LOST:
                await self._register_again(call.epoch)
                continue
            self._judge(result)
            if plan.persistent and not result.blocked_by_holds:
                return
            await asyncio.sleep(chance.uniform(0, 2 * REFUSED_PAUSE_SECONDS))

    async def _register_again(self, epoch: int) -> None:
        """Do now, once, what the node would do with its next heartbeat."""
        async with self._registering:
            if self.node.epoch == epoch:
                await self.node.beat()

    def _judge(self, refused: Refused) -> None:
        """Look for a refusal of a call that fitted at its decision."""
        self.tally.boundary += 1
        if refused.limit is not None:
            limit = refused.limit
            fitted = limit.used + limit.held + refused.needed <= limit.maximum
        else:
            fitted = refused.needed <= refused.available + self.plan.lowest_floor
            if not refused.blocked_by_holds:
                least = self.tally.cheapest_refused
                self.tally.cheapest_refused = min(refused.needed, least or refused.needed)
        if fitted or refused.needed <= 0:
            self.tally.wrongly.append(repr(refused))

    async def _settle(self, call: Admit, tokens: int) -> None:
        amount = Nanos(tokens * TOKEN_NANOS)
        result = await self.bookkeeper.submit(
            Settle(
                organization_id=call.organization_id,
                call_id=call.call_id,
                metered=amount,
                cost=amount,
                lines=(LineItem(UNIT, tokens, UNIT_PRICE, amount),),
                usage=Usage(input_tokens=tokens, cached_tokens=tokens),
            )
        )
        assert isinstance(result, Closed), result
        assert result.charge + result.absorbed == amount, result
        self.ended["late" if result.state is CallState.LATE else "settled"] += 1
        self.ended["absorbed"] += result.absorbed > 0
        self.tally.charged += result.charge

    async def _grow(self, call: Admit, tokens: int) -> None:
        """Hold more and more, as a stream in slices does, then charge some of it."""
        for step in range(1, GROWTH_STEPS_MAX + 1):
            more = self.chance.randint(1, self.plan.tokens_min)
            result = await self.bookkeeper.submit(
                Extend(
                    organization_id=call.organization_id,
                    call_id=call.call_id,
                    node_id=call.node_id,
                    epoch=call.epoch,
                    amount=Nanos(more * TOKEN_NANOS),
                    step=step,
                )
            )
            if isinstance(result, Refused):
                self.refused[f"extension: {result.code}"] += 1
                if result.code not in NODE_LOST:
                    self._judge(result)
                break
            assert isinstance(result, Done), result
            self.tally.boundary += result.available < self._dearest
            self.ended["extended"] += 1
            tokens += more
        await self._settle(call, self.chance.randint(1, tokens))

    async def _release(self, call: Admit, _: int) -> None:
        release = Release(
            organization_id=call.organization_id, call_id=call.call_id, reason="storm"
        )
        result = await self.bookkeeper.submit(release)
        assert isinstance(result, Closed), result
        self.ended["released"] += 1

    async def _forget(self, call: Admit, tokens: int) -> None:
        if len(self.forgotten) >= FORGOTTEN_MAX:
            await self._settle(call, tokens)
        else:
            self.forgotten.append((call, tokens))

    def _admit(self, tokens: int) -> Admit:
        plan = self.plan
        return Admit(
            organization_id=plan.organization_id,
            call_id=uuid7_from_millis(time.time_ns() // 1_000_000, os.urandom(10)),
            node_id=self.node.id,
            epoch=self.node.epoch,
            catalogue_revision=plan.catalogue_revision,
            fixed=Nanos(tokens * TOKEN_NANOS),
            output_price=0,
            output_min=0,
            output_max=0,
            latest_end_after=timedelta(hours=2),
            dimensions=self._dimensions,
            price_id=plan.price_id,
            upstream_account_id=plan.account_id,
        )


async def storm(plan: Plan) -> Tally:
    """Be one node of the storm."""
    lanes = [PostgresBatchStore(Connector(plan.dsn, name=f"storm {n}")) for n in range(LANES)]
    bookkeeper = Bookkeeper(lanes, monotonic=time.monotonic)
    pool = await open_pool(Connector(plan.dsn, name="storm"), size=2)
    lost = asyncio.Event()
    node = Node(
        PostgresNodeStore(pool),
        node_id=uuid7_from_millis(time.time_ns() // 1_000_000, os.urandom(10)),
        name=f"storm {os.getpid()}",
        monotonic=time.monotonic,
        on_lost=lost.set,
    )
    bookkeeper.start()
    try:
        await node.start()
        process = StormProcess(plan, bookkeeper, node)

        async def late_answers() -> None:
            while True:
                await lost.wait()
                lost.clear()
                await asyncio.sleep(process.chance.uniform(0.0, 0.2))
                await process.remember()

        answers = asyncio.create_task(late_answers())
        try:
            await asyncio.sleep(max(0.0, plan.begin_at - time.time()))
            return await process.run()
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            await node.aclose()
    finally:
        await bookkeeper.aclose()
        await pool.close()


def main() -> None:
    """Run the plan that the first argument is."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    tally = asyncio.run(storm(plan))
    sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")


if __name__ == "__main__":
    main()
