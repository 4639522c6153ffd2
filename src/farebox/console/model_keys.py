"""``GET /v1/key`` on the console: what a key for models is told of itself (LIM-10).

The gateway answers the same at the same path; errors have OpenAI's shape here too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from farebox.console.openai_errors import openai_error
from farebox.console.throttle import ApiThrottle
from farebox.kit.errors import InvalidInputError, UnavailableError
from farebox.operations.attribution import read_names
from farebox.operations.key_status import CLOSED, KEY_MESSAGES, MISSING_KEY, KeyStatuses

REQUEST_ID: Final = "x-request-id"
RETRY_SECONDS: Final = 5

_BEARER: Final = "bearer "
_NAMING: Final = "x-farebox-"


class ModelKeys:
    """The handler."""

    def __init__(
        self, statuses: KeyStatuses, throttle: ApiThrottle, *, new_request_id: Callable[[], str]
    ) -> None:
        """Put it together.

        Args:
            statuses: Answers to keys.
            throttle: Of everything that programs ask here.
            new_request_id: Names an answer.
        """
        self._statuses = statuses
        self._throttle = throttle
        self._new_request_id = new_request_id

    async def show(self, request: Request) -> Response:
        """``GET /v1/key``."""
        response = await self._answer(request)
        response.headers[REQUEST_ID] = self._new_request_id()
        return response

    async def _answer(self, request: Request) -> Response:
        header = request.headers.get("authorization", "")
        key = header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else ""
        address = request.client.host if request.client else ""
        wait = self._throttle.attempt(key, address)
        if wait > 0:
            again = {"retry-after": str(ceil(wait))}
            message = f"Too many requests; ask again in {ceil(wait)} s."
            return openai_error(429, message, code="too_many_requests", headers=again)
        if not key:
            return openai_error(401, MISSING_KEY, code=None)
        try:
            status = await self._statuses.of(key, read_names(_headers(request)))
        except InvalidInputError as error:
            return openai_error(400, f"{error.message}.", code=None, param=error.field)
        except UnavailableError:
            again = {"retry-after": str(RETRY_SECONDS)}
            message = "Billing is unavailable for a moment; nothing was charged. Please try again."
            return openai_error(503, message, code="billing_unavailable", headers=again)
        if status is None or status.state in CLOSED:
            reason = "key_not_found" if status is None else CLOSED[status.state]
            return openai_error(401, KEY_MESSAGES[reason], code="invalid_api_key")
        self._throttle.proven(key)
        return Response(msgspec.json.encode(status), media_type="application/json")


def _headers(request: Request) -> dict[str, str]:
    """The headers that name scopes, read as the gateway reads them: UTF-8 where they are."""
    found: dict[str, str] = {}
    for raw, value in request.headers.raw:
        name = raw.decode("latin-1").lower()
        if name.startswith(_NAMING):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found
