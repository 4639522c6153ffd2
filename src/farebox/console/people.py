"""Who is looking: signing in, staying signed in for half a day, signing out."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from math import ceil
from typing import Final
from urllib.parse import urlencode

import structlog
from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from farebox.console.cookies import (
    SESSION_COOKIE,
    TOKEN_BYTES,
    VISIT_COOKIE,
    drop_cookie,
    form_token,
    form_token_matches,
    make_token,
    read_cookie,
    set_cookie,
    token_digest,
)
from farebox.console.forms import read_form
from farebox.console.reception import Reception
from farebox.operations.console_views import ConsoleStore, Session

SESSION_LASTS: Final = timedelta(hours=12)
"""A working day; looking at a page does not make it longer."""

EMAIL_LENGTH_MAX: Final = 254
"""The longest address that mail can be sent to (RFC 5321)."""

SIGN_IN: Final = "/sign-in"
WRONG: Final = "That e-mail and password do not open anything. Check both and try again."
OLD_FORM: Final = "The form was open for too long, or cookies are off. Please try once more."

_INSIDE: Final = re.compile(r"/limits|/organizations/org_[0-9a-f]{32}(/limits)?")

logger: Final = structlog.get_logger("farebox.console")


class SignedOutError(Exception):
    """Nobody is signed in; the answer is the way to the door."""


class People:
    """The handlers of the door."""

    def __init__(
        self,
        store: ConsoleStore,
        environment: Environment,
        *,
        chance: Callable[[int], bytes],
        reception: Reception,
        login_place: str | None,
    ) -> None:
        self._store = store
        self._template = environment.get_template("sign_in.html")
        self._chance = chance
        self._login_place = login_place
        self._passwords = reception.passwords
        self._throttle = reception.throttle

    async def session(self, request: Request) -> Session:
        """Who is signed in.

        Raises:
            SignedOutError: Nobody.
        """
        token = read_cookie(request, SESSION_COOKIE)
        found = None if token is None else await self._store.find_session(token_digest(token))
        if found is None:
            raise SignedOutError
        return found

    async def show_sign_in(self, request: Request) -> Response:
        """``GET /sign-in``."""
        try:
            await self.session(request)
        except SignedOutError:
            return self._form(request, to=request.query_params.get("to", ""))
        return RedirectResponse("/", 303)

    async def sign_in(self, request: Request) -> Response:
        """``POST /sign-in``: a new session for whoever knows the password."""
        form = await read_form(request)
        email, to = form.get("email", "").strip(), form.get("to", "")
        if not form_token_matches(read_cookie(request, VISIT_COOKIE), form.get("form_token", "")):
            return self._form(request, to=to, email=email, error=OLD_FORM, status=403)
        address = request.client.host if request.client else ""
        wait = self._throttle.attempt(email[:EMAIL_LENGTH_MAX], address)
        if wait > 0:
            logger.warning("sign_in_throttled", address=address, wait_seconds=ceil(wait))
            return self._throttled(request, to, email, wait)
        person = await self._store.find_sign_in(email) if _plausible(email) else None
        known = None if person is None else person.password_hash
        if not await self._passwords.matches(form.get("password", ""), known) or person is None:
            logger.warning("sign_in_refused", address=address)
            return self._form(request, to=to, email=email, error=WRONG, status=401)
        self._throttle.succeeded(email, address)
        # What the client came with is ended, never taken over: it may have been planted.
        planted = read_cookie(request, SESSION_COOKIE)
        if planted is not None:
            await self._store.end_session(token_digest(planted))
        token = make_token(self._chance(TOKEN_BYTES))
        await self._store.open_session(token_digest(token), person.person_id, lasts=SESSION_LASTS)
        response = RedirectResponse(_inside(to), 303)
        seconds = int(SESSION_LASTS.total_seconds())
        set_cookie(request, response, SESSION_COOKIE, token, seconds=seconds)
        drop_cookie(request, response, VISIT_COOKIE)
        return response

    async def sign_out(self, request: Request) -> Response:
        """``POST /sign-out``: the session ends in the database, not only in the browser."""
        form = await read_form(request)
        token = read_cookie(request, SESSION_COOKIE)
        response = RedirectResponse(SIGN_IN, 303)
        if token is None:
            return response
        if not form_token_matches(token, form.get("form_token", "")):
            raise HTTPException(403, "The form was not made for this session. Reload the page.")
        await self._store.end_session(token_digest(token))
        drop_cookie(request, response, SESSION_COOKIE)
        return response

    async def signed_out(self, request: Request, error: Exception) -> Response:
        """The way to the door, for pages and for the parts that refresh themselves."""
        assert isinstance(error, SignedOutError)
        page = request.url.path.removesuffix("/live")
        door = f"{SIGN_IN}?{urlencode({'to': page})}" if _INSIDE.fullmatch(page) else SIGN_IN
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"hx-redirect": door})
        return RedirectResponse(door, 303)

    def _throttled(self, request: Request, to: str, email: str, wait: float) -> Response:
        minutes = ceil(wait / 60)
        unit = "minute" if minutes == 1 else "minutes"
        error = f"Too many attempts. Try again in {minutes} {unit}."
        response = self._form(request, to=to, email=email, error=error, status=429)
        response.headers["retry-after"] = str(ceil(wait))
        return response

    def _form(
        self, request: Request, *, to: str, email: str = "", error: str = "", status: int = 200
    ) -> Response:
        known = read_cookie(request, VISIT_COOKIE)
        visit = known or make_token(self._chance(TOKEN_BYTES))
        page = self._template.render(
            form_token=form_token(visit),
            to=_inside(to),
            email=email[:EMAIL_LENGTH_MAX],
            error=error,
            login_place=self._login_place,
        )
        response = Response(page, status, media_type="text/html")
        if status == 401:
            response.headers["www-authenticate"] = "Form"
        set_cookie(request, response, VISIT_COOKIE, visit, seconds=None)
        return response


def _plausible(email: str) -> bool:
    return 0 < len(email) <= EMAIL_LENGTH_MAX and "\x00" not in email


def _inside(to: str) -> str:
    """Where to go after signing in: a page of ours, never anywhere else."""
    return to if _INSIDE.fullmatch(to) else "/"
