"""The price of an answer: the lane it reports, an answer for every doubt, never another's price."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.gateway.http import Answer
from farebox.gateway.pricing import price, tier_of
from farebox.gateway.sales import Offer
from farebox.rating.price_book import PriceBook, PriceVersion
from farebox.rating.price_plans import PlanTerms, PlanVersion, planned_version
from farebox.rating.units import Lane, Unit
from farebox.rating.usage import Usage
from farebox.tenancy.api_keys import digest
from tests.support.scripted_upstream import ScriptedResponse, usage, whole
from tests.support.small_gateway import (
    FACTS,
    KEY,
    NOW,
    ORGANIZATION,
    PROVIDER_ROW,
    VERSIONS,
    SmallGateway,
    key_row,
    version,
)

STANDARD, FLEX, PRIORITY = VERSIONS[:3]
USAGE = Usage.of({Unit.INPUT: 10, Unit.CACHED_INPUT: 4, Unit.OUTPUT: 5}, reasoning_tokens=2)


@dataclass
class Book:
    """A catalogue of prices alone."""

    prices: PriceBook
    revision: int = 1
    providers: tuple[Any, ...] = ()
    plans: Mapping[UUID, tuple[PlanVersion, ...]] = field(default_factory=dict)


BOOK = Book(PriceBook(VERSIONS, (FACTS,), revision=1))


def offer(*versions: PriceVersion) -> Offer:
    """What was held."""
    upstream: Any = None
    return Offer(
        provider=PROVIDER_ROW,
        upstream=upstream,
        model="gpt-5.4",
        facts=FACTS,
        versions=versions,
        books=versions,
        plan=None,
        names_tier=True,
        at=NOW,
        revision=1,
    )


@pytest.mark.parametrize(
    ("held", "reported", "lane", "estimated"),
    [
        ((STANDARD,), None, "standard", False),
        ((STANDARD,), "default", "standard", False),
        ((STANDARD,), "flex", "flex", False),
        ((STANDARD,), "priority", "priority", False),
        ((STANDARD,), "turbo", "standard", True),
        ((FLEX,), None, "flex", False),
        ((FLEX,), "default", "standard", False),
        ((FLEX,), "", "flex", True),
        ((STANDARD, PRIORITY), "default", "standard", False),
        ((STANDARD, PRIORITY), "priority", "priority", False),
        ((STANDARD, PRIORITY), None, "priority", True),
        ((STANDARD, FLEX, PRIORITY), "turbo", "priority", True),
    ],
)
def test_the_lane(
    held: tuple[PriceVersion, ...], reported: str | None, lane: str, estimated: bool
) -> None:
    """DED-13: the lane that served; where it is not told among several, the dearest, marked."""
    priced = price(offer(*held), BOOK, USAGE, reported)
    factor = {"standard": 2, "flex": 1, "priority": 4}[lane]
    assert priced.total == (10 * 2_500 + 4 * 250 + 5 * 15_000) * factor // 2
    assert (priced.lane, priced.estimated) == (lane, estimated)
    assert sum(line.amount for line in priced.lines) == priced.total
    assert priced.reason == ("unknown_service_tier" if estimated else "")


def test_the_counts() -> None:
    """The rollups' counts include their subsets."""
    counts = price(offer(STANDARD), BOOK, USAGE, None).counts
    assert (counts.input_tokens, counts.cached_tokens) == (14, 4)
    assert (counts.output_tokens, counts.reasoning_tokens) == (5, 2)


def test_the_version_that_was_held() -> None:
    """DED-07: a newer version of a lane does not touch a call that was admitted before it."""
    dearer = version(9, Lane.STANDARD, 200)
    newer = PriceVersion(
        id=UUID(int=999),
        provider=dearer.provider,
        model=dearer.model,
        lane=dearer.lane,
        currency=dearer.currency,
        effective_at=NOW - timedelta(hours=1),
        source="test",
        long_context_over=dearer.long_context_over,
        base=dearer.base,
        long=dearer.long,
    )
    book = Book(PriceBook((*VERSIONS, newer), (FACTS,), revision=2))
    assert price(offer(STANDARD), book, USAGE, "default").price_id == STANDARD.id


