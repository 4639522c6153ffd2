"""The deployment by the native API: people with a login, and who administers it."""

from __future__ import annotations

import pytest

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_somebody_becomes_an_operator_and_is_none_again(house: House) -> None:
    """ORG-14: over HTTP as by the command line; somebody always administers the deployment."""
    async with house.operator() as operator:
        (ada,) = await operator.every("/users")
        path = f"/users/{ada['id']}"
        last = await operator.ask("PATCH", path, {"operator": False})
        closing = await operator.ask("PATCH", path, {"disabled": True})
        shown = await operator.done("GET", path)
        events = await operator.every(f"/audit?subject_id={ada['id']}")
    assert ada["operator"]
    assert shown == ada
    assert problem_of(last, 409)["code"] == problem_of(closing, 409)["code"] == "last_operator"
    assert [event["action"] for event in events] == ["user.created"]


async def test_a_login_is_closed(house: House) -> None:
    """Its sessions and keys end with it; the log names it."""
    token = {}
    async with house.operator() as operator, house.nobody() as nobody:
        order = {"email": "bob@example.org", "role": "viewer"}
        token = await operator.done("POST", f"{house.path}/invitations", order)
        body = {"token": token["token"], "password": "a long enough password"}
        bob = await nobody.done("POST", "/invitations/accept", body)
        path = f"/users/{bob['user_id']}"
        raised = await operator.done("PATCH", path, {"operator": True})
        closed = await operator.done("PATCH", path, {"operator": False, "disabled": True})
        back = await operator.ask("PATCH", path, {"operator": True})
        events = await operator.every(f"/audit?subject_id={bob['user_id']}")
    assert (raised["operator"], closed["operator"]) == (True, False)
    assert closed["disabled_at"] is not None
    assert problem_of(back, 422)["errors"][0]["field"] == "operator"
    assert [event["action"] for event in reversed(events)] == [
        "user.created",
        "member.created",
        "user.changed",
        "user.changed",
        "user.disabled",
    ]


@pytest.mark.parametrize("patch", [{}, {"operator": True, "disabled": True}, {"disabled": False}])
async def test_a_change_that_makes_no_sense_is_refused(
    patch: dict[str, bool], house: House
) -> None:
    """Nothing to do, or both at once; and a login is opened again by a new password alone."""
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        (ada,) = await operator.every("/users")
        problem_of(await operator.ask("PATCH", f"/users/{ada['id']}", patch), 422)
        problem_of(await owner.ask("GET", f"/users/{ada['id']}"), 403)


async def test_an_organisation_is_split_by_the_template(house: House) -> None:
    """ORG-07: testing, production, customer project, internal tool; again changes nothing."""
    async with house.member(Role.OWNER) as owner:
        first = await owner.done("POST", f"{house.path}/project-split")
        second = await owner.done("POST", f"{house.path}/project-split")
        listed = await owner.every(f"{house.path}/projects")
    assert [each["name"] for each in first["data"]] == [
        "testing",
        "production",
        "customer project",
        "internal tool",
    ]
    assert second == first
    assert len(listed) == 5, "and the one that was there"
