"""Tiers on PostgreSQL."""

from __future__ import annotations

from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.money import Nanos
from farebox.ledger.commands import Dispute, DisputeStep, Refund
from farebox.ledger.grants import Source
from farebox.tenancy.tiers import Tier, TierRate
from tests.support.office import Office
from tests.support.till import Till, new_id

BUILD = Tier(
    id=UUID(int=1),
    currency="USD",
    position=1,
    name="Build",
    purchases=Nanos(5),
    age_days=7,
    monthly_maximum=Nanos(500),
    balance_maximum=Nanos(100),
    recharge_maximum=Nanos(50),
    rates=(TierRate(models="gpt-5*", calls_per_minute=5, tokens_per_day=9),),
)


async def test_a_tier_comes_back_as_it_was_put(office: Office) -> None:
    """Every bound and rate is kept; a change is of the whole row."""
    assert await office.tier_store.put_tier(BUILD) == BUILD
    euros = Tier(id=UUID(int=2), currency="EUR", position=1, name="build")
    await office.tier_store.put_tier(euros)
    assert await office.tier_store.tiers() == [euros, BUILD]
    changed = Tier(id=BUILD.id, currency="USD", position=3, name="Built")
    await office.tier_store.put_tier(changed)
    assert await office.tier_store.tiers(currency="USD") == [changed]
    clash = Tier(id=UUID(int=3), currency="USD", position=3, name="Other")
    with pytest.raises(ConflictError, match="position 3"):
        await office.tier_store.put_tier(clash)
    await office.tier_store.remove_tier(BUILD.id)
    with pytest.raises(NotFoundError):
        await office.tier_store.remove_tier(BUILD.id)
    assert await office.actions() == [
        "tier.created",
        *["tier.created", "tier.changed"],
        "tier.removed",
    ]


async def test_purchases_are_what_was_paid_for(office: Office) -> None:
    """LIM-05: purchased, business and contract credit less refunds; nothing given, nothing lost."""
    till = Till()
    till.put_into_database(office.dsn)
    kept = till.grant(100)
    lost = till.grant(1_000)
    gifts = [till.grant(10_000, Source.FREE), till.grant(10_000, Source.PROMO)]
    for command in (kept, lost, till.grant(40, Source.BUSINESS), *gifts):
        await office.submit(command)
    await office.submit(
        Refund(
            organization_id=till.organization_id,
            command_id=new_id(),
            grant_id=kept.grant_id,
            amount=Nanos(30),
            note="billing_error",
        )
    )
    for step in (DisputeStep.OPENED, DisputeStep.LOST):
        await office.submit(
            Dispute(organization_id=till.organization_id, grant_id=lost.grant_id, step=step)
        )
    (facts,) = await office.tier_store.facts(organization_id=till.organization_id, limit=1)
    assert facts.record.purchased == 110
    assert (facts.tier_id, facts.fixed, facts.record.currency) == (None, False, "USD")


async def test_an_assignment_is_written_under_the_organisations_lock(office: Office) -> None:
    """It is noted with what stood before; a tier with organisations in it stays."""
    organization = await office.organization()
    await office.tier_store.put_tier(BUILD)
    await office.tier_store.assign(organization.id, BUILD.id, fixed=True)
    (facts,) = await office.tier_store.facts(limit=9)
    assert (facts.tier_id, facts.fixed) == (BUILD.id, True)
    with pytest.raises(RefusedError) as caught:
        await office.tier_store.remove_tier(BUILD.id)
    assert caught.value.reason == "tier_in_use"
    await office.tier_store.assign(organization.id, None, fixed=False)
    assert (await office.tier_store.facts(limit=9))[0].tier_id is None
    last, first = await office.log.events(action="organization.tier_assigned", limit=9)
    assert (first.before, first.after) == (
        '{"fixed":false,"tier":null}',
        '{"fixed":true,"tier":"Build"}',
    )
    assert last.before == first.after
    with pytest.raises(NotFoundError):
        await office.tier_store.assign(UUID(int=99), BUILD.id, fixed=True)
