"""The console as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from farebox.console.api.openapi import describe
from farebox.console.api.serving import PREFIX as API_PREFIX
from farebox.console.api.serving import NativeApi
from farebox.console.api.table import ROUTES
from farebox.console.assets import PREFIX, Assets
from farebox.console.errors import ErrorPages
from farebox.console.finding_pages import FindingPages
from farebox.console.joining import JOIN, Joining
from farebox.console.limit_pages import LimitPages
from farebox.console.model_keys import ModelKeys
from farebox.console.pages import Pages
from farebox.console.passwords import PasswordDesk
from farebox.console.people import SIGN_IN, People, SignedOutError
from farebox.console.reception import Reception
from farebox.console.rendering import make_environment
from farebox.console.security import SecurityHeaders
from farebox.console.throttle import REQUESTS_PER_CALLER_MAX, ApiThrottle, SignInThrottle
from farebox.kit.errors import NotFoundError, UnavailableError
from farebox.operations.api_ports import ApiDesk
from farebox.operations.console_views import ConsoleStore
from farebox.operations.key_status import PATH as KEY_PATH
from farebox.operations.key_status import KeyStatuses


@dataclass(frozen=True, slots=True)
class ConsoleDeps:
    """Everything the console stands on."""

    store: ConsoleStore
    api: ApiDesk
    """What the native API works with."""
    keys: KeyStatuses
    """What keys for models are told of themselves."""
    chance: Callable[[int], bytes]
    """Gives so many random bytes, good enough for secrets."""
    monotonic: Callable[[], float]
    """Seconds on a clock that never goes back."""
    sandbox: bool
    """Whether every page says that this is play money."""
    login_place: str | None = None
    """In a sandbox: where the first login is written down, told on the sign-in page."""
    requests_max: int = REQUESTS_PER_CALLER_MAX
    """Requests of one key or session to the API in a minute."""


def build_console(deps: ConsoleDeps) -> ASGIApp:
    """Put the console together; nothing is read or started yet."""
    assets = Assets()
    environment = make_environment(assets.address, sandbox=deps.sandbox)
    reception = Reception(
        PasswordDesk(chance=deps.chance), SignInThrottle(monotonic=deps.monotonic)
    )
    people = People(
        deps.store,
        environment,
        chance=deps.chance,
        reception=reception,
        login_place=deps.login_place if deps.sandbox else None,
    )
    pages = Pages(deps.store, people, environment)
    limits = LimitPages(deps.store, deps.api, people, environment)
    joining = Joining(deps.api, reception, environment, chance=deps.chance)
    throttle = ApiThrottle(monotonic=deps.monotonic, requests_max=deps.requests_max)
    api = NativeApi(deps.api, ROUTES, describe(ROUTES), throttle=throttle, reception=reception)
    model_keys = ModelKeys(
        deps.keys, throttle, new_request_id=lambda: f"api_{deps.api.new_id().hex}"
    )
    errors = ErrorPages(environment)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            await deps.store.ping()
        except UnavailableError:
            return JSONResponse({"status": "unavailable", "reason": "database"}, 503)
        return JSONResponse({"status": "ready"})

    console = Starlette(
        routes=[
            Route("/", pages.first),
            Route("/limits", pages.first),
            Route("/organizations/{id}", pages.organization),
            Route("/organizations/{id}/limits", limits.show),
            Route("/organizations/{id}/live", pages.live),
            Route(SIGN_IN, people.show_sign_in, methods=["GET"]),
            Route(SIGN_IN, people.sign_in, methods=["POST"]),
            Route(JOIN, joining.show, methods=["GET"]),
            Route(JOIN, joining.join, methods=["POST"]),
            Route("/doctor/{code}", FindingPages(environment).show),
            Route("/sign-out", people.sign_out, methods=["POST"]),
            Mount(API_PREFIX, api),
            Route(KEY_PATH, model_keys.show),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route(PREFIX + "{name:path}", assets.serve),
        ],
        exception_handlers={
            HTTPException: errors.refused,
            SignedOutError: people.signed_out,
            NotFoundError: errors.missing,
            UnavailableError: errors.away,
            Exception: errors.failed,
        },
    )
    # A redirect that mends a path would be built from whatever the client calls this host.
    console.router.redirect_slashes = False
    return SecurityHeaders(console)
