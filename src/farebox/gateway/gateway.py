"""The routes of the data plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from farebox.gateway.attribution import Labels, read_labels
from farebox.gateway.bodies import CallBody, read_chat, read_embeddings
from farebox.gateway.call import Call
from farebox.gateway.callers import Callers, read_bearer, refuse_inactive
from farebox.gateway.desk import BODY_BYTES_MAX, Desk, logger
from farebox.gateway.dispatch import answer_headers, dispatch
from farebox.gateway.http import (
    Answer,
    BodyTooLargeError,
    ClientGoneError,
    Request,
    StreamAnswer,
    json_answer,
)
from farebox.gateway.metrics import CONTENT_TYPE
from farebox.gateway.openai_errors import (
    BILLING_UNAVAILABLE,
    GatewayError,
    away,
    internal,
    invalid_request,
    too_large,
    unknown_model,
    wrong_key,
)
from farebox.gateway.streamed_call import StreamedCall
from farebox.gateway.whole_call import Flavor, answer_whole, finish_whole
from farebox.kit.errors import InvalidInputError, NotFoundError, UnavailableError
from farebox.kit.ids import format_id, parse_id
from farebox.ledger.commands import Refused
from farebox.operations.attribution import Names, read_names
from farebox.operations.directory import Caller
from farebox.operations.key_status import PATH as KEY_PATH
from farebox.operations.key_status import KeyStatus
from farebox.operations.refusals import Refusal

CALLS_PREFIX: Final = "/api/v1/calls/"
MODELS_PREFIX: Final = "/v1/models/"

_OF_MODELS: Final = frozenset({"model_not_found", "model_not_allowed"})
"""Refusals that the engine never sees."""
EVENT_STREAM: Final = ("content-type", "text/event-stream")

_C = TypeVar("_C", bound=Call)

CallLookup = Callable[[UUID, UUID], Awaitable[dict[str, object]]]
"""Explains a call of an organisation (its id, then the call's); raises NotFoundError."""

KeyLookup = Callable[[str, Names], Awaitable[KeyStatus | None]]
"""What a key is told of itself and of what it names; None for a text that is no key here."""


class Gateway:
    """Handles every request of the data plane."""

    def __init__(
        self, desk: Desk, callers: Callers, look_up_call: CallLookup, look_up_key: KeyLookup
    ) -> None:
        self.desk = desk
        self.callers = callers
        self._look_up_call = look_up_call
        self._look_up_key = look_up_key
        self._posts: dict[str, Callable[[Request], Awaitable[Answer | StreamAnswer]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/embeddings": self._embeddings,
        }
        self._gets: dict[str, Callable[[Request], Awaitable[Answer | StreamAnswer]]] = {
            "/v1/models": self._models,
            KEY_PATH: self._key,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }

    async def handle(self, request: Request) -> Answer | StreamAnswer:
        """Answer a request, in OpenAI's shape whatever happens."""
        try:
            return await self._route(request)(request)
        except GatewayError as error:
            call_id = error.call_id or self.desk.new_call_id()
            return self._refusal(request, error, format_id("req", call_id))
        except BodyTooLargeError:
            return too_large(BODY_BYTES_MAX).answer(self._fresh_id())
        except ClientGoneError:
            raise
        except UnavailableError:
            return self._refusal(request, away(), self._fresh_id())
        except Exception as error:  # noqa: BLE001 - the last door: a fault must not look like silence
            return self._failure(request, error, self._fresh_id())

    def refuse(self, error: GatewayError) -> Answer:
        """The answer to what was no request."""
        return error.answer(self._fresh_id())

    def _failure(self, request: Request, error: Exception, request_id: str) -> Answer:
        logger.exception("request_failed", request_id=request_id, path=request.path)
        return self._refusal(request, internal(error), request_id)

    def _refusal(self, request: Request, error: GatewayError, request_id: str) -> Answer:
        if error.code == BILLING_UNAVAILABLE:
            self.desk.metrics.unavailable.inc()
        error.explain(self.desk.help_url)
        if request.path.startswith("/api/"):
            return error.problem(request_id)
        return error.answer(request_id)

    def _route(self, request: Request) -> Callable[[Request], Awaitable[Answer | StreamAnswer]]:
        path, method = request.path.rstrip("/") or "/", request.method
        gets = method in {"GET", "HEAD"}
        table = self._gets if gets else self._posts if method == "POST" else {}
        handler = table.get(path)
        if handler is not None:
            return handler
        if gets and path.startswith(MODELS_PREFIX):
            return self._model
        if gets and path.startswith(CALLS_PREFIX):
            return self._call
        if path in self._posts or path in self._gets:
            raise GatewayError(
                405,
                f"{method[:20]} is not allowed on {path[:200]}.",
                code="method_not_allowed",
                headers=[("allow", "POST" if path in self._posts else "GET, HEAD")],
            )
        raise GatewayError(
            404, f"Unknown request URL: {method[:20]} {path[:200]}.", code="unknown_url"
        )

    # Calls that cost money.

    async def _chat(self, request: Request) -> Answer | StreamAnswer:
        caller = await self._caller(request)
        body = read_chat(await request.read_body(BODY_BYTES_MAX))
        if body.stream:
            return await self._streamed(request, caller, body)
        call = self._new_call(Call, request, caller, "chat/completions", body)
        return await self._answered(call, request, "chat")

    async def _embeddings(self, request: Request) -> Answer | StreamAnswer:
        caller = await self._caller(request)
        body = read_embeddings(await request.read_body(BODY_BYTES_MAX))
        call = self._new_call(Call, request, caller, "embeddings", body)
        return await self._answered(call, request, "embeddings")

    async def _answered(self, call: Call, request: Request, flavor: Flavor) -> Answer:
        """Admit and answer; errors carry the call's own id."""
        try:
            async with request.presence.needed():
                await call.admit()
            return await answer_whole(call, request.headers, flavor)
        except GatewayError as error:
            return self._refusal(request, error, call.request_id)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - the same last door, with the call's id on it
            return self._failure(request, error, call.request_id)

    async def _streamed(
        self, request: Request, caller: Caller, body: CallBody
    ) -> Answer | StreamAnswer:
        call = self._new_call(StreamedCall, request, caller, "chat/completions", body)
        try:
            async with request.presence.needed():
                await call.admit()
            return await self._stream_of(call, request)
        except GatewayError as error:
            return self._refusal(request, error, call.request_id)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return self._failure(request, error, call.request_id)

    async def _stream_of(self, call: StreamedCall, request: Request) -> Answer | StreamAnswer:
        """Send an admitted call; gives its stream, or a whole answer if none comes of it."""
        streaming = False
        try:
            async with request.presence.needed():
                response = await dispatch(call, request.headers)
            if isinstance(response, Answer):
                return response
            if "json" in dict(response.headers).get("content-type", ""):
                return await finish_whole(call, response, "chat")  # it does not stream
            streaming = True
            headers = [*answer_headers(call, response), ("cache-control", "no-cache")]
            if not dict(headers).get("content-type"):
                headers = [*(h for h in headers if h[0] != "content-type"), EVENT_STREAM]
            return StreamAnswer(
                response.status,
                headers,
                call.stream(response),
                call.abandon,
            )
        except ClientGoneError:
            await call.forsaken()
            raise
        finally:
            if not streaming:
                call.release("interrupted")
                if call.response is not None:
                    await call.response.close()

    def _new_call(
        self, kind: type[_C], request: Request, caller: Caller, endpoint: str, body: CallBody
    ) -> _C:
        labels = read_labels(
            request.headers,
            user=body.user,
            metadata=body.metadata,
            environment=caller.environment,
        )
        try:
            call = kind(self.desk, caller, endpoint, body, labels)
        except GatewayError as error:
            if error.code in _OF_MODELS:
                self._note_refused(caller, endpoint, body, labels, error)
            raise
        authorization = request.headers.get("authorization", "")
        call.look_up = lambda: self.callers.caller(authorization, fresh=True, anew=True)
        return call

    def _note_refused(
        self, caller: Caller, endpoint: str, body: CallBody, labels: Labels, error: GatewayError
    ) -> None:
        """A call for a model that it may not have is a row too, by its id (ERR-07, ERR-11)."""
        assert error.code is not None
        error.call_id = self.desk.new_call_id()
        self.desk.metrics.refusals.labels(error.code).inc()
        self.desk.note_refusal(
            Refusal(
                call_id=error.call_id,
                organization_id=caller.organization_id,
                project_id=caller.project_id,
                key_id=caller.id,
                model=body.model,
                endpoint=endpoint,
                user=labels.attribution.user,
                feature=labels.feature,
                refusal=Refused(code=error.code, message=error.message),
            )
        )

    # What costs nothing.

    async def _models(self, request: Request) -> Answer:
        await self._active_caller(request)
        data = [_model_object(model, owner) for model, owner in self.desk.sales.models()]
        return json_answer(200, {"object": "list", "data": data}, self._id_header())

    async def _model(self, request: Request) -> Answer:
        await self._active_caller(request)
        wanted = request.path.removeprefix(MODELS_PREFIX)
        for model, owner in self.desk.sales.models():
            if wanted in {model, f"{owner}/{model}"}:
                return json_answer(200, _model_object(model, owner), self._id_header())
        raise unknown_model(wanted)

    async def _key(self, request: Request) -> Answer:
        """What the key may do now, and what is left of it (LIM-10)."""
        key = read_bearer(request.headers.get("authorization", ""))
        try:
            names = read_names(request.headers)
        except InvalidInputError as error:
            raise invalid_request(f"{error.message}.", param=error.field) from error
        status = await self._look_up_key(key, names)
        if status is None:
            raise wrong_key()
        refuse_inactive(status.state)
        return json_answer(200, status, self._id_header())

    async def _call(self, request: Request) -> Answer:
        """A call of the key's own organisation, explained; its charge among the rest."""
        caller = await self._active_caller(request)
        try:
            call_id = parse_id("req", request.path.removeprefix(CALLS_PREFIX), field="call id")
            return json_answer(
                200, await self._look_up_call(caller.organization_id, call_id), self._id_header()
            )
        except (InvalidInputError, NotFoundError) as error:
            raise GatewayError(404, error.message, code="not_found") from error

    async def _healthz(self, _: Request) -> Answer:
        return json_answer(200, {"status": "ok"})

    async def _readyz(self, _: Request) -> Answer:
        try:
            await self.desk.sales.refresh()
        except UnavailableError:
            return json_answer(503, {"status": "unavailable", "reason": "database"})
        if not self.desk.node.may_admit:
            return json_answer(503, {"status": "unavailable", "reason": "heartbeat"})
        return json_answer(200, {"status": "ready"})

    async def _metrics(self, _: Request) -> Answer:
        return Answer(200, [("content-type", CONTENT_TYPE)], self.desk.metrics.page())

    async def _caller(self, request: Request) -> Caller:
        return await self.callers.caller(request.headers.get("authorization", ""), fresh=False)

    async def _active_caller(self, request: Request) -> Caller:
        caller = await self.callers.caller(request.headers.get("authorization", ""), fresh=True)
        refuse_inactive(caller.state_at(self.desk.sales.now))
        return caller

    def _fresh_id(self) -> str:
        return format_id("req", self.desk.new_call_id())

    def _id_header(self) -> list[tuple[str, str]]:
        return [("x-request-id", self._fresh_id())]


def _model_object(model: str, owner: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": owner}
