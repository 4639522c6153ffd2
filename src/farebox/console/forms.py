"""Posted forms: small, URL-encoded, and from our own pages.

Whether a form comes from another site is told by what browsers say of it: ``Sec-Fetch-Site`` where
they send it, else ``Origin`` against ``Host``. A client that says neither is no browser, and has no
cookies to abuse.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

FORM_BYTES_MAX: Final = 16_384
"""The largest form has an address and a password."""

FIELDS_MAX: Final = 16
_FORM: Final = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form; of a repeated one the last.

    Raises:
        HTTPException: 403 from another site, 413 too large, 415 another type, 400 unreadable.
    """
    refuse_foreign(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise HTTPException(415, f"Forms are posted as {_FORM}.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise HTTPException(413, f"The form is larger than {FORM_BYTES_MAX // 1024} KiB.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


def refuse_foreign(request: Request) -> None:
    """Refuse what a page of another site sends.

    Raises:
        HTTPException: 403.
    """
    told = request.headers.get("sec-fetch-site")
    if told is not None:
        if told in {"same-origin", "none"}:
            return
        raise HTTPException(403, "The form was posted from another site.")
    origin = request.headers.get("origin")
    if origin is None:
        return
    _, _, place = origin.lower().partition("://")
    if place and place == request.headers.get("host", "").lower():
        return
    raise HTTPException(
        403,
        "The form was posted from another address than this one. "
        "If Farebox stands behind a proxy, have the proxy pass on the Host header.",
    )
