"""Price plans on PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from psycopg.errors import RestrictViolation

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.ledger.commands import Refused
from farebox.rating.price_plans import OwnRow, PlanTerms
from farebox.rating.units import Lane, Unit
from farebox.storage.plan_store import load_plans
from tests.support.office import Office, open_office
from tests.support.till import Till

NOBODY = UUID(int=99)
TERMS = PlanTerms(
    markup=2_000,
    minimum_margin=500,
    own_rows=(OwnRow(models="gpt-5*", lane=Lane.FLEX, base=((Unit.INPUT, 7),)),),
    free_models=("gpt-4o-mini",),
)


async def test_a_version_comes_back_as_it_was_made(office: Office) -> None:
    """Every term is kept exactly; a node loads all plans with all versions."""
    first = await office.plans.revise(" Reseller ", TERMS)
    later = await office.tenants.now() + timedelta(days=3)
    second = await office.plans.revise("RESELLER", PlanTerms(), effective_at=later)
    other = await office.plans.revise("Other", PlanTerms(markup=-1))
    assert (first.plan_name, first.number, first.terms) == ("Reseller", 1, TERMS)
    assert (second.plan_id, second.number, second.effective_at) == (first.plan_id, 2, later)
    assert await load_plans(office.connection) == {
        first.plan_id: (first, second),
        other.plan_id: (other,),
    }
    (plan,) = await office.plan_store.plans(name="reseller", limit=9)
    assert (plan.version, plan.versions, plan.organizations) == (first, 2, 0)
    assert len(await office.plan_store.plans(after=plan.id, limit=9)) == 1


async def test_a_version_is_never_edited(office: Office) -> None:
    """The database itself refuses, and a plan does not begin in the past."""
    await office.plans.revise("Reseller", TERMS)
    for statement in (
        b"UPDATE price_plan_version SET terms = '{}'",
        b"DELETE FROM price_plan_version",
    ):
        with pytest.raises(RestrictViolation, match="never changed"):
            await office.connection.execute(statement)
    past = await office.tenants.now() - timedelta(seconds=1)
    with pytest.raises(InvalidInputError, match="effective_at"):
        await office.plans.revise("Reseller", TERMS, effective_at=past)


async def test_many_who_revise_at_once_make_one_plan(office: Office) -> None:
    """Versions count up without a gap; nobody's is lost."""
    await office.plans.revise("Reseller", TERMS)

    async def revise(markup: int) -> int:
        async with open_office(office.dsn) as other:
            return (await other.plans.revise("Reseller", PlanTerms(markup=markup))).number

    assert sorted(await asyncio.gather(*map(revise, range(8)))) == list(range(2, 10))


async def test_an_admission_that_was_rated_before_a_change_is_rated_anew(office: Office) -> None:
    """A plan that is given or revised grows the catalogue: the engine refuses older ratings."""
    till = Till()
    till.put_into_database(office.dsn)
    await office.submit(till.grant(1_000))
    stale = till.admit()
    before = await office.one("SELECT revision FROM directory")
    plan = await office.plans.revise("Reseller", TERMS)
    refused = await office.submit(stale)
    assert isinstance(refused, Refused)
    revision = await office.one("SELECT revision FROM catalogue")
    assert not isinstance(await office.submit(till.admit(catalogue_revision=revision)), Refused)
    await office.plans.assign(till.organization_id, plan.plan_id)
    assert isinstance(await office.submit(till.admit(catalogue_revision=revision)), Refused)
    assert await office.one("SELECT revision FROM directory") == before + 2
    (organization,) = await office.tenants.organizations(
        organization_id=till.organization_id, limit=1
    )
    assert (organization.plan_id, organization.plan_name) == (plan.plan_id, "Reseller")
    for organization_id, plan_id in ((NOBODY, plan.plan_id), (till.organization_id, NOBODY)):
        with pytest.raises(NotFoundError):
            await office.plans.assign(organization_id, plan_id)
