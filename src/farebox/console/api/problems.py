"""What is answered when something is wrong (RFC 9457), and which error is which status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from farebox.kit.errors import (
    ConflictError,
    FareboxError,
    IncompatibleError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)

PROBLEM: Final = "application/problem+json"
RETRY_SECONDS: Final = 5

TITLES: Final = {
    400: "That could not be read",
    401: "No valid key",
    403: "That is not allowed",
    404: "There is no such thing",
    405: "That cannot be done here",
    406: "The answer is JSON",
    408: "The request took too long",
    409: "It cannot be done as things stand",
    413: "That is too large",
    415: "The body must be JSON",
    422: "A value cannot be taken",
    429: "Too many requests",
    500: "Something went wrong here",
    503: "The database does not answer",
}

CODES: Final = {
    400: "malformed_request",
    401: "invalid_api_key",
    404: NotFoundError.code,
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    500: "internal_error",
    503: "billing_unavailable",
}


class FieldError(Struct, frozen=True):
    """A field that is wrong."""

    field: str
    reason: str


class Problem(Struct, frozen=True, kw_only=True):
    """What is wrong."""

    type: str
    """Where the code is explained; ``about:blank`` so far."""
    title: str
    status: int
    detail: str | UnsetType = UNSET
    code: str
    """The stable name of what is wrong."""
    errors: list[FieldError] | UnsetType = UNSET


class ProblemError(Exception):
    """An answer of its own, for what only HTTP knows."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[FieldError] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors


_UNPROCESSABLE: Final = frozenset({"idempotency_key_reused"})
_FORBIDDEN: Final = frozenset({"permission_denied", "sign_up_is_off"})


def problem_of(error: FareboxError) -> ProblemError:
    """The answer to an error of the house."""
    match error:
        case InvalidInputError():
            fields = [FieldError(error.field, error.reason)]
            return ProblemError(422, error.code, error.message, errors=fields)
        case NotFoundError():
            return ProblemError(404, error.code, error.message)
        case ConflictError():
            return ProblemError(409, error.code, error.message)
        case RefusedError():
            status = 422 if error.reason in _UNPROCESSABLE else 409
            status = 403 if error.reason in _FORBIDDEN else status
            return ProblemError(status, error.reason, error.message)
        case UnavailableError() | IncompatibleError():
            detail = "Nothing is lost; ask again, with the same Idempotency-Key if there was one."
            again = {"retry-after": str(RETRY_SECONDS)}
            return ProblemError(503, CODES[503], detail, headers=again)
        case _:
            return ProblemError(500, error.code, error.message)


def response_of(problem: ProblemError) -> Response:
    """A problem as it is sent."""
    document = Problem(
        type="about:blank",
        title=TITLES.get(problem.status, "That did not work"),
        status=problem.status,
        detail=problem.detail or UNSET,
        code=problem.code,
        errors=problem.errors or UNSET,
    )
    return Response(
        msgspec.json.encode(document),
        problem.status,
        headers=problem.headers,
        media_type=PROBLEM,
    )


_PLACE: Final = re.compile(r"^(?P<reason>.*) - at (?:`key` in )?`\$\.?(?P<field>.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)


def field_error(error: msgspec.ValidationError, *, root: str) -> FieldError:
    """Which field a value does not fit, and why.

    Args:
        error: Of decoding or converting.
        root: The name of the whole, where the error names no field.
    """
    text = str(error)
    found = _PLACE.match(text)
    place, reason = (found["field"], found["reason"]) if found else ("", text)
    for pattern, told in ((_MISSING, "is required"), (_UNKNOWN, "is not known here")):
        named = pattern.match(reason)
        if named is not None:
            inner = f"{place}.{named['name']}" if place else named["name"]
            return FieldError(inner[:200], told)
    return FieldError((place or root)[:200], reason[:1].lower() + reason[1:300])
