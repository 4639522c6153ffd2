"""What is answered when something is wrong: a page to people, a document to programs.

Programs get a problem document (RFC 9457) below ``/api/``, and the shape that OpenAI's clients know
where OpenAI's own addresses are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog
from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from farebox.console.api.problems import CODES, ProblemError, response_of
from farebox.console.openai_errors import CODES as OPENAI_CODES
from farebox.console.openai_errors import openai_error
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
            code = CODES.get(status, "refused")
            return response_of(ProblemError(status, code, text, headers=headers))
        if request.url.path.startswith(_OPENAI_PATHS):
            message = text or f"{title}: {request.method[:20]} {request.url.path[:200]}"
            return openai_error(status, message, code=OPENAI_CODES.get(status), headers=headers)
        page = self._template.render(
            status=status,
            title=title,
            text=text,
            # A form that was posted is not posted again: its answer asks for the first page.
            again=_again(request) if status == 503 else None,
        )
        return Response(page, status, headers=headers, media_type="text/html")


def _again(request: Request) -> str:
    refresh = str(RETRY_SECONDS)
    return refresh if request.method in {"GET", "HEAD"} else f"{refresh}; url=/"
