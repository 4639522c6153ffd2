"""Joining an organisation in a browser: the token that was handed over, and a password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from farebox.console.api.callers import address_of
from farebox.console.api.doors import TOKEN_LENGTH_MAX, Acceptance, Membership, join
from farebox.console.api.problems import ProblemError, problem_of
from farebox.console.api.routing import Context
from farebox.console.cookies import (
    TOKEN_BYTES,
    VISIT_COOKIE,
    form_token,
    form_token_matches,
    make_token,
    read_cookie,
    set_cookie,
)
from farebox.console.forms import read_form
from farebox.console.passwords import PASSWORD_LENGTH_MIN
from farebox.console.people import OLD_FORM, SIGN_IN
from farebox.console.reception import Reception
from farebox.kit.errors import FareboxError, UnavailableError
from farebox.operations.api_ports import ApiDesk
from farebox.tenancy.actors import Actor, ActorKind, Door
from farebox.tenancy.permissions import Standing

JOIN: Final = "/join"

logger: Final = structlog.get_logger("farebox.console")


class Joining:
    """The handlers of ``/join``; the rules are those of the API's open door."""

    def __init__(
        self,
        desk: ApiDesk,
        reception: Reception,
        environment: Environment,
        *,
        chance: Callable[[int], bytes],
    ) -> None:
        self._desk = desk
        self._reception = reception
        self._template = environment.get_template("join.html")
        self._chance = chance

    async def show(self, request: Request) -> Response:
        """``GET /join``: the form; the token is pasted, for an address stands in histories."""
        return self._form(request)

    async def join(self, request: Request) -> Response:
        """``POST /join``: a member, who signs in next."""
        form = await read_form(request)
        token = form.get("token", "").strip()[:TOKEN_LENGTH_MAX]
        if not form_token_matches(read_cookie(request, VISIT_COOKIE), form.get("form_token", "")):
            return self._form(request, token=token, error=OLD_FORM, status=403)
        try:
            await self._accept(request, Acceptance(token=token, password=form.get("password", "")))
        except UnavailableError:
            raise
        except (FareboxError, ProblemError) as error:
            problem = error if isinstance(error, ProblemError) else problem_of(error)
            logger.warning("joining_refused", address=address_of(request), code=problem.code)
            response = self._form(request, token=token, error=problem.detail, status=problem.status)
            response.headers.update(problem.headers)
            return response
        return RedirectResponse(SIGN_IN, 303)

    async def _accept(self, request: Request, acceptance: Acceptance) -> Membership:
        address = address_of(request)
        stranger = Actor(
            kind=ActorKind.STRANGER, id="stranger", name="", door=Door.CONSOLE, address=address
        )
        async with self._desk.connect() as connection:
            session = connection.acting(stranger)
            return await join(
                Context(
                    session=session,
                    standing=Standing(actor=stranger),
                    acting=connection.acting,
                    reception=self._reception,
                    ids={},
                    texts={},
                    effect_id=self._desk.new_id(await session.now()),
                    address=address,
                    body=acceptance,
                )
            )

    def _form(
        self, request: Request, *, token: str = "", error: str = "", status: int = 200
    ) -> Response:
        known = read_cookie(request, VISIT_COOKIE)
        visit = known or make_token(self._chance(TOKEN_BYTES))
        page = self._template.render(
            form_token=form_token(visit),
            token=token,
            error=error,
            password_length_min=PASSWORD_LENGTH_MIN,
        )
        response = Response(page, status, media_type="text/html")
        set_cookie(request, response, VISIT_COOKIE, visit, seconds=None)
        return response
