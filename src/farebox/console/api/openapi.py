"""The OpenAPI 3.1 document, read off the table of routes: what it does not say is not served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from farebox.console.api.fields import PATH_PREFIXES
from farebox.console.api.problems import PROBLEM, TITLES, Problem
from farebox.console.api.routing import Route
from farebox.console.openai_errors import OpenAIAnswer
from farebox.operations.attribution import HEADERS as ATTRIBUTION_HEADERS
from farebox.operations.idempotency import KEY_LENGTH_MAX
from farebox.operations.key_status import PATH as KEY_PATH
from farebox.operations.key_status import KeyStatus

VERSION: Final = "1"
JSON: Final = "application/json"

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_DESCRIPTION: Final = (
    "Everything of Farebox that can be managed. Amounts are decimal strings of the currency's "
    "major unit; instants are RFC 3339 in UTC; ids have a prefix that says of what they are. Lists "
    "come in pages: next_cursor leads to the next one. Every write takes an Idempotency-Key: the "
    "same request with the same key is done once and answered the same, for 35 days. Errors are "
    "problem documents (RFC 9457) whose code is stable. What belongs to another organisation is "
    "answered like what is not there."
)

Document = dict[str, Any]


def describe(routes: Iterable[Route]) -> bytes:
    """The document, as JSON."""
    table = tuple(routes)
    kinds: list[Any] = [Problem, KeyStatus, OpenAIAnswer]
    for route in table:
        kinds += [kind for kind in (route.answer, route.body, route.query) if kind is not None]
    unique = list({repr(kind): kind for kind in kinds}.values())
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    by_kind = {repr(kind): schema for kind, schema in zip(unique, schemas, strict=True)}
    paths: Document = {}
    for route in table:
        paths.setdefault(f"/api/v1{route.path}", {})[route.method.lower()] = _operation(
            route, by_kind, components
        )
    paths[KEY_PATH] = {"get": _model_key(by_kind)}
    for route in table:
        components.pop(route.query.__name__, None)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Farebox native API", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": _CALLERS,
        "tags": [{"name": tag} for tag in (*dict.fromkeys(r.tag for r in table), _MODELS)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }
    _prune(document, components)
    return msgspec.json.encode(document)


def _prune(document: Document, components: Document) -> None:
    """Take out what nothing refers to: kinds that are keys of an object alone."""
    text = msgspec.json.encode(document).decode()
    for name in list(components):
        if f'"#/components/schemas/{name}"' not in text:
            del components[name]


_CALLERS: Final[list[Document]] = [{"managementKey": []}, {"session": [], "formToken": []}]
_MODELS: Final = "model keys"


def _model_key(schemas: Document) -> Document:
    """What a key for models is told of itself: the one path that is not below ``/api/v1``."""
    error = {JSON: {"schema": schemas[repr(OpenAIAnswer)]}}
    refusals = {
        str(status): {"description": TITLES[status] + ".", "content": error}
        for status in (400, 401, 429, 503)
    }
    done = {"description": "Done.", "content": {JSON: {"schema": schemas[repr(KeyStatus)]}}}
    return {
        "operationId": "showModelKey",
        "summary": "What a key for models may do now; also on the gateway, at most a second old",
        "description": "With the headers of its calls it is told of the user, feature, run and "
        "tags that they name, too.",
        "tags": [_MODELS],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in ATTRIBUTION_HEADERS.items()
        ],
        "security": [{"modelKey": []}],
        "responses": {"200": done} | refusals,
    }


_SECURITY: Final[Document] = {
    "modelKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key for models, fbx_live_... or fbx_test_...",
    },
    "managementKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A management key, fbx_admin_..., of the deployment or one organisation.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "farebox_session",
        "description": "Somebody who is signed in to the console.",
    },
    "formToken": {
        "type": "apiKey",
        "in": "header",
        "name": "x-farebox-form-token",
        "description": "With writes by cookie.",
    },
}


def _operation(route: Route, schemas: Document, components: Document) -> Document:
    operation: Document = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
        "responses": _responses(route, schemas),
    }
    if route.action is not None:
        operation["x-farebox-action"] = route.action.value
    if route.open:
        operation["security"] = [{}, *_CALLERS]
    if route.is_write:
        operation["parameters"].append(_KEY)
    if route.body is not None:
        content = {JSON: {"schema": schemas[repr(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


_KEY: Final[Document] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the client: makes a repetition harmless.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_LENGTH_MAX,
        "pattern": "^[!-~]+$",
    },
}


def _path_parameters(route: Route) -> list[Document]:
    found = []
    for name in _PARAMETER.findall(route.path):
        schema: Document = {"type": "string"}
        if name in PATH_PREFIXES:
            schema["pattern"] = f"^{PATH_PREFIXES[name]}_[0-9a-f]{{32}}$"
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _query_parameters(route: Route, components: Document) -> list[Document]:
    described = components[route.query.__name__]
    required = described.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in described["properties"].items()
    ]


def _responses(route: Route, schemas: Document) -> Document:
    done: Document = {"description": "Done."}
    if route.answer is not None:
        done["content"] = {JSON: {"schema": schemas[repr(route.answer)]}}
    problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refusals = {
        str(status): {"description": TITLES[status] + ".", "content": problem}
        for status in sorted(statuses_of(route) - {route.status})
    }
    return {str(route.status): done} | refusals


def statuses_of(route: Route) -> frozenset[int]:
    """Every status that it may answer with."""
    statuses = {route.status, 401, 403, 406, 422, 429, 503, *route.refusals}
    if _PARAMETER.search(route.path):
        statuses.add(404)
    if route.is_write:
        statuses |= {400, 408, 409, 413}
    if route.body is not None:
        statuses.add(415)
    return frozenset(statuses)
