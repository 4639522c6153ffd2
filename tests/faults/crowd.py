"""Many HTTP clients at once on several gateways, against one dollar."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.rating.ceiling import LINES_MAX
from tests.faults.traffic import Clients, Outcome, pace, prompt_bound, usage
from tests.support.processes import Customer, Installation

DOLLAR = Nanos(NANOS_PER_UNIT)

TOKENS_MIN, TOKENS_MAX = 610, 1_580
"""Output limits that make a ceiling of 2 to 5 cents."""

REFUSALS = frozenset(
    {
        "balance_held",
        "credit_balance_exhausted",
        "credit_balance_expired",
        "credit_balance_negative",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "key_spend_limit_exceeded",
    }
)

UNAVAILABLE_SECONDS = 0.5

CALLS_EACH = 3
"""Of a client that does anything, whatever becomes of them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What an organisation may spend, and by what."""

    floor: int = 0
    limit: int | None = None

    @property
    def nanos(self) -> int:
        """All that may be charged, with a dollar of credit."""
        return min(DOLLAR + self.floor, self.limit if self.limit is not None else 10 * DOLLAR)


class Crowd:
    """Many clients at once on some gateways."""

    def __init__(
        self, clients: Clients, urls: list[str], chance: random.Random, latencies_ms: Sequence[int]
    ) -> None:
        self.insists = True
        """Call again where there was no decision."""
        self.latencies_ms = latencies_ms
        self.clients = clients
        self.urls = urls
        self.chance = chance
        self.outcomes: list[Outcome] = []

    async def gather(self, kind: str, calls: int) -> None:
        """So many clients of one kind, at once."""
        await asyncio.gather(*(self.one(number, kind) for number in range(calls)))

    async def call(self, number: int, share: float, fault: str = "") -> Outcome:
        """One call of 2 to 5 cents that uses a share of its ceiling; every other is a stream."""
        stream = number % 2 == 0
        tokens = self.chance.randint(TOKENS_MIN, TOKENS_MAX)
        orders = usage(
            int(prompt_bound(tokens, stream=stream) * share), max(1, int(tokens * share))
        )
        if fault:
            orders["x-sandbox-usage"] = f"prompt={prompt_bound(tokens, stream=stream)}"
            orders["x-sandbox-fault"] = fault
        orders |= pace(head_ms=self.chance.choice(self.latencies_ms))
        url = self.urls[number // 2 % len(self.urls)]
        while True:
            outcome = await self.clients.call(url, tokens, stream=stream, directives=orders)
            self.outcomes.append(outcome)
            if outcome.code != "billing_unavailable" or not self.insists:
                return outcome
            # No decision at all: a machine with too much to do may let a call wait too long.
            await asyncio.sleep(UNAVAILABLE_SECONDS)

    async def one(self, number: int, kind: str) -> None:
        """What one client does."""
        match kind:
            case "exact":
                await self.call(number, 1.0)
            case "overrun":
                await self.call(number, 1.0, "overrun=300")
            case "cheap":
                await self.persist(number, 0.3)
            case "anything":
                for _ in range(CALLS_EACH):
                    fault = self.chance.choice(("", "", "overrun=300"))
                    await self.call(number, self.chance.choice((0.1, 0.5, 1.0)), fault)
            case _:
                raise AssertionError(kind)

    async def persist(self, number: int, share: float) -> None:
        """Call again for as long as only holds stand in the way, or the call was answered."""
        while True:
            outcome = await self.call(number, share)
            if not outcome.is_whole and outcome.code != "balance_held":
                return

    def charged(self) -> int:
        """What the clients were told that they were charged."""
        return sum(outcome.charge or 0 for outcome in self.outcomes)

    def codes(self) -> Counter[str]:
        """How the calls ended."""
        return Counter("whole" if o.is_whole else f"{o.status} {o.code}" for o in self.outcomes)

    def whole(self) -> dict[UUID, Nanos]:
        """The charges of all answers that came whole."""
        return {o.call_id: o.charge for o in self.outcomes if o.call_id and o.charge is not None}

    def refused(self) -> int:
        """How many were refused for lack of money."""
        return sum(o.status == 429 and o.code in REFUSALS for o in self.outcomes)


async def judge_refusals(
    installed: Installation, customer: Customer, crowd: Crowd, *, lowest_floor: int
) -> list[int]:
    """Nobody was refused who fitted, by the figures of the decision; gives the refused ceilings."""
    await installed.until(
        "SELECT coalesce(sum(times), 0) = %s FROM refusal WHERE organization_id = %s"
        " AND code = ANY(%s)",
        crowd.refused(),
        customer.organization_id,
        list(REFUSALS),
    )
    rows = await installed.rows(
        "SELECT code, needed_nanos, available_nanos, limit_figures FROM refusal"
        " WHERE organization_id = %s AND code = ANY(%s)",
        customer.organization_id,
        list(REFUSALS),
    )
    for code, needed, available, figures in rows:
        if figures is not None and not code.startswith("credit_balance"):
            assert figures["used"] + figures["held"] + needed > figures["maximum"]
        else:
            assert needed > available + lowest_floor
    return [row[1] for row in rows]


async def judge_budget(
    installed: Installation, customer: Customer, budget: Budget, crowd: Crowd, kind: str
) -> None:
    """Everybody was answered or refused rightly, and the money is spent to less than a ceiling."""
    kinds = {(outcome.status, outcome.code) for outcome in crowd.outcomes}
    right = {(200, ""), (503, "billing_unavailable"), *((429, code) for code in REFUSALS)}
    assert kinds <= right, crowd.codes()
    ((spent, absorbed),) = await installed.rows(
        "SELECT spent_nanos, absorbed_nanos FROM organization WHERE id = %s",
        customer.organization_id,
    )
    assert spent == crowd.charged()
    refused = await judge_refusals(installed, customer, crowd, lowest_floor=budget.floor)
    # A ceiling has a nano to spare for each line that may round; that is what comes back.
    spare = LINES_MAX * crowd.codes()["whole"]
    assert 0 <= budget.nanos - spent < min(refused) + spare
    assert (absorbed > 0) == (kind == "overrun")
