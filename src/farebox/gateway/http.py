"""What the gateway's handlers see of HTTP: a head and a body in, an answer or a stream out.

No server's types appear here, so that the wire can be replaced without touching what a call means
(DESIGN.md, "Hot path").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import ClassVar

import msgspec

from farebox.kit.errors import FareboxError

Headers = list[tuple[str, str]]


class BodyTooLargeError(FareboxError):
    """The request's body is larger than the limit."""

    code: ClassVar[str] = "body_too_large"


class ClientGoneError(FareboxError):
    """The client closed the connection before its request was whole."""

    code: ClassVar[str] = "client_gone"


class Request(msgspec.Struct):
    """One request; its body is read only when a handler asks for it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; of a repeated header the values joined by a comma."""
    read_body: Callable[[int], Awaitable[bytes]]
    """Reads the whole body, at most that many bytes (raises BodyTooLargeError)."""


class Answer(msgspec.Struct):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


class StreamAnswer(msgspec.Struct):
    """An answer that comes in pieces."""

    status: int
    headers: Headers
    chunks: AsyncGenerator[bytes, None]
    """Must be read to its end, client or no client: the end is where the call is charged."""
    abandon: Callable[[], None]
    """Says that the client is gone; the pieces then end soon."""


Handler = Callable[[Request], Awaitable[Answer | StreamAnswer]]


def json_answer(status: int, document: object, headers: Headers | None = None) -> Answer:
    """A JSON answer."""
    return Answer(
        status,
        [("content-type", "application/json"), *(headers or [])],
        msgspec.json.encode(document),
    )
