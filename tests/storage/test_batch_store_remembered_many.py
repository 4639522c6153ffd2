"""Batches of several organisations by what the lane remembers: if one changed, all are read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from farebox.ledger.commands import Admitted, AnyCommand
from tests.support.shop import Shop
from tests.support.till import Till


async def warm(shop: Shop) -> tuple[Till, Till]:
    """Two organisations with a thousand each, remembered; the first has the lower id."""
    one, two = sorted((shop.till, shop.new_till()), key=lambda till: till.organization_id.int)
    await shop.run(one.grant(1_000), two.grant(1_000))
    for _ in range(2):
        await shop.run(one.admit(1), two.admit(1))
    assert (shop.store.remembered, shop.store.surprises) == (1, 0)
    return one, two


def held(shop: Shop, till: Till) -> Any:
    """What the organisation holds by its totals and by its rows."""
    return shop.sql(
        "SELECT reserved_nanos, (SELECT sum(amount_nanos)::bigint FROM hold h"
        " WHERE h.organization_id = o.id) FROM organization o WHERE id = %s",
        till.organization_id,
    )


async def elsewhere(shop: Shop, command: AnyCommand) -> None:
    """Another process decides and commits a command."""
    other = shop.new_store()
    await other.run([command], resent=False)
    await other.aclose()


async def test_one_of_many_that_others_have_changed(shop: Shop) -> None:
    """ADR 21: of organisations that are written, one that is another version stops the batch."""
    one, two = await warm(shop)
    await elsewhere(shop, two.admit(990))
    first, second = await shop.run(one.admit(10), two.admit(10))
    assert isinstance(first, Admitted)
    assert second.code == "balance_held"
    assert shop.store.surprises == 1
    assert held(shop, one) == [(12, 12)]
    assert held(shop, two) == [(992, 992)]


async def test_one_of_many_that_is_only_refused(shop: Shop) -> None:
    """ENGINE "Promise": who is refused by what is remembered is compared too, and not written."""
    one, two = await warm(shop)
    await elsewhere(shop, two.grant(500))
    first, second = await shop.run(one.admit(10), two.admit(1_400))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert shop.store.surprises == 1


async def test_one_of_many_that_changes_while_its_lock_is_waited_for(shop: Shop) -> None:
    """ENGINE "A batch": the row is looked at again after the wait, whichever of many it is."""
    one, two = await warm(shop)
    with shop.locked(two) as other:
        waiting = asyncio.create_task(shop.run(one.admit(10), two.admit(10)))
        await shop.until_waiting()
        other.execute(
            "UPDATE organization SET active = false WHERE id = %s", (two.organization_id,)
        )
        other.commit()
        first, second = await waiting
    assert isinstance(first, Admitted)
    assert second.code == "organization_suspended"
    assert held(shop, two) == [(2, 2)]


CHANGES = {
    "stale_epoch": "UPDATE node SET epoch = epoch + 1 WHERE id = %s",
    "stale_catalogue": "UPDATE catalogue SET revision = revision + 1 WHERE %s::uuid IS NOT NULL",
}


@pytest.mark.parametrize("code", CHANGES)
async def test_what_many_share_is_compared(shop: Shop, code: str) -> None:
    """ADR 21: nodes' epochs and the prices' revision, for batches of many as for one."""
    one, two = await warm(shop)
    shop.sql(CHANGES[code], two.node_id)
    _, second = await shop.run(one.admit(10), two.admit(10))
    assert second.code == code
    assert shop.store.surprises == 1


async def test_the_time_of_many_is_the_databases(shop: Shop) -> None:
    """ENGINE "Time": a clock that has moved since the lane heard of it is asked again."""
    one, two = await warm(shop)
    shop.sql("UPDATE deployment SET sandbox = true, clock_offset = '2 s'")
    first, _ = await shop.run(one.admit(10), two.admit(10))
    assert shop.store.surprises == 1
    ((now,),) = shop.sql("SELECT farebox_now()")
    assert (now - first.admitted_at).total_seconds() < 2.0


async def test_many_are_locked_in_the_order_of_their_ids(shop: Shop) -> None:
    """ENGINE "A batch": whoever waits for one holds none of a higher id, however they came."""
    one, two = await warm(shop)
    with shop.locked(one) as other:
        waiting = asyncio.create_task(shop.run(two.admit(10), one.admit(10)))
        await shop.until_waiting()
        shop.sql(
            "SELECT FROM organization WHERE id = %s FOR NO KEY UPDATE NOWAIT", two.organization_id
        )
        other.rollback()
        assert all(isinstance(result, Admitted) for result in await waiting)
    assert (shop.store.remembered, shop.store.surprises) == (2, 0)
