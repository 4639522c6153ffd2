"""Members and invitations by the native API."""

from __future__ import annotations

from typing import Any

import psycopg

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_somebody_is_invited_and_the_token_is_shown_once(house: House) -> None:
    """ORG-01, ORG-08: an invitation has a role, an address and an end."""
    path = f"{house.path}/invitations"
    async with house.member(Role.OWNER) as owner:
        made = await owner.done("POST", path, {"email": "bob@example.org", "role": "viewer"})
        listed = await owner.every(path)
        revoked = await owner.done("DELETE", f"{path}/{made['id']}")
        wrong = await owner.ask("POST", path, {"email": "nobody", "role": "viewer"})
    token = made.pop("token")
    assert listed == [made]
    assert token not in str(listed)
    assert (made["state"], revoked["state"]) == ("open", "revoked")
    assert problem_of(wrong, 422)["errors"][0]["field"] == "email"


async def test_members_change_and_leave_but_not_the_last_owner(house: House, app: Any) -> None:
    """ORG-01: an organisation always has an owner."""
    user = house.join(Role.OWNER)
    path = f"{house.path}/members/{user}"
    other = House(app, house.dsn, "Zoo")
    async with house.operator() as operator, other.member(Role.OWNER) as zoe:
        (listed,) = await operator.every(f"{house.path}/members")
        last = await operator.ask("PATCH", path, {"role": "viewer"})
        leaving = await operator.ask("DELETE", path)
        foreign = await zoe.ask("DELETE", f"{other.path}/members/{user}")
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE member SET role = 'developer'")
        changed = await operator.done("PATCH", path, {"role": "viewer"})
        removed = await operator.done("DELETE", path)
        gone = await operator.ask("DELETE", path)
    assert (listed["user_id"], listed["role"]) == (user, "owner")
    assert problem_of(last, 409)["code"] == problem_of(leaving, 409)["code"] == "last_owner"
    problem_of(foreign, 404)
    assert (changed["role"], removed["keys_revoked"]) == ("viewer", 0)
    problem_of(gone, 404)


async def test_an_operator_adds_somebody_who_has_a_login(house: House) -> None:
    """ORG-01: at once and without an invitation; owners invite, so that no owner finds out who has
    a login here.
    """
    order = {"email": "bob@example.org", "role": "viewer"}
    path = f"{house.path}/members"
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        unknown = await operator.ask("POST", path, order)
        made = await operator.done("POST", f"{house.path}/invitations", order)
        async with house.nobody() as nobody:
            body = {"token": made["token"], "password": "a long enough password"}
            bob = await nobody.done("POST", "/invitations/accept", body)
        twice = await operator.ask("POST", path, order | {"email": "BOB@example.org"})
        await operator.done("DELETE", f"{path}/{bob['user_id']}")
        better = order | {"role": "developer"}
        added = await operator.done("POST", path, better, key="k")
        assert await operator.done("POST", path, better, key="k") == added
        assert await operator.every(path) == [added]
        await operator.done("DELETE", f"{path}/{bob['user_id']}")
        await operator.done("PATCH", f"/users/{bob['user_id']}", {"disabled": True})
        closed = await operator.ask("POST", path, order)
        refused = await owner.ask("POST", path, order)
        events = await operator.every(f"/audit?subject_id={bob['user_id']}")
    assert (added["user_id"], added["role"]) == (bob["user_id"], "developer")
    problem_of(unknown, 404)
    problem_of(twice, 409)
    assert problem_of(closed, 409)["code"] == "user_disabled"
    assert problem_of(refused, 403)["code"] == "permission_denied"
    assert [event["action"] for event in events].count("member.created") == 2


async def test_the_keys_of_who_may_less_are_revoked_and_counted(house: House) -> None:
    """ORG-14: another role, no operator any more, removed: the answer says how many of the
    management keys that they had made ended, and the list says whose each was.
    """
    house.join(Role.OWNER)
    async with house.operator() as operator, house.nobody() as nobody:
        order = {"email": "bob@example.org", "role": "owner"}
        made = await operator.done("POST", f"{house.path}/invitations", order)
        body = {"token": made["token"], "password": "a long enough password"}
        bob = (await nobody.done("POST", "/invitations/accept", body))["user_id"]
        house.made_by(bob, Role.OWNER, Role.DEVELOPER, None)
        listed = await operator.every(f"{house.path}/management-keys")
        path = f"{house.path}/members/{bob}"
        changed = await operator.done("PATCH", path, {"role": "developer"})
        left = await operator.done("PATCH", f"/users/{bob}", {"operator": False})
        removed = await operator.done("DELETE", path)
        after = await operator.every(f"{house.path}/management-keys")
    mine = [(each["role"], each["user_email"]) for each in listed if each["user_id"] == bob]
    assert sorted(mine) == [("developer", "bob@example.org"), ("owner", "bob@example.org")]
    assert (changed["role"], changed["management_keys_revoked"]) == ("developer", 1)
    assert (left["operator"], left["management_keys_revoked"]) == (False, 1)
    assert (removed["keys_revoked"], removed["management_keys_revoked"]) == (0, 1)
    assert {each["state"] for each in after if each["user_id"] == bob} == {"revoked"}
