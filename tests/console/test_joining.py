"""Joining in a browser: the same door as the API's."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.console.throttle import ATTEMPTS_PER_EMAIL_MAX
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House
from tests.support.console_people import Visitor

NEW = "another long password"


@pytest.fixture
async def token(app: Any, dsn: str) -> str:
    """An invitation for Bob."""
    house = House(app, dsn)
    async with house.member(Role.OWNER) as owner:
        order = {"email": "bob@example.org", "role": "developer"}
        made = await owner.done("POST", f"{house.path}/invitations", order)
    return str(made["token"])


async def send(visitor: Visitor, **fields: str) -> Any:
    """Fill the form in and send it."""
    form = {"form_token": await visitor.form("/join"), "token": "", "password": NEW, **fields}
    return await visitor.post("/join", data=form, headers={"origin": str(visitor.base_url)})


async def test_somebody_joins_and_signs_in(visitor: Visitor, token: str, dsn: str) -> None:
    """ORG-01: with the token and a new password; the next page is the door, and it opens."""
    shown = await visitor.get("/join")
    joined = await send(visitor, token=f" {token} ")
    again = await send(visitor, token=token)
    signed_in = await visitor.sign_in("bob@example.org", NEW)
    assert "at least 12 characters" in shown.text
    assert (joined.status_code, joined.headers["location"]) == (303, "/sign-in")
    assert (again.status_code, "accepted" in again.text) == (409, True)
    assert signed_in.status_code == 303
    with psycopg.connect(dsn) as sql:
        found = sql.execute(
            "SELECT actor_name, door, address FROM audit_event WHERE action = 'invitation.accepted'"
        ).fetchall()
    assert found == [("bob@example.org", "console", "192.0.2.7")]


async def test_what_cannot_be_joined_says_why(visitor: Visitor, token: str) -> None:
    """A wrong token, a short password; what was typed stays, but never the password."""
    wrong = await send(visitor, token="fbx_invite_nothing")
    short = await send(visitor, token=token, password="short one")
    empty = await send(visitor, token=token, password="")
    assert (wrong.status_code, "no such invitation" in wrong.text) == (404, True)
    assert (short.status_code, "from 12 to" in short.text) == (422, True)
    assert (empty.status_code, "password" in empty.text) == (422, True)
    assert token in short.text
    assert "short one" not in short.text


async def test_a_foreign_or_an_old_form_joins_nobody(visitor: Visitor, token: str) -> None:
    """A page of another site cannot have its visitor accept anything."""
    old = await visitor.post("/join", data={"token": token, "password": NEW})
    form = {"form_token": await visitor.form("/join"), "token": token, "password": NEW}
    foreign = await visitor.post("/join", data=form, headers={"origin": "https://evil.test"})
    assert (old.status_code, foreign.status_code) == (403, 403)
    assert (await send(visitor, token=token)).status_code == 303


async def test_guessing_is_slow_here_too(visitor: Visitor, token: str) -> None:
    """Tries of one address count together at every door."""
    assert (await send(visitor, token=token)).status_code == 303
    for number in range(ATTEMPTS_PER_EMAIL_MAX - 1):
        await visitor.sign_in("bob@example.org", f"guess number {number}")
    assert (await visitor.sign_in("bob@example.org", NEW)).status_code == 429
