"""The page of an organisation's limits: how much of each is left, and until when (LIM-10).

It shows what the API's list shows, from the same reads, with names for ids. Whoever may not change
limits, or not even see them, is told who may (ORG-13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from farebox.console.api.callers import address_of
from farebox.console.api.limits import LimitQuery, LimitsFound, find_limits
from farebox.console.cookies import SESSION_COOKIE, read_cookie, token_digest
from farebox.console.limit_rows import LimitRow, limit_rows, names_wanted
from farebox.console.pages import ORGANIZATIONS_SHOWN, choice_of, render_inside
from farebox.console.people import People, SignedOutError
from farebox.kit.errors import InvalidInputError, NotFoundError, RefusedError
from farebox.kit.ids import looks_like_id, parse_id
from farebox.kit.texts import storable
from farebox.ledger.scopes import ID_KINDS, ScopeKind
from farebox.operations.api_ports import ApiDesk, ApiSession
from farebox.operations.console_views import ConsoleStore, OrganizationName
from farebox.operations.tenants import OrganizationProfile
from farebox.tenancy.actors import Door, Via
from farebox.tenancy.permissions import PERMITTED, Action, Standing

ROWS_SHOWN: Final = 100
"""Of one page; the next one is a link away."""

OWN_ROWS_SHOWN: Final = 300
"""Limits of the organisation itself: a tier's, of which there may be 201, and its own."""

NAMES_SHOWN: Final = 5
MEMBERS_READ: Final = 500
"""Members among whom those who may are looked for."""

SCOPE_LENGTH_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Shown:
    """Some limits, of one instant."""

    rows: list[LimitRow]
    found: LimitsFound


class LimitPages:
    """The handler."""

    def __init__(
        self, store: ConsoleStore, desk: ApiDesk, people: People, environment: Environment
    ) -> None:
        self._store = store
        self._desk = desk
        self._people = people
        self._template = environment.get_template("limits.html")

    async def show(self, request: Request) -> Response:
        """``GET /organizations/{id}/limits``.

        Query: ``kind`` and ``scope`` narrow the second table, ``cursor`` is the place of its page.

        Raises:
            HTTPException: 400 for a query that means nothing, 403 for a person without the right,
                404 for an organisation that is none of theirs.
        """
        session = await self._people.session(request)
        known = await self._store.organizations(session.person_id, limit=ORGANIZATIONS_SHOWN + 1)
        facts = await self._facts(request)
        profile: OrganizationProfile = facts["view"]
        page = render_inside(
            request,
            session,
            self._template,
            below="/limits",
            choice=choice_of(known, OrganizationName(profile.id, profile.name)),
            more=len(known) > ORGANIZATIONS_SHOWN,
            **facts,
        )
        return Response(page, media_type="text/html")

    async def _facts(self, request: Request) -> dict[str, Any]:
        token = read_cookie(request, SESSION_COOKIE)
        assert token is not None, "a session without its cookie"
        via = Via(door=Door.CONSOLE, address=address_of(request))
        async with self._desk.connect() as connection:
            standing = await connection.person_standing(token_digest(token), via)
            if standing is None:
                raise SignedOutError
            session = connection.acting(standing.actor)
            profile = await _organization(request, session, standing)
            kind, scope = _narrowed(request)
            query = LimitQuery(
                scope_kind=kind,
                scope_id=await _scope_id(session, profile.id, kind, scope),
                limit=ROWS_SHOWN,
                cursor=request.query_params.get("cursor") or None,
            )
            own = LimitQuery(scope_kind=ScopeKind.ORGANIZATION, limit=OWN_ROWS_SHOWN)
            others = await _shown(session, profile.id, query)
            return {
                "view": profile,
                "own": await _shown(session, profile.id, own),
                "others": _without_own(others) if kind is None else others,
                "tier": await session.tiers.show(profile.id),
                "kinds": [each.value for each in ScopeKind if each is not ScopeKind.ORGANIZATION],
                "kind": "" if kind is None else kind.value,
                "scope": scope,
                "is_later": query.cursor is not None,
                "next_page": _next_page(kind, scope, others.found.next_cursor),
                "who_may_change": (
                    None
                    if standing.may(Action.LIMITS_CHANGE, profile.id)
                    else await _who_may(session, profile.id, Action.LIMITS_CHANGE)
                ),
            }


