"""Keys and their owners: what is checked before anything is written."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.tenancy.api_keys import KeyKind, KeyState, kind_of
from farebox.tenancy.permissions import Role
from tests.support.office import Office


async def test_a_key_has_one_owner_or_none(office: Office) -> None:
    """ORG-18: a service account or a member; both are refused, strangers too."""
    organization = await office.organization()
    project = await office.project(organization)
    account = await office.administration.create_service_account("job", project.id)
    ada = await office.user()
    create = office.administration.create_key
    with pytest.raises(InvalidInputError, match="user_id"):
        await create("k", project.id, service_account_id=account.id, user_id=ada.id)
    with pytest.raises(NotFoundError, match="member"):
        await create("k", project.id, user_id=ada.id)
    await office.people_store.insert_member(organization.id, ada.id, Role.DEVELOPER)
    owned = await create("k", project.id, user_id=ada.id)
    (key,) = await office.tenants.keys(key_id=owned.id, limit=1)
    assert (key.user_email, key.service_account_id) == (ada.email, None)


async def test_a_management_key_says_what_it_manages(office: Office) -> None:
    """The deployment, or one organisation as an owner unless another role is named."""
    organization = await office.organization()
    create = office.administration.create_management_key
    wide = await create("ops")
    narrow = await create("ci", organization_id=organization.id)
    viewer = await create("ro", organization_id=organization.id, role=Role.VIEWER)
    assert {kind_of(key.text) for key in (wide, narrow, viewer)} == {KeyKind.ADMIN}
    listed = await office.tenants.management_keys(limit=9)
    assert [(key.organization_id, key.role) for key in listed] == [
        (None, None),
        (organization.id, Role.OWNER),
        (organization.id, Role.VIEWER),
    ]
    own = await office.tenants.management_keys(organization_id=organization.id, limit=9)
    assert [key.id for key in own] == [narrow.id, viewer.id]
    with pytest.raises(InvalidInputError, match="role"):
        await create("x", role=Role.OWNER)
    with pytest.raises(NotFoundError):
        await create("x", organization_id=UUID(int=99))
    with pytest.raises(InvalidInputError, match="expires_at"):
        await create("x", expires_at=await office.tenants.now())


async def test_a_management_key_ends(office: Office) -> None:
    """At its instant, or when it is revoked; by id or name, the one that stands is meant."""
    now = await office.tenants.now()
    administration = office.administration
    made = await administration.create_management_key("ci", expires_at=now + timedelta(days=1))
    key = await administration.find_management_key("CI")
    assert key.id == made.id
    assert key.state_at(now) is KeyState.ACTIVE
    assert key.state_at(now + timedelta(days=1)) is KeyState.EXPIRED
    second = await administration.create_management_key("ci")
    with pytest.raises(InvalidInputError, match=second.prefix):
        await administration.find_management_key("ci")
    first = await administration.revoke_management_key(made.id)
    assert await administration.revoke_management_key(made.id) == first
    assert (await administration.find_management_key("ci")).id == second.id
    found = await administration.find_management_key(format_id("key", made.id))
    assert found.state_at(now) is KeyState.REVOKED
    for missing in (
        administration.find_management_key("other"),
        administration.revoke_management_key(UUID(int=99)),
    ):
        with pytest.raises(NotFoundError):
            await missing


async def test_a_key_is_found_within_its_organisation(office: Office) -> None:
    """ORG-03: another organisation's key of that name is not meant, nor found by its id."""
    here, there = await office.organization(), await office.organization("Zoo")
    administration = office.administration
    keys = {
        each.id: await administration.create_key("main", (await office.project(each)).id)
        for each in (here, there)
    }
    for each, key in keys.items():
        assert (await administration.find_key("main", organization_id=each)).id == key.id
    with pytest.raises(InvalidInputError, match="several keys"):
        await administration.find_key("main")
    with pytest.raises(NotFoundError):
        await administration.find_key(format_id("key", keys[there.id].id), organization_id=here.id)


async def test_a_service_account_is_found_by_id_or_name(office: Office) -> None:
    """One that stands before one that is disabled; of several projects the id is asked for."""
    organization = await office.organization()
    web, batch = await office.project(organization), await office.project(organization, "batch")
    administration = office.administration
    old = await administration.create_service_account("job", web.id)
    await administration.disable_service_account(old.id)
    assert (await administration.find_service_account("job")).id == old.id
    new = await administration.create_service_account("job", web.id)
    assert (await administration.find_service_account("JOB")).id == new.id
    other = await administration.create_service_account("job", batch.id)
    with pytest.raises(InvalidInputError, match="of batch"):
        await administration.find_service_account("job")
    assert (await administration.find_service_account("job", project_id=batch.id)).id == other.id
    assert (await administration.find_service_account(format_id("svc", old.id))).id == old.id
    with pytest.raises(NotFoundError, match="service-accounts list"):
        await administration.find_service_account("nothing")
    with pytest.raises(InvalidInputError, match="purpose"):
        await administration.create_service_account("x", web.id, purpose="a\nb")
