"""The open doors: invitations accepted, and strangers who sign up where they are let in."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.console.cookies import form_token
from farebox.console.throttle import ATTEMPTS_PER_EMAIL_MAX
from farebox.tenancy.permissions import Role
from tests.support.api_clients import API, House, problem_of
from tests.support.console_people import EMAIL, PASSWORD, Visitor

ACCEPT = "/invitations/accept"
BOB = "bob@example.org"
NEW = "another long password"


async def invite(house: House, email: str = BOB, role: str = "developer", **more: Any) -> str:
    """Invite somebody; gives the token."""
    async with house.member(Role.OWNER) as owner:
        order = {"email": email, "role": role, **more}
        made = await owner.done("POST", f"{house.path}/invitations", order)
    return str(made["token"])


async def seen(app: Any, email: str, password: str) -> Any:
    """What somebody is, once they have signed in with that password."""
    async with Visitor(app) as visitor:
        answer = await visitor.sign_in(email, password)
        assert answer.status_code == 303, "signed in"
        return (await visitor.get(f"{API}/me")).json()


async def test_somebody_new_accepts_and_signs_in(house: House, app: Any) -> None:
    """ORG-01: the token once, with a password, makes a login and a member with the invited role."""
    token = await invite(house)
    async with house.nobody() as bob:
        joined = await bob.done("POST", ACCEPT, {"token": token, "password": NEW})
        again = await bob.ask("POST", ACCEPT, {"token": token, "password": NEW})
    assert (joined["email"], joined["role"], joined["new_login"]) == (BOB, "developer", True)
    assert problem_of(again, 409)["code"] == "invitation_accepted"
    me = await seen(app, BOB, NEW)
    assert (me["id"], me["operator"]) == (joined["user_id"], False)
    assert me["roles"] == {joined["organization_id"]: "developer"}


async def test_one_login_joins_a_second_organisation(house: House, app: Any) -> None:
    """ORG-01, ORG-08: dev, staging and production with one login, each with its own balance."""
    staging = House(app, house.dsn, "Staging")
    await house.payer.grant("5")
    async with house.nobody() as bob:
        await bob.done("POST", ACCEPT, {"token": await invite(house), "password": NEW})
        token = await invite(staging, "BOB@example.org", "owner")
        wrong = await bob.ask("POST", ACCEPT, {"token": token, "password": "x" * 20})
        joined = await bob.done("POST", ACCEPT, {"token": token, "password": NEW})
    assert problem_of(wrong, 403)["code"] == "wrong_password"
    assert joined["new_login"] is False
    async with Visitor(app) as visitor:
        await visitor.sign_in(BOB, NEW)
        balances = [
            (await visitor.get(f"{API}{each.path}/balance")).json()["available"]
            for each in (house, staging)
        ]
        listed = (await visitor.get(f"{API}/organizations")).json()["data"]
    assert balances == ["5.00", "0.00"]
    assert {each["name"]: each["role"] for each in listed} == {
        "Acme": "developer",
        "Staging": "owner",
    }


async def test_whoever_is_signed_in_needs_no_password(house: House, inside: Visitor) -> None:
    """The session proves it, with our form's token; somebody else's session does not."""
    mine, other = await invite(house, EMAIL), await invite(house)
    token = inside.cookies["farebox_session"]
    headers = {"x-farebox-form-token": form_token(token), "origin": str(inside.base_url)}
    bare = await inside.post(API + ACCEPT, json={"token": mine})
    foreign = await inside.post(API + ACCEPT, json={"token": other}, headers=headers)
    joined = await inside.post(API + ACCEPT, json={"token": mine}, headers=headers)
    assert problem_of(bare, 403)["code"] == "form_token_missing"
    assert problem_of(foreign, 409)["code"] == "invitation_for_another"
    assert (joined.status_code, joined.json()["role"]) == (200, "developer")


async def test_the_log_says_who_joined(house: House) -> None:
    """ORG-14: in the name of whoever accepted, from their address; neither token nor password."""
    token = await invite(house)
    async with house.nobody() as bob, house.operator() as operator:
        joined = await bob.done("POST", ACCEPT, {"token": token, "password": NEW})
        events = await operator.every(f"/audit?actor_id={joined['user_id']}")
    assert [event["action"] for event in reversed(events)] == [
        "user.created",
        "member.created",
        "invitation.accepted",
    ]
    assert {event["actor"]["address"] for event in events} == {"192.0.2.7"}
    assert {event["actor"]["name"] for event in events} == {BOB}
    assert token not in str(events)
    assert NEW not in str(events)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"token": "fbx_invite_" + "1" * 44}, 404, "not_found"),
        ({"token": "sesame"}, 404, "not_found"),
        ({"password": "short"}, 422, "password"),
        ({"password": None}, 422, "password"),
        ({"token": None}, 422, "token"),
    ],
)
async def test_what_cannot_be_accepted_says_why(
    change: dict[str, Any], status: int, told: str, house: House
) -> None:
    """A wrong token is like none; a password is named by its field, and nothing is made."""
    body = {"token": await invite(house), "password": NEW} | change
    async with house.nobody() as bob:
        answer = await bob.ask("POST", ACCEPT, {k: v for k, v in body.items() if v is not None})
    problem = problem_of(answer, status)
    assert (problem["errors"][0]["field"] if status == 422 else problem["code"]) == told
    with psycopg.connect(house.dsn) as sql:
        assert sql.execute("SELECT count(*) FROM console_user").fetchone() == (1,)


async def test_an_invitation_ends_and_can_be_taken_back(house: House) -> None:
    """ORG-01: it expires, and what was revoked opens nothing."""
    late, revoked = await invite(house), await invite(house, "eve@example.org")
    async with house.member(Role.OWNER) as owner, house.nobody() as bob:
        rows = {row["email"]: row["id"] for row in await owner.every(f"{house.path}/invitations")}
        await owner.done("DELETE", f"{house.path}/invitations/{rows['eve@example.org']}")
        gone = await bob.ask("POST", ACCEPT, {"token": revoked, "password": NEW})
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE invitation SET expires_at = farebox_now()")
        over = await bob.ask("POST", ACCEPT, {"token": late, "password": NEW})
        shown = await owner.done("GET", f"{house.path}/invitations/{rows[BOB]}")
    assert problem_of(gone, 409)["code"] == "invitation_revoked"
    assert problem_of(over, 409)["code"] == "invitation_expired"
    assert (shown["state"], "token" in shown) == ("expired", False)


async def test_guessing_a_password_here_is_as_slow_as_at_the_door(house: House, app: Any) -> None:
    """Tries count together: ten here, and signing in waits too; a refusal for that is not kept."""
    token = await invite(house, EMAIL)
    async with house.nobody() as bob:
        for number in range(ATTEMPTS_PER_EMAIL_MAX):
            guess = {"token": token, "password": f"guess number {number}"}
            problem_of(await bob.ask("POST", ACCEPT, guess), 403)
        right = {"token": token, "password": PASSWORD}
        waits = await bob.ask("POST", ACCEPT, right, key="k")
    assert int(waits.headers["retry-after"]) > 0
    assert problem_of(waits, 429)["code"] == "too_many_requests"
    async with Visitor(app) as visitor:
        assert (await visitor.sign_in()).status_code == 429
    with psycopg.connect(house.dsn) as sql:
        assert sql.execute("SELECT count(*) FROM api_request").fetchone() == (0,)


async def test_a_repeated_acceptance_is_one(house: House) -> None:
    """DESIGN.md, fixed contracts: an Idempotency-Key works without a key too, for the same request
    alone; nothing that is kept lets anybody try passwords out.
    """
    body = {"token": await invite(house), "password": NEW}
    other = {"token": await invite(house, "eve@example.org"), "password": NEW}
    async with house.nobody() as bob:
        first = await bob.done("POST", ACCEPT, body, key="k")
        second = await bob.done("POST", ACCEPT, body, key="k")
        eve = await bob.done("POST", ACCEPT, other, key="k")
    assert first == second
    assert eve["email"] == "eve@example.org"
    with psycopg.connect(house.dsn) as sql:
        kept = sql.execute("SELECT caller, fingerprint FROM api_request").fetchall()
    assert len(kept) == 2
    assert all(caller == f"stranger {bytes(mark).hex()}" for caller, mark in kept)


async def test_strangers_sign_up_only_where_they_are_let_in(house: House, app: Any) -> None:
    """Off unless an operator says so over HTTP; then a login and an organisation without credit."""
    order = {"email": "zoe@example.org", "password": NEW, "organization_name": "Zoe's"}
    async with house.nobody() as zoe, house.operator() as operator:
        off = await zoe.ask("POST", "/sign-up", order)
        before = await operator.done("GET", "/deployment")
        on = await operator.done("PATCH", "/deployment", {"self_sign_up": True})
        made = await zoe.done("POST", "/sign-up", order)
        again = await zoe.ask("POST", "/sign-up", order)
        events = await operator.every(f"/audit?actor_id={made['user_id']}")
        changes = await operator.every("/audit?action=deployment.changed")
    assert problem_of(off, 403)["code"] == "sign_up_is_off"
    assert (before["self_sign_up"], on["self_sign_up"]) == (False, True)
    assert problem_of(again, 409)["code"] == "conflict"
    assert [event["action"] for event in reversed(events)] == [
        "organization.created",
        "user.created",
        "member.created",
    ]
    assert len(changes) == 1
    me = await seen(app, "zoe@example.org", NEW)
    assert me["roles"] == {made["organization_id"]: "owner"}
    assert me["operator"] is False


async def test_a_key_is_nobody_s_proof_here(house: House) -> None:
    """A management key is no person, and a wrong key is a wrong key at an open door too."""
    token = await invite(house)
    wrong = house.bearer("fbx_admin_" + "1" * 44)
    async with house.member(Role.OWNER) as owner, wrong:
        without = await owner.ask("POST", ACCEPT, {"token": token})
        refused = await wrong.ask("POST", ACCEPT, {"token": token, "password": NEW})
        joined = await owner.done("POST", ACCEPT, {"token": token, "password": NEW})
    assert problem_of(without, 422)["errors"][0]["field"] == "password"
    problem_of(refused, 401)
    assert joined["email"] == BOB
