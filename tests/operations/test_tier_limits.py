"""A tier's limits belong to the tier."""

from __future__ import annotations

import pytest
from msgspec import structs

from farebox.kit.errors import RefusedError
from farebox.kit.money import Nanos
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.audited_money import audited
from farebox.operations.tier_limits import OWNER, refuse_reserved, tier_limits
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
        (Measure.MONEY, Period.MONTH, "*", 500),
        (Measure.CALLS, Period.MINUTE, "gpt-5*", 5),
        (Measure.TOKENS, Period.UTC_DAY, "gpt-5*", 9),
    ]
    assert {command.owner for command in commands} == {f"{OWNER}Build"}
    assert {command.scope_kind for command in commands} == {ScopeKind.ORGANIZATION}


@pytest.mark.parametrize("changes", [{"models": "*"}, {"owner": "tier Grow"}])
async def test_nobody_poses_as_a_tier(office: Office, changes: dict[str, str]) -> None:
    """What is a tier's by its form is refused at every door, before anything is noted."""
    till = Till()
    till.put_into_database(office.dsn)
    command = structs.replace(RATE, organization_id=till.organization_id, **changes)
    with pytest.raises(RefusedError) as caught:
        await audited(office.log, office.submit, command)
    assert caught.value.reason == "limit_is_the_tiers"
    assert await office.actions() == []
    assert await office.tier_store.limits(till.organization_id) == ()


async def test_a_tiers_limit_is_not_raised_or_removed_by_hand(office: Office) -> None:
    """LIM-06: of the organisation; a project may have the same limit for itself."""
    till = Till()
    till.put_into_database(office.dsn)
    mine = structs.replace(RATE, organization_id=till.organization_id)
    refuse_reserved(mine, await office.tier_store.limits(till.organization_id))
    for command in tier_limits(till.organization_id, BUILD):
        await office.submit(command)
    standing = await office.tier_store.limits(till.organization_id)
    for maximum in (10, None):
        with pytest.raises(RefusedError, match="usage tier"):
            refuse_reserved(structs.replace(mine, maximum=maximum), standing)
    refuse_reserved(structs.replace(mine, models="gpt-4*"), standing)
    refuse_reserved(
        structs.replace(mine, scope_kind=ScopeKind.PROJECT, scope_ref=till.project_id.hex), standing
    )