def test_a_lane_without_a_price() -> None:
    """A lane that nobody priced is charged at the dearest held, never at nothing."""
    book = Book(PriceBook((STANDARD,), (FACTS,), revision=1))
    priced = price(offer(STANDARD), book, USAGE, "flex")
    assert (priced.price_id, priced.estimated) == (STANDARD.id, True)


def test_a_unit_without_a_price() -> None:
    """A unit that the version does not price is charged at the dearest of its direction."""
    priced = price(offer(STANDARD), BOOK, Usage.of({Unit.AUDIO_OUTPUT: 3}), None)
    assert (priced.total, priced.estimated, priced.reason) == (3 * 15_000, True, "unpriced_unit")


@pytest.mark.parametrize(
    ("reported", "tier"), [(None, None), ("flex", "flex"), (5, "5"), ([], "[]"), (True, "True")]
)
def test_what_an_answer_reports(reported: object, tier: str | None) -> None:
    """A value of another kind is an unknown tier, not none."""
    assert tier_of(reported) == tier


PLAN = PlanVersion(
    id=UUID(int=71),
    plan_id=UUID(int=70),
    plan_name="reseller",
    number=1,
    effective_at=NOW - timedelta(days=1),
    terms=PlanTerms(markup=2_000, free_models=("gpt-standard-only",)),
)


@pytest.mark.parametrize("reported", ["default", "flex", "priority", None, "turbo"])
def test_a_plan_charges_its_prices_and_costs_ours(reported: str | None) -> None:
    """DESIGN 16: the customer pays the plan's price of the lane that served, we the book's."""
    planned = planned_version(STANDARD, PLAN)
    held = structs.replace(offer(STANDARD), versions=(planned,), plan=PLAN)
    priced = price(held, BOOK, USAGE, reported)
    plain = price(offer(STANDARD), BOOK, USAGE, reported)
    assert (priced.cost, plain.cost) == (plain.total, plain.total)
    assert priced.total * 10 == plain.total * 12
    assert priced.price_id != plain.price_id
    assert (priced.lane, priced.estimated) == (plain.lane, plain.estimated)


async def test_a_planned_price_is_written_down_whoever_else_writes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DESIGN promise 3: two calls write one price, a third brings another: none is forgotten."""
    written: list[UUID] = []
    go_on = asyncio.Event()

    async def remember(prices: Sequence[tuple[UUID, UUID, UUID]]) -> None:
        await go_on.wait()
        written.extend(planned for planned, _, _ in prices)

    async with SmallGateway(lambda _: ScriptedResponse((whole(usage(10, 5)),))) as small:
        monkeypatch.setattr(small.directory, "remember_planned", remember)
        first, second = UUID(int=1), UUID(int=2)
        small.sales._planned_new[first] = (first, STANDARD.id, PLAN.id)
        both = asyncio.gather(small.sales.remember(), small.sales.remember())
        await asyncio.sleep(0)
        small.sales._planned_new[second] = (second, STANDARD.id, PLAN.id)
        go_on.set()
        await both
        await small.sales.remember()
        assert set(written) == {first, second}


async def test_an_organization_is_rated_by_its_plan() -> None:
    """DESIGN 16: hold, charge and price version are the plan's, the cost is the book's; its price
    is written down so that the call can be explained.
    """
    plan_id = PLAN.plan_id
    async with SmallGateway(lambda _: ScriptedResponse((whole(usage(10, 5)),))) as small:
        small.directory.plans = {plan_id: (PLAN,)}
        await small.call()
        # The plan is given while this node still keeps the key without it: the engine knows better.
        small.directory.keys = {digest(KEY): key_row(plan_id=plan_id)}
        small.ledger.organizations[ORGANIZATION].plan_id = plan_id
        small.directory.revision = small.ledger.catalogue_revision = 2
        answer = await small.call()
        assert isinstance(answer, Answer)
        assert answer.status == 200, answer.body
        book = 10 * 2_500 + 5 * 15_000
        assert [(call.charge, call.cost) for call in small.calls] == [
            (book, book),
            (book * 12 // 10, book),
        ]
        assert (planned_version(STANDARD, PLAN).id, STANDARD.id, PLAN.id) in small.directory.planned
        # Taken away likewise, from the next call on.
        small.directory.keys = {digest(KEY): key_row()}
        small.ledger.organizations[ORGANIZATION].plan_id = None
        answer = await small.call()
        assert isinstance(answer, Answer)
        assert dict(answer.headers)["x-farebox-charge"] == "0.0001"
