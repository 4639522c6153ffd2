"""People on PostgreSQL: what is decided under the organisation's lock, and what goes with whom."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, FareboxError, NotFoundError, RefusedError
from farebox.operations.people import Member
from farebox.tenancy.api_keys import digest
from farebox.tenancy.permissions import Role
from tests.support.office import Office, open_office

NOBODY = UUID(int=99)


async def test_a_member_has_one_role_and_can_be_given_another(office: Office) -> None:
    """ORG-01: one login, a role in each organisation."""
    here, there = await office.organization(), await office.organization("Other")
    ada = await office.user()
    store = office.people_store
    first = await store.insert_member(here.id, ada.id, Role.OWNER)
    second = await store.insert_member(there.id, ada.id, Role.VIEWER)
    assert (first.organization_name, first.email, first.role) == ("Acme", ada.email, Role.OWNER)
    assert await store.members(user_id=ada.id, limit=9) == sorted(
        [first, second], key=lambda member: member.organization_id
    )
    changed = (await store.change_member(there.id, ada.id, Role.DEVELOPER)).member
    assert await store.members(organization_id=there.id, limit=9) == [changed]
    assert await store.members(organization_id=here.id, after=ada.id, limit=9) == []
    with pytest.raises(ConflictError, match="members role"):
        await store.insert_member(here.id, ada.id, Role.VIEWER)
    for organization, user in ((NOBODY, ada.id), (there.id, NOBODY)):
        with pytest.raises(NotFoundError):
            await store.change_member(organization, user, Role.VIEWER)
        with pytest.raises(NotFoundError):
            await store.insert_member(organization, user, Role.VIEWER)
        with pytest.raises(NotFoundError):
            await store.remove_member(organization, user)


async def test_two_owners_cannot_both_leave(office: Office) -> None:
    """The last owner is decided under the organisation's lock, whoever asks at the same moment."""
    organization = await office.organization()
    owners = [await office.user(name) for name in ("ada", "bob")]
    for owner in owners:
        await office.people_store.insert_member(organization.id, owner.id, Role.OWNER)

    async def leave(user_id: UUID) -> str:
        async with open_office(office.dsn) as other:
            try:
                await other.people_store.remove_member(organization.id, user_id)
            except RefusedError as error:
                return error.reason
            return "left"

    outcomes = await asyncio.gather(*(leave(owner.id) for owner in owners))
    assert sorted(outcomes) == ["last_owner", "left"]
    (last,) = await office.people_store.members(organization_id=organization.id, limit=9)
    with pytest.raises(RefusedError, match="only owner"):
        await office.people_store.change_member(organization.id, last.user_id, Role.VIEWER)


async def test_who_leaves_leaves_their_keys(office: Office) -> None:
    """Keys that a member owns are revoked here, and stay where they are a member still."""
    here, there = await office.organization(), await office.organization("Other")
    ada, bob = await office.user(), await office.user("bob")
    keys = {}
    for organization in (here, there):
        await office.people_store.insert_member(organization.id, bob.id, Role.OWNER)
        await office.people_store.insert_member(organization.id, ada.id, Role.DEVELOPER)
        project = await office.project(organization)
        keys[organization.id] = await office.administration.create_key(
            "k", project.id, user_id=ada.id
        )
    assert await office.people_store.remove_member(here.id, ada.id) == (1, 0)
    (gone,) = await office.tenants.keys(key_id=keys[here.id].id, limit=1)
    (kept,) = await office.tenants.keys(key_id=keys[there.id].id, limit=1)
    assert (gone.revoked_at is None, kept.revoked_at is None) == (False, True)
    assert (gone.user_id, gone.user_email) == (ada.id, ada.email)
    (project,) = await office.tenants.projects(organization_id=here.id, limit=1)
    with pytest.raises(NotFoundError, match="member of its"):
        await office.administration.create_key("k2", project.id, user_id=ada.id)


async def test_a_closed_login_opens_nothing(office: Office) -> None:
    """Sessions end, keys are revoked everywhere, the operator's rights go; the last one stays."""
    organization = await office.organization()
    ada = await office.user(operator=True)
    with pytest.raises(RefusedError, match="only operator"):
        await office.people_store.disable_user(ada.id)
    bob = await office.user("bob", operator=True)
    await office.people_store.insert_member(organization.id, ada.id, Role.OWNER)
    project = await office.project(organization)
    key = await office.administration.create_key("k", project.id, user_id=ada.id)
    await office.connection.execute(
        "INSERT INTO console_session (digest, user_id, expires_at)"
        " VALUES (%s, %s, now() + interval '1 hour')",
        (bytes(32), ada.id),
    )
    closed = (await office.people_store.disable_user(ada.id)).user
    assert closed.disabled_at is not None
    assert not closed.operator
    assert await office.one("SELECT count(*) FROM console_session") == 0
    assert (await office.tenants.keys(key_id=key.id, limit=1))[0].revoked_at is not None
    assert (await office.people_store.disable_user(ada.id)).user == closed
    with pytest.raises(RefusedError, match="only operator"):
        await office.people_store.set_operator(bob.id, operator=False)
    with pytest.raises(NotFoundError):
        await office.people_store.set_operator(NOBODY, operator=True)


