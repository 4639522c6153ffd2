"""The two cookies: one for a session, one for a visit before there is a session.

Both hold 256 random bits that mean nothing by themselves. The form token of a cookie is derived
from it, so only a page that we gave to the holder of the cookie can post a form (double submit);
a new session has a new token, so one that was planted before is worth nothing.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

TOKEN_BYTES: Final = 32
SESSION_COOKIE: Final = "farebox_session"
VISIT_COOKIE: Final = "farebox_visit"

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def make_token(chance: bytes) -> str:
    """Write a token.

    Args:
        chance: :data:`TOKEN_BYTES` random bytes.
    """
    assert len(chance) == TOKEN_BYTES, len(chance)
    return urlsafe_b64encode(chance).rstrip(b"=").decode()


def token_digest(token: str) -> bytes:
    """The SHA-256 under which a session is kept: whoever reads the table cannot sign in."""
    return sha256(token.encode()).digest()


def form_token(token: str) -> str:
    """The hidden field that forms carry for the holder of that cookie."""
    return hmac.new(token.encode(), b"farebox form", sha256).hexdigest()


def form_token_matches(token: str | None, posted: str) -> bool:
    """Tell whether a posted form was made for the holder of the cookie."""
    if token is None:
        return False
    return hmac.compare_digest(form_token(token).encode(), posted.encode())


def read_cookie(request: Request, name: str) -> str | None:
    """The token in a cookie, if there is one and it has the form of one."""
    text = request.cookies.get(name, "")
    return text if _TOKEN.fullmatch(text) else None


def set_cookie(
    request: Request, response: Response, name: str, token: str, *, seconds: int | None
) -> None:
    """Give the client a token that no script can read; over HTTPS it never leaves it again."""
    response.set_cookie(
        name,
        token,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Have the client forget a cookie."""
    response.delete_cookie(
        name, path="/", secure=request.url.scheme == "https", httponly=True, samesite="lax"
    )
