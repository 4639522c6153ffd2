"""New customers, made whole or not at all."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, FareboxError, RefusedError
from farebox.operations.provisioning import Order, provision, sign_up
from farebox.rating.price_plans import PlanTerms
from farebox.tenancy.permissions import Role
from tests.support.office import Office


async def test_an_order_makes_all_of_it(office: Office) -> None:
    """Organisation, plan, the usual projects, and an invitation for the owner."""
    plan = await office.plans.revise("Reseller", PlanTerms(markup=2_000))
    order = Order(
        name="Acme",
        owner_email="ada@example.org",
        currency="EUR",
        zone="Europe/Berlin",
        plan_id=plan.plan_id,
        split=True,
        organization_id=UUID(int=42),
    )
    made = await provision(office.administration, office.people, order)
    assert made.organization.id == UUID(int=42)
    assert (made.organization.currency, made.organization.plan_name) == ("EUR", "Reseller")
    environments = {project.name: project.environment for project in made.projects}
    assert environments == {
        "testing": "test",
        "production": "production",
        "customer project": "production",
        "internal tool": "production",
    }
    assert all(project.purpose for project in made.projects)
    member = await office.people.accept_new(made.invitation.token, "hash")
    assert (member.organization_id, member.role) == (made.organization.id, Role.OWNER)


@pytest.mark.parametrize(
    "wrong",
    [{"owner_email": "nobody"}, {"plan_id": UUID(int=9)}, {"zone": "Mars"}, {"name": "Taken"}],
)
async def test_a_wrong_order_makes_nothing(office: Office, wrong: dict[str, Any]) -> None:
    """One wrong field, and neither the organisation nor any event is there."""
    await office.organization("Taken")
    values: dict[str, Any] = {"name": "Acme", "owner_email": "ada@example.org", "split": True}
    with pytest.raises(FareboxError):
        await provision(office.administration, office.people, Order(**(values | wrong)))
    assert [each.name for each in await office.tenants.organizations(limit=9)] == ["Taken"]
    assert await office.actions() == ["organization.created"]


async def test_nobody_signs_up_unless_an_operator_lets_them(office: Office) -> None:
    """Self sign-up is off by default; on, a stranger gets an organisation of their own alone."""

    async def come(email: str, name: str) -> Any:
        return await sign_up(
            office.administration,
            office.people,
            office.people_store,
            email=email,
            password_hash="hash",
            organization_name=name,
        )

    with pytest.raises(RefusedError) as caught:
        await come("eve@example.org", "Eve's")
    assert caught.value.reason == "sign_up_is_off"
    await office.people_store.allow_sign_up(allowed=True)
    eve = await come("eve@example.org", "Eve's")
    assert (eve.member.role, eve.user.operator) == (Role.OWNER, False)
    assert await office.people_store.members(user_id=eve.user.id, limit=9) == [eve.member]
    with pytest.raises(ConflictError):
        await come("EVE@example.org", "Another")
    assert len(await office.tenants.organizations(limit=9)) == 1
