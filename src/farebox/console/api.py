"""The native API, as far as it goes: a call, explained."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from farebox.console.errors import problem
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import parse_id
from farebox.operations.console_views import Bearer, ConsoleStore
from farebox.tenancy.api_keys import digest, kind_of

_BEARER: Final = "bearer "
_NO_CALL: Final = "A call's id is the x-request-id of its answer: req_ and 32 hexadecimal digits."
"""The same for a call of another organisation: it is not there."""


class Api:
    """Its handlers; they look at the bearer's key alone, never at a cookie."""

    def __init__(self, store: ConsoleStore) -> None:
        self._store = store

    async def call(self, request: Request) -> Response:
        """``GET /api/v1/calls/{x-request-id}``: what it cost, and why.

        A management key sees every call; a key for models sees those of its own organisation.
        Another organisation's call is not there.
        """
        bearer = await self._bearer(request)
        if bearer is None:
            return problem(
                401,
                "invalid_api_key",
                "No valid key",
                "Send a key that is in use: Authorization: Bearer fbx_admin_... (all calls) or "
                "fbx_live_.../fbx_test_... (calls of its organisation).",
                headers={"www-authenticate": "Bearer"},
            )
        try:
            call_id = parse_id("req", request.path_params["id"], field="call id")
            found = await self._store.explain_call(call_id, organization_id=bearer.organization_id)
        except (InvalidInputError, NotFoundError):
            return problem(404, NotFoundError.code, "There is no such call", _NO_CALL)
        return Response(msgspec.json.encode(found), media_type="application/json")

    async def _bearer(self, request: Request) -> Bearer | None:
        header = request.headers.get("authorization", "")
        if header[: len(_BEARER)].lower() != _BEARER:
            return None
        key = header[len(_BEARER) :].strip()
        kind = kind_of(key)
        return None if kind is None else await self._store.find_bearer(kind, digest(key))
