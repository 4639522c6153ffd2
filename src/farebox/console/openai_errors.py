"""Errors in the shape that OpenAI's clients know, for the addresses that are OpenAI's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

CODES: Final = {
    404: "unknown_url",
    405: "method_not_allowed",
    500: "internal_error",
    503: "billing_unavailable",
}
_KINDS: Final = {
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, as OpenAI's clients read it: all four keys, always."""

    message: str
    type: str
    param: str | None = None
    code: str | None


class OpenAIAnswer(msgspec.Struct, frozen=True):
    """An answer that is an error."""

    error: OpenAIError


def openai_error(
    status: int,
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the shape that OpenAI's clients know, as the gateway gives it.

    Args:
        status: Of the answer.
        message: What is wrong and what to do.
        code: The stable name of it.
        param: The field or header that is wrong.
        headers: More of them.
    """
    kind = _KINDS.get(status, "invalid_request_error")
    document = OpenAIAnswer(OpenAIError(message=message, type=kind, param=param, code=code))
    body = msgspec.json.encode(document)
    return Response(body, status, headers=headers, media_type="application/json")