async def test_an_invitation_is_accepted_once(office: Office) -> None:
    """Ten who hold the same link at the same moment become one member."""
    organization = await office.organization()
    made = await office.people.invite(organization.id, "Eve@Example.org", Role.DEVELOPER)
    assert made.invitation.invited_by == "clerk"

    async def accept(number: int) -> Member | str:
        async with open_office(office.dsn) as other:
            try:
                return await other.people.accept_new(made.token, f"hash {number}")
            except (RefusedError, ConflictError) as error:
                return type(error).__name__

    outcomes = await asyncio.gather(*map(accept, range(10)))
    members = [outcome for outcome in outcomes if isinstance(outcome, Member)]
    assert len(members) == 1
    assert (members[0].email, members[0].role) == ("Eve@Example.org", Role.DEVELOPER)
    (invitation,) = await office.people_store.invitations(organization_id=organization.id, limit=9)
    assert invitation.user_id == members[0].user_id
    assert await office.one("SELECT count(*) FROM console_user") == 1
    with pytest.raises(RefusedError) as caught:
        await office.people.accept_as(made.token, members[0].user_id)
    assert caught.value.reason == "invitation_accepted"


async def test_an_invitation_is_for_one_address(office: Office) -> None:
    """Somebody else who is signed in cannot take it; the invited address in any case can."""
    organization = await office.organization()
    ada, bob = await office.user(), await office.user("bob")
    made = await office.people.invite(organization.id, "ADA@example.org", Role.VIEWER)
    with pytest.raises(RefusedError) as caught:
        await office.people.accept_as(made.token, bob.id)
    assert caught.value.reason == "invitation_for_another"
    with pytest.raises(ConflictError, match="sign in"):
        await office.people.accept_new(made.token, "hash")
    assert (await office.people.accept_as(made.token, ada.id)).role is Role.VIEWER
    again = await office.people.invite(organization.id, ada.email, Role.OWNER)
    assert (await office.people.accept_as(again.token, ada.id)).role is Role.OWNER


async def test_an_invitation_does_not_take_the_last_owner_away(office: Office) -> None:
    """ORG-01: who owns an organisation alone stays its owner, whatever they are invited as."""
    organization = await office.organization()
    ada = await office.user()
    await office.people_store.insert_member(organization.id, ada.id, Role.OWNER)
    made = await office.people.invite(organization.id, ada.email, Role.VIEWER)
    with pytest.raises(RefusedError) as refused:
        await office.people.accept_as(made.token, ada.id)
    assert refused.value.reason == "last_owner"
    (member,) = await office.people_store.members(organization_id=organization.id, limit=9)
    assert member.role is Role.OWNER
    bob = await office.user("bob")
    await office.people_store.insert_member(organization.id, bob.id, Role.OWNER)
    assert (await office.people.accept_as(made.token, ada.id)).role is Role.VIEWER


async def test_an_invitation_ends(office: Office) -> None:
    """Taken back, or too old: it makes nobody a member, and says why."""
    organization = await office.organization()
    taken = await office.people.invite(organization.id, "x@example.org", Role.VIEWER)
    await office.people_store.revoke_invitation(taken.invitation.id)
    old = await office.people.invite(
        organization.id, "y@example.org", Role.VIEWER, lasts=timedelta(days=1)
    )
    await office.connection.execute("UPDATE deployment SET clock_offset = '1 day'")
    for made, reason in ((taken, "invitation_revoked"), (old, "invitation_expired")):
        for accept in (
            office.people.accept_new(made.token, "hash"),
            office.people_store.accept_invitation(digest(made.token), NOBODY),
        ):
            with pytest.raises(RefusedError) as caught:
                await accept
            assert caught.value.reason == reason
    standing = await office.people_store.revoke_invitation(old.invitation.id)
    assert standing.revoked_at is None  # it was over already
    assert await office.people_store.members(organization_id=organization.id, limit=9) == []
    for missing in (
        office.people_store.revoke_invitation(NOBODY),
        office.people_store.accept_invitation(bytes(32), NOBODY),
        office.people.invite(NOBODY, "z@example.org", Role.VIEWER),
    ):
        with pytest.raises(NotFoundError):
            await missing


async def test_who_is_closed_does_not_come_back_by_an_invitation(office: Office) -> None:
    """A login that an operator closed stays closed."""
    organization = await office.organization()
    await office.user("boss", operator=True)
    ada = await office.user()
    await office.people_store.disable_user(ada.id)
    made = await office.people.invite(organization.id, ada.email, Role.OWNER)
    with pytest.raises(FareboxError, match="closed"):
        await office.people.accept_as(made.token, ada.id)


async def test_every_change_of_people_is_noted(office: Office) -> None:
    """ORG-14: in the transaction that makes it, and nothing is noted where nothing changed."""
    organization = await office.organization()
    ada = await office.user(operator=True)
    store = office.people_store
    await store.insert_member(organization.id, ada.id, Role.OWNER)
    await store.change_member(organization.id, ada.id, Role.OWNER)
    made = await office.people.invite(organization.id, "b@example.org", Role.OWNER)
    member = await office.people.accept_new(made.token, "secret hash")
    await store.change_member(organization.id, ada.id, Role.VIEWER)
    await store.remove_member(organization.id, ada.id)
    await store.set_operator(member.user_id, operator=True)
    await store.disable_user(ada.id)
    await store.allow_sign_up(allowed=True)
    await store.allow_sign_up(allowed=True)
    assert await office.actions() == [
        *("organization.created", "user.created", "member.created", "invitation.created"),
        *("user.created", "member.created", "invitation.accepted", "member.changed"),
        *("member.removed", "user.changed", "user.disabled", "deployment.changed"),
    ]
    log = await office.one("SELECT string_agg(audit_event::text, ' ') FROM audit_event")
    assert "secret hash" not in log
    assert digest(made.token).hex() not in log
