"""Thresholds on real PostgreSQL: each once per window, under traffic, restarts and replays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.ledger.commands import Admitted, Attribution, Closed, SetLimit
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.shop import Shop
from tests.support.till import Till

THRESHOLDS = (50, 80, 100)
CALLS = 40


async def limited(shop: Shop, **which: Any) -> Till:
    """Money, and a budget of four hundred nanos, ten for each of forty calls."""
    till = shop.till
    command = SetLimit(
        organization_id=till.organization_id,
        maximum=which.pop("maximum", 400),
        **({"period": Period.MONTH, "thresholds": THRESHOLDS} | which),
    )
    await shop.run(till.grant(10**9))
    await shop.run(command)
    return till


async def traffic(shops: list[Shop], till: Till, *, calls: int = CALLS) -> None:
    """So many calls, through several gateways at once."""

    async def one_by_one(shop: Shop, count: int) -> None:
        for _ in range(count):
            call = till.admit(10, attribution=Attribution(user="ada"))
            assert isinstance(await shop.run(call), Admitted)
            settle = till.settle(call, 10)
            assert isinstance(await shop.run(settle), Closed)
            await shop.run(settle, resent=True)

    await asyncio.gather(*(one_by_one(shop, calls // len(shops)) for shop in shops))


def told(shop: Shop) -> list[tuple[str, str]]:
    """What was told, in order: the window's month and the percentage."""
    rows = shop.sql("SELECT facts FROM outbox WHERE kind = 'limit_threshold' ORDER BY id")
    return [(facts["window_start"][:7], facts["percent"]) for (facts,) in rows]


@pytest.mark.parametrize(
    "which",
    [
        {},
        {"effect": Effect.ALERT},
        {"scope_kind": ScopeKind.USER, "scope_ref": "ada"},
        {"scope_kind": ScopeKind.USER},
        {"measure": Measure.CALLS, "maximum": CALLS, "period": Period.TOTAL},
    ],
)
async def test_each_threshold_is_told_once_under_concurrent_traffic_and_restarts(
    shop: Shop, which: dict[str, Any]
) -> None:
    """BUD-06, BUD-07: four gateways at once, every settlement sent twice, new processes halfway."""
    till = await limited(shop, **which)
    for _ in range(2):
        gateways = [Shop.of(shop.dsn) for _ in range(4)]
        await traffic(gateways, till, calls=CALLS // 2)
        for gateway in gateways:
            await gateway.store.aclose()
    assert [percent for _, percent in told(shop)] == ["50", "80", "100"]


async def test_the_next_window_tells_anew(shop: Shop) -> None:
    """BUD-07: once per period: the clock passes into the next month, and nothing is told twice."""
    shop.sql(
        "UPDATE deployment SET clock_offset = %s - clock_timestamp()",
        datetime(2040, 3, 31, 23, tzinfo=UTC),
    )
    till = await limited(shop, effect=Effect.ALERT)
    await traffic([shop], till)
    shop.sql("UPDATE deployment SET clock_offset = clock_offset + %s", timedelta(hours=2))
    await traffic([shop], till, calls=CALLS * 3 // 4)
    assert told(shop) == [
        *(("2040-03", percent) for percent in ("50", "80", "100")),
        ("2040-04", "50"),
    ]
