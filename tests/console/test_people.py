"""Signing in and out: sessions that cannot be guessed, kept, planted or posted from elsewhere."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx2
import psycopg
import pytest

from farebox.console.cookies import SESSION_COOKIE, VISIT_COOKIE
from farebox.console.people import OLD_FORM, WRONG
from farebox.console.throttle import ATTEMPTS_PER_EMAIL_MAX
from tests.support.console_people import EMAIL, ORIGIN, PASSWORD, Payer, Visitor


def cookie(answer: httpx2.Response, name: str) -> str:
    """The whole line that sets a cookie."""
    lines = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{name}=")]
    assert len(lines) == 1, lines
    return lines[0]


def sessions(dsn: str) -> list[tuple[bytes, timedelta]]:
    """What the table knows: digests, and how long they last."""
    with psycopg.connect(dsn) as sql:
        return sql.execute("SELECT digest, expires_at - created_at FROM console_session").fetchall()


async def test_the_right_password_opens_a_session(visitor: Visitor, dsn: str) -> None:
    """The cookie holds 256 bits, out of scripts' reach; the database holds only its digest."""
    answer = await visitor.sign_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    line = cookie(answer, SESSION_COOKIE)
    assert "HttpOnly" in line
    assert "SameSite=lax" in line
    assert "Path=/" in line
    assert "Max-Age=43200" in line
    assert "Secure" not in line
    token = visitor.cookies[SESSION_COOKIE]
    assert len(token) == 43
    ((digest, lasts),) = sessions(dsn)
    assert digest == sha256(token.encode()).digest()
    assert abs(lasts - timedelta(hours=12)) < timedelta(minutes=1)
    assert (await visitor.get("/")).status_code == 200


async def test_over_https_the_cookie_stays_there(app: Any) -> None:
    """Behind HTTPS the cookies are marked, so that they never travel in the clear."""
    async with Visitor(app, origin="https://console.test") as visitor:
        assert "Secure" in cookie(await visitor.get("/sign-in"), VISIT_COOKIE)
        assert "Secure" in cookie(await visitor.sign_in(), SESSION_COOKIE)


async def test_the_address_is_found_in_whatever_case(visitor: Visitor) -> None:
    """People do not remember how they wrote their address."""
    assert (await visitor.sign_in(f"  {EMAIL.upper()} ")).status_code == 303


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (EMAIL, "wrong password"),
        ("nobody@example.org", PASSWORD),
        ("", ""),
        (EMAIL, ""),
        (EMAIL, PASSWORD.upper()),
        ("x" * 300 + "@example.org", PASSWORD),
        (f"{EMAIL}\x00", PASSWORD),
        ("' OR 1=1 --", "' OR 1=1 --"),
    ],
)
async def test_everything_wrong_gets_one_answer(
    email: str, password: str, visitor: Visitor, dsn: str
) -> None:
    """Nobody learns whether the address or the password was wrong."""
    answer = await visitor.sign_in(email, password)
    assert answer.status_code == 401
    assert WRONG in answer.text
    assert password == "" or password not in answer.text
    assert SESSION_COOKIE not in visitor.cookies
    assert sessions(dsn) == []


@pytest.mark.parametrize("path", ["/", "/?organization=Acme", "/organizations/org_" + "0" * 32])
async def test_without_a_session_the_way_is_to_the_door(path: str, visitor: Visitor) -> None:
    """No page says anything to a stranger, not even whether there is such an organisation."""
    answer = await visitor.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 43 + "=", "é" * 43, "0" * 10_000])
async def test_a_made_up_cookie_opens_nothing(token: str, app: Any) -> None:
    """A token that was not given out is no session, whatever its form."""
    async with Visitor(app) as visitor:
        header = f"{SESSION_COOKIE}={token}".encode("latin-1", "replace")
        answer = await visitor.get("/", headers=[(b"cookie", header)])
    assert answer.status_code == 303


async def test_a_session_ends_by_the_real_clock(inside: Visitor, dsn: str) -> None:
    """After its twelve hours it opens nothing; a sandbox's clock that leaps does not end it."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE deployment SET clock_offset = '400 days'")
        assert (await inside.get("/")).status_code == 200
        sql.execute("UPDATE console_session SET expires_at = clock_timestamp()")
    assert (await inside.get("/")).headers["location"] == "/sign-in"


async def test_ended_sessions_are_forgotten(inside: Visitor, app: Any, dsn: str) -> None:
    """The table does not grow with every sign-in."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE console_session SET expires_at = clock_timestamp()")
    async with Visitor(app) as other:
        await other.sign_in()
    assert len(sessions(dsn)) == 1


async def test_signing_out_ends_the_session_everywhere(inside: Visitor, app: Any, dsn: str) -> None:
    """A stolen cookie is worth nothing once its owner has signed out."""
    stolen = inside.cookies[SESSION_COOKIE]
    answer = await inside.post("/sign-out", data={"form_token": await inside.form("/")})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert SESSION_COOKIE not in inside.cookies
    assert sessions(dsn) == []
    async with Visitor(app) as thief:
        thief.cookies.set(SESSION_COOKIE, stolen)
        assert (await thief.get("/")).status_code == 303