async def _organization(
    request: Request, session: ApiSession, standing: Standing
) -> OrganizationProfile:
    """The path's organisation, if the person may see its limits."""
    missing = HTTPException(404, "There is no organisation with that id.")
    try:
        wanted = parse_id("org", request.path_params["id"], field="organization")
    except InvalidInputError as error:
        raise missing from error
    try:
        standing.require(Action.LIMITS_VIEW, wanted)
    except NotFoundError as error:
        raise missing from error
    except RefusedError as error:
        who = await _who_may(session, wanted, Action.LIMITS_VIEW)
        raise HTTPException(403, f"{error.message} {who}") from error
    found = await session.tenants.organizations(organization_id=wanted, limit=1)
    if not found:
        raise missing
    return found[0]


async def _who_may(session: ApiSession, organization_id: UUID, action: Action) -> str:
    """Whom to ask, by name (ORG-13)."""
    members = await session.people_store.members(
        organization_id=organization_id, limit=MEMBERS_READ
    )
    emails = [member.email for member in members if member.role in PERMITTED[action]]
    if not emails:
        return "No member here may; ask an operator of this Farebox."
    more = len(emails) - NAMES_SHOWN
    return f"Ask {', '.join(emails[:NAMES_SHOWN])}{f' or {more} more' if more > 0 else ''}."


def _narrowed(request: Request) -> tuple[ScopeKind | None, str]:
    """What the query asks for: a kind of scopes, and one of them."""
    kind = request.query_params.get("kind", "")
    scope = request.query_params.get("scope", "").strip()
    if kind and kind not in {each.value for each in ScopeKind}:
        raise HTTPException(400, "There is no such kind of scope. Choose one from the list.")
    if len(scope) > SCOPE_LENGTH_MAX or storable(scope) != scope:
        raise HTTPException(400, f"A name has at most {SCOPE_LENGTH_MAX} plain characters.")
    return (ScopeKind(kind) if kind else None), scope


async def _scope_id(
    session: ApiSession, organization_id: UUID, kind: ScopeKind | None, scope: str
) -> str | None:
    """The scope that a person named, as the list knows it: projects and keys by their id."""
    if not scope:
        return None
    if kind not in ID_KINDS or looks_like_id("proj" if kind is ScopeKind.PROJECT else "key", scope):
        return scope
    administration = session.administration
    find = administration.find_project if kind is ScopeKind.PROJECT else administration.find_key
    try:
        return (await find(scope, organization_id=organization_id)).id.hex
    except NotFoundError:
        return scope
    except InvalidInputError as error:
        raise HTTPException(400, f"{error.message}.") from error


async def _shown(session: ApiSession, organization_id: UUID, query: LimitQuery) -> Shown:
    try:
        found = await find_limits(session.money, organization_id, query)
    except InvalidInputError as error:
        raise HTTPException(400, "That page of the list is gone. Begin with the first.") from error
    names = await session.money.scope_names(
        organization_id,
        projects=[UUID(ref) for ref in names_wanted(found.views, ScopeKind.PROJECT)],
        keys=[UUID(ref) for ref in names_wanted(found.views, ScopeKind.KEY)],
    )
    refused = await session.money.shadow_refusals(organization_id, found.views)
    return Shown(limit_rows(found.views, refused, names, found.at), found)


def _without_own(shown: Shown) -> Shown:
    """What is not in the organisation's own table."""
    rows = [row for row in shown.rows if row.scope != "organisation"]
    return Shown(rows, shown.found)


def _next_page(kind: ScopeKind | None, scope: str, cursor: str | None) -> str | None:
    if cursor is None:
        return None
    query = {"kind": "" if kind is None else kind.value, "scope": scope, "cursor": cursor}
    return "?" + urlencode({name: text for name, text in query.items() if text})
