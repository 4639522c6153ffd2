"""What is answered when something is wrong: a page to people, a document to programs.

Programs get a problem document (RFC 9457) below ``/api/``, and the shape that OpenAI's clients know
where OpenAI's own addresses are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from farebox.kit.errors import NotFoundError, UnavailableError

RETRY_SECONDS: Final = 5
"""A page that could not be made asks again after this."""

_PROGRAM_PATHS: Final = ("/api/",)
_OPENAI_PATHS: Final = ("/v1/", "/dashboard/")

_TITLES: Final = {
    400: "That could not be read",
    403: "That is not allowed",
    404: "There is no such page",
    405: "That cannot be done here",
    413: "That is too large",
    415: "That cannot be read here",
    429: "Too many attempts",
    500: "Something went wrong here",
    503: "The database does not answer",
}
_TEXTS: Final = {
    404: "The address may be mistyped, or what it showed is no longer here.",
    500: "The fault is ours and was logged. Money moves in the database alone, whole or not at "
    "all: no balance changed because of this page.",
    503: "Nothing is lost: every balance and every charge is kept in the database. New calls are "
    "refused until it is back, and nothing is charged meanwhile.",
}

logger: Final = structlog.get_logger("farebox.console")


class ErrorPages:
    """Answers for everything that is raised."""

    def __init__(self, environment: Environment) -> None:
        self._template = environment.get_template("error.html")

    async def refused(self, request: Request, error: Exception) -> Response:
        """An HTTP error that a handler or the router raised."""
        assert isinstance(error, HTTPException)
        usual = HTTPException(error.status_code).detail
        told = "" if error.detail == usual else error.detail
        return self._answer(request, error.status_code, told, headers=error.headers)

    async def missing(self, request: Request, error: Exception) -> Response:
        """There is no such thing."""
        assert isinstance(error, NotFoundError)
        return self._answer(request, 404, error.message)

    async def away(self, request: Request, error: Exception) -> Response:
        """The database is away."""
        assert isinstance(error, UnavailableError)
        logger.warning("database_away", path=request.url.path, error=error.message)
        return self._answer(request, 503, headers={"retry-after": str(RETRY_SECONDS)})

    async def failed(self, request: Request, error: Exception) -> Response:
        """A fault of ours; the server logs it with its trace."""
        logger.error("request_failed", path=request.url.path, error=type(error).__name__)
        return self._answer(request, 500)

    def _answer(
        self,
        request: Request,
        status: int,
        text: str = "",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        title = _TITLES.get(status, "That did not work")
        text = text or _TEXTS.get(status, "")
        if request.url.path.startswith(_PROGRAM_PATHS):
            code = _CODES.get(status, "refused")
            return problem(status, code, title, text, headers=headers)
        if request.url.path.startswith(_OPENAI_PATHS):
            message = text or f"{title}: {request.method[:20]} {request.url.path[:200]}"
            return openai_error(status, message, code=_OPENAI_CODES.get(status), headers=headers)
        page = self._template.render(
            status=status,
            title=title,
            text=text,
            # A form that was posted is not posted again: its answer asks for the first page.
            again=_again(request) if status == 503 else None,
        )
        return Response(page, status, headers=headers, media_type="text/html")


_CODES: Final = {
    404: NotFoundError.code,
    405: "method_not_allowed",
    500: "internal_error",
    503: "billing_unavailable",
}


_OPENAI_CODES: Final = {
    404: "unknown_url",
    405: "method_not_allowed",
    500: "internal_error",
    503: "billing_unavailable",
}
_OPENAI_KINDS: Final = {
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, as OpenAI's clients read it: all four keys, always."""

    message: str
    type: str
    param: None = None
    code: str | None


class OpenAIAnswer(msgspec.Struct, frozen=True):
    """An answer that is an error."""

    error: OpenAIError


def openai_error(
    status: int,
    message: str,
    *,
    code: str | None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the shape that OpenAI's clients know, as the gateway gives it.

    Args:
        status: Of the answer.
        message: What is wrong and what to do.
        code: The stable name of it.
        headers: More of them.
    """
    kind = _OPENAI_KINDS.get(status, "invalid_request_error")
    document = OpenAIAnswer(OpenAIError(message=message, type=kind, code=code))
    body = msgspec.json.encode(document)
    return Response(body, status, headers=headers, media_type="application/json")


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error for programs (RFC 9457).

    Args:
        status: Of the answer.
        code: The stable name of what is wrong.
        title: The same for people.
        detail: What to do.
        headers: More of them.
    """
    document = {"type": "about:blank", "title": title, "status": status, "code": code}
    if detail:
        document["detail"] = detail
    return Response(
        msgspec.json.encode(document),
        status,
        headers=headers,
        media_type="application/problem+json",
    )


def _again(request: Request) -> str:
    refresh = str(RETRY_SECONDS)
    return refresh if request.method in {"GET", "HEAD"} else f"{refresh}; url=/"