async def test_signing_out_twice_is_no_error(visitor: Visitor) -> None:
    """Whoever is out already is shown the door."""
    answer = await visitor.post("/sign-out", data={"form_token": ""})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


async def test_signing_out_cannot_be_posted_by_others(inside: Visitor) -> None:
    """Without the session's own form token nothing happens."""
    for token in ("", "0" * 64, await Visitor.form(inside, "/") + "0"):
        assert (await inside.post("/sign-out", data={"form_token": token})).status_code == 403
    assert (await inside.get("/")).status_code == 200


async def test_a_planted_session_is_not_taken_over(app: Any, dsn: str) -> None:
    """Session fixation: signing in gives a new token, and ends the one that was brought along."""
    async with Visitor(app) as attacker, Visitor(app) as victim:
        await attacker.sign_in()
        planted = attacker.cookies[SESSION_COOKIE]
        token = await victim.form("/sign-in")
        victim.cookies.set(SESSION_COOKIE, planted, domain="console.test", path="/")
        form = {"form_token": token, "email": EMAIL, "password": PASSWORD}
        answer = await victim.post("/sign-in", data=form)
        assert answer.status_code == 303
        assert planted not in cookie(answer, SESSION_COOKIE)
        assert (await attacker.get("/")).status_code == 303
    assert len(sessions(dsn)) == 1


async def test_a_form_of_another_visit_does_not_sign_in(app: Any) -> None:
    """Login CSRF: an attacker's own form token does not fit the victim's cookie."""
    async with Visitor(app) as attacker, Visitor(app) as victim:
        theirs = await attacker.form("/sign-in")
        await victim.get("/sign-in")
        for token in (theirs, ""):
            form = {"form_token": token, "email": EMAIL, "password": PASSWORD}
            answer = await victim.post("/sign-in", data=form)
            assert answer.status_code == 403
            assert OLD_FORM in answer.text
        assert SESSION_COOKIE not in victim.cookies


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "", "host": ""}, 403),
        ({"origin": "http://console.test:8081"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": ORIGIN}, 403),
        ({"origin": ORIGIN}, 303),
        ({"sec-fetch-site": "same-origin", "origin": "https://public.test"}, 303),
        ({}, 303),
    ],
)
async def test_forms_are_taken_from_our_own_pages(
    headers: dict[str, str], status: int, visitor: Visitor
) -> None:
    """What the browser says of a form's origin decides, before its fields are looked at."""
    form = {
        "form_token": await visitor.form("/sign-in"),
        "email": EMAIL,
        "password": PASSWORD,
    }
    assert (await visitor.post("/sign-in", data=form, headers=headers)).status_code == status


async def test_guessing_is_paused(app: Any) -> None:
    """After ten attempts even the right password waits, and the answer says how long."""
    for number in range(ATTEMPTS_PER_EMAIL_MAX):
        async with Visitor(app, address=f"192.0.2.{number}") as guesser:
            assert (await guesser.sign_in(password=f"guess number {number}")).status_code == 401
    async with Visitor(app, address="198.51.100.1") as visitor:
        answer = await visitor.sign_in()
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 900
    assert "Try again in 15 minutes" in answer.text


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.test/",
        "//evil.test",
        "/\\evil.test",
        "/organizations/../../evil",
        "/organizations/org_" + "0" * 32 + "/live",
        "javascript:alert(1)",
        "/sign-out",
    ],
)
async def test_signing_in_leads_nowhere_else(to: str, visitor: Visitor) -> None:
    """No open redirect: only a page of ours is gone to."""
    assert (await visitor.sign_in(to=to)).headers["location"] == "/"


async def test_signing_in_leads_back_to_where_one_was(visitor: Visitor, dsn: str) -> None:
    """A session that ended while looking at a page comes back to it."""
    payer = Payer(dsn)
    door = (await visitor.get(payer.path)).headers["location"]
    page = (await visitor.get(door)).text
    assert f'name="to" value="{payer.path}"' in page
    assert (await visitor.sign_in(to=payer.path)).headers["location"] == payer.path


async def test_a_refresh_without_a_session_leads_the_page_to_the_door(
    visitor: Visitor, dsn: str
) -> None:
    """A page that refreshes itself goes to the door as a whole, not with the door in its middle."""
    payer = Payer(dsn)
    answer = await visitor.get(f"{payer.path}/live", headers={"hx-request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"].startswith("/sign-in?to=%2Forganizations%2Forg_")


async def test_whoever_is_in_is_not_asked_again(inside: Visitor) -> None:
    """The door is closed behind one."""
    assert (await inside.get("/sign-in")).headers["location"] == "/"


async def test_a_sandbox_says_where_its_login_is(visitor: Visitor) -> None:
    """A newcomer who closed the terminal finds the password."""
    assert ".farebox/ready.json" in (await visitor.get("/sign-in")).text
