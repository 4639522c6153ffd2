"""The pages behind the door: which organisation, and how its money stands."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, Template
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from farebox.console.cookies import SESSION_COOKIE, form_token, read_cookie
from farebox.console.notices import notices
from farebox.console.people import People
from farebox.console.whereabouts import whereabouts
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id, parse_id
from farebox.operations.console_views import (
    ConsoleStore,
    OrganizationName,
    OrganizationView,
    Session,
)

HOLDS_SHOWN: Final = 10
CALLS_SHOWN: Final = 20
ORGANIZATIONS_SHOWN: Final = 100
"""More are found by name or id."""

NAME_LENGTH_MAX: Final = 200
REFRESH_SECONDS: Final = 2


class Pages:
    """Their handlers."""

    def __init__(self, store: ConsoleStore, people: People, environment: Environment) -> None:
        self._store = store
        self._people = people
        self._environment = environment

    async def first(self, request: Request) -> Response:
        """``GET /``, ``/limits``: the one organisation there is, the one chosen, or the choice."""
        below = request.url.path.rstrip("/")
        session = await self._people.session(request)
        wanted = request.query_params.get("organization", "").strip()[:NAME_LENGTH_MAX]
        person = session.person_id
        found = (
            await self._store.find_organization(person, wanted)
            if wanted and wanted.isprintable()
            else None
        )
        if found is not None:
            return _to(found, below)
        known = await self._store.organizations(person, limit=ORGANIZATIONS_SHOWN + 1)
        if len(known) == 1 and not wanted:
            return _to(known[0], below)
        page = render_inside(
            request,
            session,
            self._environment.get_template("organizations.html"),
            below=below,
            choice=choice_of(known),
            more=len(known) > ORGANIZATIONS_SHOWN,
            wanted=wanted,
        )
        return Response(page, 404 if wanted else 200, media_type="text/html")

    async def organization(self, request: Request) -> Response:
        """``GET /organizations/{id}``: everything, whole."""
        session = await self._people.session(request)
        view = await self._view(request, session)
        known = await self._store.organizations(session.person_id, limit=ORGANIZATIONS_SHOWN + 1)
        page = render_inside(
            request,
            session,
            self._environment.get_template("organization.html"),
            below="",
            choice=choice_of(known, OrganizationName(view.id, view.name)),
            more=len(known) > ORGANIZATIONS_SHOWN,
            refresh_seconds=REFRESH_SECONDS,
            **_facts(view),
        )
        return Response(page, media_type="text/html")

    async def live(self, request: Request) -> Response:
        """``GET /organizations/{id}/live``: the part of the page that changes."""
        session = await self._people.session(request)
        view = await self._view(request, session)
        page = self._environment.get_template("live.html").render(**_facts(view))
        return Response(page, media_type="text/html")

    async def _view(self, request: Request, session: Session) -> OrganizationView:
        try:
            wanted = parse_id("org", request.path_params["id"], field="organization")
            return await self._store.view_organization(
                session.person_id, wanted, holds=HOLDS_SHOWN, calls=CALLS_SHOWN
            )
        except (InvalidInputError, NotFoundError) as error:
            raise HTTPException(404, "There is no organisation with that id.") from error


def render_inside(
    request: Request, session: Session, template: Template, *, below: str, **facts: object
) -> str:
    """A page behind the door.

    Args:
        request: Of the session.
        session: Who looks.
        template: The page's.
        below: Which page of an organisation it is: what follows the organisation's address.
        facts: What the template shows.
    """
    token = read_cookie(request, SESSION_COOKIE)
    assert token is not None, "a session without its cookie"
    return template.render(session=session, form_token=form_token(token), below=below, **facts)


def _facts(view: OrganizationView) -> dict[str, object]:
    balance = view.balance
    return {
        "view": view,
        "balance": balance,
        "notices": notices(view),
        "parts": whereabouts(balance),
    }


def choice_of(
    known: list[OrganizationName], current: OrganizationName | None = None
) -> list[OrganizationName]:
    """What the selector offers: by name, the current one among them."""
    offered = {name.id: name for name in known[:ORGANIZATIONS_SHOWN]}
    if current is not None:
        offered[current.id] = current
    return sorted(offered.values(), key=lambda name: (name.name.casefold(), name.id))


def _to(organization: OrganizationName, below: str) -> Response:
    return RedirectResponse(f"/organizations/{format_id('org', organization.id)}{below}", 303)
