"""Who asks: keys, cookies, and what a page of another site cannot do."""

from __future__ import annotations

import re

import psycopg
import pytest

from farebox.console.cookies import SESSION_COOKIE, form_token
from farebox.kit.ids import format_id
from farebox.tenancy.api_keys import KeyKind, make_key
from farebox.tenancy.permissions import Role
from tests.support.api_clients import API, Caller, House, problem_of
from tests.support.console_people import EMAIL, Visitor


def make_operator(dsn: str, *, operator: bool = True) -> None:
    """Let the console's person administer everything, or nothing."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE console_user SET operator = %s", (operator,))


def session_token(visitor: Visitor) -> str:
    """What the session's cookie holds."""
    token = visitor.cookies[SESSION_COOKIE]
    assert re.fullmatch(r"[\w-]{43}", token)
    return token


async def test_somebody_who_is_signed_in_reads_by_cookie(inside: Visitor, house: House) -> None:
    """The console's own pages use the API in the name of whoever is signed in."""
    make_operator(house.dsn)
    me = (await inside.get(f"{API}/me")).json()
    assert (me["kind"], me["name"], me["operator"]) == ("user", EMAIL, True)
    assert (await inside.get(API + house.path)).status_code == 200
    make_operator(house.dsn, operator=False)
    problem_of(await inside.get(API + house.path), 404)


async def test_a_write_by_cookie_needs_our_origin_and_the_session_s_token(
    inside: Visitor, house: House
) -> None:
    """Another site's page makes the browser send the cookie, but knows no token and no origin."""
    make_operator(house.dsn)
    token = {"x-farebox-form-token": form_token(session_token(inside))}
    home = {"origin": str(inside.base_url)}
    body = {"name": "Zoo"}
    path = f"{API}/organizations"
    bare = await inside.post(path, json=body, headers=home)
    planted = await inside.post(path, json=body, headers=home | {"x-farebox-form-token": "0" * 64})
    foreign = await inside.post(path, json=body, headers=token | {"origin": "https://evil.test"})
    fetched = await inside.post(path, json=body, headers=token | {"sec-fetch-site": "cross-site"})
    good = await inside.post(path, json=body, headers=token | home)
    assert problem_of(bare, 403)["code"] == "form_token_missing"
    assert problem_of(planted, 403)["code"] == "form_token_missing"
    problem_of(foreign, 403)
    problem_of(fetched, 403)
    assert good.status_code == 201


async def test_a_session_that_ended_opens_nothing(inside: Visitor, house: House) -> None:
    """Signing out ends it in the database; the cookie is worth nothing then."""
    make_operator(house.dsn)
    with psycopg.connect(house.dsn, autocommit=True) as sql:
        sql.execute("DELETE FROM console_session")
    problem_of(await inside.get(f"{API}/me"), 401)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer " + make_key(KeyKind.ADMIN, bytes(32))],
)
async def test_a_wrong_key_counts_before_a_cookie(
    header: str, inside: Visitor, house: House
) -> None:
    """Whoever sends a key means it: a session does not stand in for one that is wrong."""
    make_operator(house.dsn)
    answer = await inside.get(f"{API}/me", headers={"authorization": header})
    assert problem_of(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_says_what_it_is(house: House) -> None:
    """A client can ask what its key may, and where."""
    async with house.operator() as operator, house.member(Role.DEVELOPER) as developer:
        everything = await operator.done("GET", "/me")
        mine = await developer.done("GET", "/me")
    assert (everything["operator"], everything["roles"]) == (True, {})
    assert mine["operator"] is False
    assert mine["roles"] == {format_id("org", house.payer.id): "developer"}
    assert mine["kind"] == "management_key"


async def test_a_key_s_end_is_its_end(app: object, house: House) -> None:
    """Revoked or expired: 401 from that instant on."""
    async with house.operator() as operator:
        assert (await operator.ask("GET", "/me")).status_code == 200
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE management_key SET expires_at = farebox_now()")
        problem_of(await operator.ask("GET", "/me"), 401)
    async with Caller(app, make_key(KeyKind.TEST, b"\1" * 32)) as stranger:
        problem_of(await stranger.ask("GET", "/calls/req_" + "0" * 32), 401)
