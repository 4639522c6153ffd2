"""What somebody may do, as a door finds it out."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from farebox.kit.errors import NotFoundError, RefusedError
from farebox.storage.standing_store import management_key_standing, user_standing
from farebox.tenancy.actors import ActorKind, Door, Via
from farebox.tenancy.api_keys import digest
from farebox.tenancy.permissions import Action, Role
from tests.support.office import Office

VIA = Via(door=Door.API, address="192.0.2.1", request_id="r9")


async def test_a_person_has_their_roles(office: Office) -> None:
    """ORG-01: a role here, another there, none elsewhere; the actor says from where they came."""
    here, there = await office.organization(), await office.organization("Other")
    ada = await office.user()
    await office.people_store.insert_member(here.id, ada.id, Role.OWNER)
    await office.people_store.insert_member(there.id, ada.id, Role.VIEWER)
    standing = await user_standing(office.connection, ada.id, VIA)
    assert standing is not None
    assert standing.roles == {here.id: Role.OWNER, there.id: Role.VIEWER}
    assert not standing.operator
    assert standing.may(Action.MEMBERS_CHANGE, here.id)
    assert not standing.may(Action.MEMBERS_CHANGE, there.id)
    actor = standing.actor
    assert (actor.kind, actor.id, actor.name) == (ActorKind.USER, f"user_{ada.id.hex}", ada.email)
    assert (actor.door, actor.address, actor.request_id) == (Door.API, "192.0.2.1", "r9")


async def test_a_closed_login_has_no_standing(office: Office) -> None:
    """Nor has somebody who is not there."""
    await office.user("boss", operator=True)
    ada = await office.user(operator=True)
    standing = await user_standing(office.connection, ada.id, VIA)
    assert standing is not None
    assert standing.operator
    await office.people_store.disable_user(ada.id)
    assert await user_standing(office.connection, ada.id, VIA) is None
    assert await user_standing(office.connection, UUID(int=99), VIA) is None


async def test_a_management_key_of_an_organisation_is_a_member_of_it_alone(office: Office) -> None:
    """It has its role there, and is a stranger everywhere else."""
    here, there = await office.organization(), await office.organization("Other")
    key = await office.administration.create_management_key(
        "ci", organization_id=here.id, role=Role.DEVELOPER
    )
    standing = await management_key_standing(office.connection, digest(key.text), VIA)
    assert standing is not None
    assert (standing.operator, standing.roles) == (False, {here.id: Role.DEVELOPER})
    assert standing.actor.kind is ActorKind.MANAGEMENT_KEY
    standing.require(Action.KEYS_CHANGE, here.id)
    with pytest.raises(RefusedError):
        standing.require(Action.CREDIT_GRANT, here.id)
    with pytest.raises(NotFoundError):
        standing.require(Action.KEYS_VIEW, there.id)


async def test_a_management_key_of_the_deployment_is_an_operator_until_it_ends(
    office: Office,
) -> None:
    """Revoked and expired ones open nothing; a key for models never did."""
    made = office.administration.create_management_key
    revoked, wide = await made("a"), await made("b")
    ends = await office.tenants.now() + timedelta(hours=1)
    expiring = await made("c", expires_at=ends)
    await office.administration.revoke_management_key(revoked.id)
    for key, opens in ((revoked, False), (wide, True), (expiring, True)):
        standing = await management_key_standing(office.connection, digest(key.text), VIA)
        assert (standing is not None and standing.operator) is opens
    await office.connection.execute("UPDATE deployment SET clock_offset = '1 hour'")
    assert await management_key_standing(office.connection, digest(expiring.text), VIA) is None
    organization = await office.organization()
    project = await office.project(organization)
    model_key = await office.administration.create_key("k", project.id)
    assert await management_key_standing(office.connection, digest(model_key.text), VIA) is None
