"""Management keys and whoever made them: a key opens no more than its maker may."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, RefusedError
from farebox.kit.ids import format_id
from farebox.operations.key_administration import MadeKey
from farebox.operations.people import User
from farebox.storage import migrate
from farebox.storage.standing_store import management_key_standing
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.tenancy.actors import Actor, ActorKind, Door, Via
from farebox.tenancy.api_keys import digest
from farebox.tenancy.permissions import Role
from tests.support.office import Office, open_office

VIA = Via(door=Door.API)
SQL = Path(migrate.__file__).parent / "migrations/versions/0009_key_makers.sql"


def person(user: User) -> Actor:
    """Somebody who signed in."""
    return Actor(
        kind=ActorKind.USER, id=format_id("user", user.id), name=user.email, door=Door.CONSOLE
    )


def holder(key: MadeKey) -> Actor:
    """Whoever holds a management key."""
    return Actor(
        kind=ActorKind.MANAGEMENT_KEY, id=format_id("key", key.id), name="k", door=Door.API
    )


async def make(
    office: Office,
    by: Actor,
    organization_id: UUID | None,
    role: Role | None,
    *,
    expires_at: datetime | None = None,
) -> MadeKey:
    """A management key, made by somebody."""
    administration = office.administration
    administration._store = PostgresTenantStore(office.connection, by)
    try:
        return await administration.create_management_key(
            "k", organization_id=organization_id, role=role, expires_at=expires_at
        )
    finally:
        administration._store = office.tenants


async def opens(office: Office, *keys: MadeKey) -> list[bool]:
    """Which of the keys open anything."""
    found = [await management_key_standing(office.connection, digest(k.text), VIA) for k in keys]
    return [standing is not None for standing in found]


async def test_who_is_removed_loses_the_keys_they_made(office: Office) -> None:
    """ORG-14: keys that they made, and keys made with those; not of others, not elsewhere; each
    revocation is in the log, and the answer says how many.
    """
    here, there = await office.organization(), await office.organization("Other")
    ada, bob = await office.user(), await office.user("bob")
    for organization in (here, there):
        for user in (ada, bob):
            await office.people_store.insert_member(organization.id, user.id, Role.OWNER)
    mine = await make(office, person(ada), here.id, Role.OWNER)
    made_with_mine = await make(office, holder(mine), here.id, Role.VIEWER)
    elsewhere = await make(office, person(ada), there.id, Role.VIEWER)
    bobs = await make(office, person(bob), here.id, Role.OWNER)
    nobodys = await office.administration.create_management_key("ops", organization_id=here.id)
    removed = await office.people_store.remove_member(here.id, ada.id)
    assert removed == (0, 2)
    assert await opens(office, mine, made_with_mine) == [False, False]
    assert await opens(office, elsewhere, bobs, nobodys) == [True, True, True]
    (shown,) = await office.tenants.management_keys(key_id=made_with_mine.id, limit=1)
    assert (shown.user_id, shown.user_email) == (ada.id, ada.email)
    assert (await office.actions())[-3:] == [*["management_key.revoked"] * 2, "member.removed"]
    await office.people_store.insert_member(here.id, ada.id, Role.OWNER)
    assert await opens(office, mine) == [False], "who comes back makes new ones"


@pytest.mark.parametrize(
    ("role", "left"),
    [
        (Role.OWNER, set(Role)),
        (Role.DEVELOPER, {Role.DEVELOPER, Role.VIEWER}),
        (Role.BILLING_ADMIN, {Role.BILLING_ADMIN, Role.FINANCE_VIEWER, Role.VIEWER}),
        (Role.VIEWER, {Role.VIEWER}),
    ],
)
async def test_another_role_ends_the_keys_that_open_more(
    office: Office, role: Role, left: set[Role]
) -> None:
    """ORG-14: what the new role may, its keys still may; by a change and by an invitation alike."""
    organization = await office.organization()
    ada, bob = await office.user(), await office.user("bob")
    for user in (ada, bob):
        await office.people_store.insert_member(organization.id, user.id, Role.OWNER)
    by_role = {each: await make(office, person(ada), organization.id, each) for each in Role}
    if role is Role.DEVELOPER:
        invited = await office.people.invite(organization.id, ada.email, role)
        await office.people.accept_as(invited.token, ada.id)
    else:
        changed = await office.people_store.change_member(organization.id, ada.id, role)
        assert changed.member.role is role
        assert changed.management_keys_revoked == len(Role) - len(left)
    stand = {each for each, key in by_role.items() if await opens(office, key) == [True]}
    assert stand == left


async def test_no_operator_no_operators_keys(office: Office) -> None:
    """ORG-14: keys of the deployment and of organisations end with the operator's rights, those
    that the person may make as a member stay; a closed login ends them all.
    """
    organization = await office.organization()
    ada, bob = await office.user(operator=True), await office.user("bob", operator=True)
    await office.people_store.insert_member(organization.id, ada.id, Role.DEVELOPER)
    everything = await make(office, person(ada), None, None)
    owner = await make(office, holder(everything), organization.id, Role.OWNER)
    developer = await make(office, person(ada), organization.id, Role.DEVELOPER)
    bobs = await make(office, person(bob), None, None)
    changed = await office.people_store.set_operator(ada.id, operator=False)
    assert (changed.user.operator, changed.management_keys_revoked) == (False, 2)
    assert await opens(office, everything, owner, developer) == [False, False, True]
    closed = await office.people_store.disable_user(ada.id)
    assert closed.management_keys_revoked == 1
    assert await opens(office, developer, bobs) == [False, True]


async def test_nobody_gives_a_key_more_than_they_may(office: Office) -> None:
    """ORG-13: not with a key that was revoked, not for an organisation they have left."""
    organization = await office.organization()
    ada, bob = await office.user(), await office.user("bob")
    for user in (ada, bob):
        await office.people_store.insert_member(organization.id, user.id, Role.OWNER)
    key = await make(office, person(ada), organization.id, Role.OWNER)
    with pytest.raises(RefusedError, match="than its maker may"):
        await make(office, person(ada), None, None)
    await office.people_store.remove_member(organization.id, ada.id)
    with pytest.raises(RefusedError, match="than its maker may"):
        await make(office, person(ada), organization.id, Role.VIEWER)
    with pytest.raises(RefusedError, match="revoked meanwhile"):
        await make(office, holder(key), organization.id, Role.VIEWER)


async def test_a_key_that_a_key_made_ends_no_later_than_it(office: Office) -> None:
    """ADR 22: a key that is leaked and ends soon gives no key that lasts, not by a chain of keys
    either; whoever holds it may say an earlier end, and a key without an end bounds nothing.
    """
    organization = await office.organization()
    soon = await office.tenants.now() + timedelta(minutes=5)
    earlier, later = soon - timedelta(minutes=1), soon + timedelta(microseconds=1)
    shell = office.administration.create_management_key
    short = await shell("short", organization_id=organization.id, expires_at=soon)
    lasting = await shell("lasting", organization_id=organization.id)

    async def end(maker: MadeKey, expires_at: datetime | None = None) -> datetime | None:
        made = await make(office, holder(maker), organization.id, Role.OWNER, expires_at=expires_at)
        (found,) = await office.tenants.management_keys(key_id=made.id, limit=1)
        return found.expires_at

    child = await make(office, holder(short), organization.id, Role.OWNER)
    assert [await end(maker) for maker in (short, child, lasting)] == [soon, soon, None]
    assert [await end(maker, earlier) for maker in (short, child)] == [earlier, earlier]
    assert [await end(short, soon), await end(lasting, later)] == [soon, later]
    for maker in (short, child):
        with pytest.raises(InvalidInputError, match=f"{soon:%H:%M:%S}") as caught:
            await end(maker, later)
        assert caught.value.field == "expires_at"


async def test_a_key_that_is_made_while_its_maker_is_removed_opens_nothing(
    office: Office, dsn: str
) -> None:
    """Two processes at once: whichever comes first, no key is left over."""
    organization = await office.organization()
    ada, bob = await office.user(), await office.user("bob")
    async with open_office(dsn) as other:
        for turn in range(6):
            for user in (ada, bob)[: 2 if turn == 0 else 1]:
                await office.people_store.insert_member(organization.id, user.id, Role.OWNER)
            await asyncio.gather(
                make(other, person(ada), organization.id, Role.OWNER),
                office.people_store.remove_member(organization.id, ada.id),
                return_exceptions=True,
            )
            found = await office.tenants.management_keys(organization_id=organization.id, limit=99)
            assert all(key.revoked_at is not None for key in found)


async def test_keys_from_before_get_their_maker_from_the_log(office: Office) -> None:
    """Migration 0009: by a person, with a person's key, with a key of such a key, at a shell."""
    organization = await office.organization()
    ada = await office.user()
    await office.people_store.insert_member(organization.id, ada.id, Role.OWNER)
    first = await make(office, person(ada), organization.id, Role.OWNER)
    second = await make(office, holder(first), organization.id, Role.OWNER)
    third = await make(office, holder(second), organization.id, Role.VIEWER)
    shell = await office.administration.create_management_key(
        "ops", organization_id=organization.id
    )
    with_shell = await make(office, holder(shell), organization.id, Role.VIEWER)
    await office.connection.execute("ALTER TABLE management_key DROP user_id")
    await office.connection.execute(SQL.read_bytes())
    makers = {}
    for key in (first, second, third, shell, with_shell):
        (found,) = await office.tenants.management_keys(key_id=key.id, limit=1)
        makers[key.id] = found.user_id
    assert [makers[key.id] for key in (first, second, third)] == [ada.id] * 3
    assert [makers[key.id] for key in (shell, with_shell)] == [None, None]
