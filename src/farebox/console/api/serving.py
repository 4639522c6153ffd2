"""Serving the table of routes: who asks, whether they may, what they say, once; and the answer."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from math import ceil
from typing import Any, Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as PathRoute
from starlette.types import Message, Receive, Scope, Send

from farebox.console.api.callers import Who, address_of, credential_of, find_caller
from farebox.console.api.fields import Nothing
from farebox.console.api.problems import (
    CODES,
    ProblemError,
    problem_of,
    response_of,
)
from farebox.console.api.reading import (
    JSON,
    check_accept,
    parse_body,
    parse_path,
    parse_query,
    read_body,
)
from farebox.console.api.routing import Context, Route
from farebox.console.reception import Reception
from farebox.console.throttle import ApiThrottle
from farebox.kit.errors import ConflictError, FareboxError, NotFoundError, UnavailableError
from farebox.operations.api_ports import ApiConnection, ApiDesk
from farebox.operations.idempotency import Answer, parse_key, request_fingerprint
from farebox.operations.tenants import OrganizationProfile
from farebox.tenancy.actors import ActorKind, Door, Via

PREFIX: Final = "/api/v1"
REQUEST_ID: Final = "x-request-id"
KEY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotency-replayed"

_SEALED: Final = "application/json; sealed"
"""How a remembered answer is marked whose body is encrypted."""

_PASSING: Final = frozenset({429})
"""Refusals that a repetition shall not meet again: they are not remembered."""

logger: Final = structlog.get_logger("farebox.api")


class NativeApi:
    """The application below :data:`PREFIX`."""

    def __init__(
        self,
        desk: ApiDesk,
        routes: tuple[Route, ...],
        description: bytes,
        *,
        throttle: ApiThrottle,
        reception: Reception,
    ) -> None:
        """Put it together.

        Args:
            desk: Opens connections.
            routes: What is served.
            description: The OpenAPI document; anybody may read it.
            throttle: Counts who asks how often.
            reception: Checks and makes passwords.
        """
        self._desk = desk
        self._throttle = throttle
        self._reception = reception

        async def openapi(_: Request) -> Response:
            return Response(description, media_type=JSON)

        paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            assert route.method not in paths.setdefault(route.path, {}), route
            paths[route.path][route.method] = route
        self._app = Starlette(
            routes=[
                PathRoute("/openapi.json", openapi),
                *(
                    PathRoute(path, self._endpoint(by_method), methods=list(by_method))
                    for path, by_method in paths.items()
                ),
            ],
            exception_handlers={HTTPException: _refused},
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its answer carries its id, whatever becomes of it."""
        request_id = f"api_{self._desk.new_id().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)

    def _endpoint(self, routes: dict[str, Route]) -> Any:
        async def serve(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            route = routes[method]
            try:
                return await self._serve(route, request)
            except ProblemError as problem:
                return response_of(problem)
            except HTTPException as error:
                refused = ProblemError(error.status_code, _code(error.status_code), error.detail)
                return response_of(refused)
            except UnavailableError as error:
                logger.warning("database_away", route=route.name, error=error.message)
                return response_of(problem_of(error))
            except FareboxError as error:
                return response_of(problem_of(error))
            except Exception:
                request_id = request.state.request_id
                logger.exception("request_failed", route=route.name, request_id=request_id)
                detail = "The fault is ours and was logged under the request's id."
                return response_of(ProblemError(500, CODES[500], detail))

        return serve

    async def _serve(self, route: Route, request: Request) -> Response:
        check_accept(request)
        credential = credential_of(request)
        self._slow_down(request, credential)
        body = await read_body(request) if route.is_write else b""
        via = Via(
            door=Door.API,
            address=address_of(request),
            request_id=request.state.request_id,
        )
        async with self._desk.connect() as connection:
            who = await find_caller(
                connection,
                request,
                via,
                write=route.is_write,
                model_keys=route.model_keys,
                strangers=route.open,
            )
            if who.standing.actor.kind is not ActorKind.STRANGER:
                self._throttle.proven(credential)
            ids, texts = parse_path(request.path_params)
            context = Context(
                session=connection.acting(who.standing.actor),
                standing=who.standing,
                acting=connection.acting,
                reception=self._reception,
                ids=ids,
                texts=texts,
                effect_id=self._desk.new_id(),
                model_key_of=who.model_key_of,
                address=via.address,
            )
            context.profile = await _admitted(route, context, who)
            if route.query is not Nothing or request.query_params:
                context.query = parse_query(request, route.query)
            if route.body is not None:
                context.body = parse_body(request, body, route.body)
            if not route.is_write:
                return _answer(route, await route.handler(context))
            return await self._write(route, request, connection, context, body)

    def _slow_down(self, request: Request, credential: str) -> None:
        """Refuse whoever asks too often, before anything is read.

        Raises:
            ProblemError: 429.
        """
        wait = ceil(self._throttle.attempt(credential, address_of(request)))
        if wait > 0:
            detail = f"Ask again in {wait} s; a key or a session has so many requests in a minute."
            again = {"retry-after": str(wait)}
            raise ProblemError(429, CODES[429], detail, headers=again)

    async def _write(
        self,
        route: Route,
        request: Request,
        connection: ApiConnection,
        context: Context,
        body: bytes,
    ) -> Response:
        """Do it once: whoever repeats it with its key gets the answer of the first time."""
        given = request.headers.get(KEY_HEADER)
        if given is None:
            context.effect_id = self._desk.new_id(await context.session.now())
            await _prepare(route, context)
            async with _whole(route, context):
                return _answer(route, await route.handler(context))
        key, caller = parse_key(given), context.standing.actor.id
        asked = request.url.path + ("?" + request.url.query if request.url.query else "")
        fingerprint = request_fingerprint(route.method, asked, body)
        if route.open:
            # A password is in it: nobody who reads the table may try passwords out against it. And
            # strangers have no name but what they ask for: two of them never share a key.
            fingerprint = self._desk.mark(fingerprint)
            caller = f"{caller} {fingerprint.hex()}"
        try:
            # By the database's clock: what is made carries this id.
            new_id = self._desk.new_id(await context.session.now())
            begun = await connection.requests.begin(caller, key, fingerprint, new_id)
        except ConflictError as error:
            again = {"retry-after": "1"}
            raise ProblemError(409, "request_in_progress", error.message, headers=again) from error
        if isinstance(begun, Answer):
            return self._again(begun)
        context.effect_id = begun.effect_id
        return await self._first(route, connection, context, caller, key)

    async def _first(
        self, route: Route, connection: ApiConnection, context: Context, caller: str, key: str
    ) -> Response:
        requests = connection.requests
        try:
            await _prepare(route, context)
            async with _whole(route, context):
                response = _answer(route, await route.handler(context))
                await requests.finish(caller, key, self._kept(route, response))
                return response
        except (FareboxError, ProblemError) as error:
            problem = error if isinstance(error, ProblemError) else problem_of(error)
            if problem.status < 500 and problem.status not in _PASSING:
                response = response_of(problem)
                await requests.finish(caller, key, self._kept(route, response))
                return response
            await _abandon(route, connection, caller, key)
            raise
        except Exception:
            await _abandon(route, connection, caller, key)
            raise

    def _kept(self, route: Route, response: Response) -> Answer:
        body = bytes(response.body)
        kind = response.media_type or ""
        if route.secret and response.status_code < 300:
            return Answer(response.status_code, _SEALED, self._desk.seal(body))
        return Answer(response.status_code, kind, body)

    def _again(self, answer: Answer) -> Response:
        body, kind = answer.body, answer.content_type
        if kind == _SEALED:
            body, kind = self._desk.open(body), JSON
        replayed = {REPLAYED_HEADER: "true"}
        return Response(body, answer.status, headers=replayed, media_type=kind or None)


async def _admitted(route: Route, context: Context, who: Who) -> OrganizationProfile | None:
    """Let whoever may pass; gives the organisation that the path names.

    Raises:
        NotFoundError: There is no such organisation, or it is none of theirs.
        RefusedError: They may not.
    """
    if not route.of_organization:
        if route.action is not None:
            who.standing.require(route.action)
        return None
    assert route.action is not None, route
    organization_id = context.ids["organization_id"]
    who.standing.require(route.action, organization_id)
    found = await context.session.tenants.organizations(organization_id=organization_id, limit=1)
    if not found:
        raise NotFoundError("There is no such organisation.")
    return found[0]


def _whole(route: Route, context: Context) -> AbstractAsyncContextManager[None]:
    """What happens inside commits together, where the route can."""
    return context.session.tenants.together() if route.atomic else nullcontext()


async def _prepare(route: Route, context: Context) -> None:
    if route.prepare is not None:
        context.prepared = await route.prepare(context)


async def _abandon(route: Route, connection: ApiConnection, caller: str, key: str) -> None:
    """Forget a request that had no effect; one that may have had stays, and meets its id again."""
    if route.atomic and not route.prepare_stays:
        with suppress(Exception):
            await connection.requests.abandon(caller, key)


def _answer(route: Route, document: object) -> Response:
    if route.answer is None:
        assert document is None, route
        return Response(status_code=route.status)
    return Response(msgspec.json.encode(document), route.status, media_type=JSON)


def _code(status: int) -> str:
    return CODES.get(status, "refused")


async def _refused(_: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    problem = ProblemError(
        error.status_code,
        _code(error.status_code),
        f"{PREFIX}/openapi.json says what there is.",
        headers=error.headers,
    )
    return response_of(problem)
