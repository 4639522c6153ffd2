"""What the server writes: heads that no value can break out of, and pieces of streams.

A header's value is made harmless, not refused: by then its call may be charged, and an answer must
not be lost for an odd character in it.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from farebox.gateway.http import Headers

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSING: Final = "connection: close\r\n"
CHUNKED: Final = "transfer-encoding: chunked\r\n"
LAST_PIECE: Final = b"0\r\n\r\n"

NO_BODY: Final = frozenset({204, 304})
"""Answers of these statuses have no body and no length (RFC 9110, 8.6)."""

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def head(status: int, headers: Headers, framing: str) -> bytes:
    """An answer's head.

    Args:
        status: Its status, 200 at least.
        headers: Its fields; a control character in a value becomes a space.
        framing: The server's own lines, each with its end.

    Raises:
        ValueError: A status that ends no request, or a name that is none: our own mistakes.
    """
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
    count = len(headers)
    # Every line has one end, so a value that brings its own is found by counting.
    if fields.count("\n") != count or fields.count("\r") != count or "\0" in fields:
        fields = "".join([f"{_checked(name)}: {_harmless(value)}\r\n" for name, value in headers])
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    if status < 200:
        raise ValueError(status)
    return f"{line}{framing}{fields}\r\n".encode("latin-1", "replace")


def piece(data: bytes) -> bytes:
    """A piece of a stream in chunked coding; an empty one would be the stream's end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _checked(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(name)
    return name


def _harmless(value: str) -> str:
    return _CONTROLS.sub(" ", value)
