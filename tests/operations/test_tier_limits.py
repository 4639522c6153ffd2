"""A tier's limits belong to the tier."""

from __future__ import annotations

import pytest
from msgspec import structs

from farebox.kit.errors import RefusedError
from farebox.kit.money import Nanos
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.audited_money import audited
from farebox.operations.tier_limits import limit_changes, tier_limits
from farebox.tenancy.tiers import Tier, TierRate
from tests.support.office import Office
from tests.support.till import Till, new_id

ORG = new_id()
BUILD = Tier(
    id=new_id(),
    currency="USD",
    position=0,
    name="Build",
    monthly_maximum=Nanos(500),
    rates=(TierRate(models="gpt-5*", calls_per_minute=5, tokens_per_day=9),),
)
RATE = SetLimit(
    organization_id=ORG,
    measure=Measure.CALLS,
    period=Period.MINUTE,
    models="gpt-5*",
    maximum=10,
)


def test_a_tier_is_a_few_limits_of_the_organisation() -> None:
    """LIM-05: a month of money and windows of rates, each with the tier as its owner."""
    commands = list(tier_limits(ORG, BUILD))
    assert [(c.measure, c.period, c.models, c.maximum) for c in commands] == [
        (Measure.MONEY, Period.MONTH, "", 500),
        (Measure.CALLS, Period.MINUTE, "gpt-5*", 5),
        (Measure.TOKENS, Period.UTC_DAY, "gpt-5*", 9),
    ]
    assert {(c.origin, c.owner) for c in commands} == {(Origin.TIER, "tier Build")}
    assert {command.scope_kind for command in commands} == {ScopeKind.ORGANIZATION}


async def test_nobody_poses_as_a_tier(office: Office) -> None:
    """LIM-05: what says of itself that it is a tier's is refused, before anything is noted."""
    till = Till()
    till.put_into_database(office.dsn)
    mine = structs.replace(RATE, organization_id=till.organization_id, origin=Origin.TIER)
    for command in (mine, structs.replace(mine, maximum=None)):
        with pytest.raises(RefusedError, match="usage tier") as caught:
            await audited(office.log, office.submit, command)
        assert caught.value.reason == "limit_is_the_tiers"
    assert await office.actions() == []
    assert await office.tier_store.limits(till.organization_id) == ()


async def test_a_limit_of_ones_own_stands_beside_the_tiers(office: Office) -> None:
    """LIM-06: on the same scope, window and models; either is set and removed without the other."""
    till = Till()
    till.put_into_database(office.dsn)
    budget = SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=400)
    mine = [structs.replace(RATE, organization_id=till.organization_id), budget]
    for command in (*tier_limits(till.organization_id, BUILD), *mine):
        await office.submit(command)

    async def standing() -> dict[tuple[Measure, Origin], int]:
        limits = await office.tier_store.limits(till.organization_id)
        return {(each.rule.measure, each.rule.origin): each.maximum for each in limits}

    before = await standing()
    assert before == {
        (Measure.MONEY, Origin.TIER): 500,
        (Measure.CALLS, Origin.TIER): 5,
        (Measure.TOKENS, Origin.TIER): 9,
        (Measure.CALLS, Origin.MANUAL): 10,
        (Measure.MONEY, Origin.MANUAL): 400,
    }
    higher = structs.replace(BUILD, name="Grow", monthly_maximum=Nanos(900), rates=())
    limits = await office.tier_store.limits(till.organization_id)
    for command in limit_changes(till.organization_id, higher, limits):
        await office.submit(command)
    assert await standing() == {
        (Measure.MONEY, Origin.TIER): 900,
        (Measure.CALLS, Origin.MANUAL): 10,
        (Measure.MONEY, Origin.MANUAL): 400,
    }
