"""From a connection's bytes to its requests: strict, and bounded whatever comes.

Two servers must never read the same bytes as different requests, so whatever could be read in two
ways is refused: both lengths, a length twice, folded lines, chunks that are none, a second host
(RFC 9112, sections 2, 3.2, 5, 6 and 7). llhttp refuses most of it; the rest is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final, NoReturn, Protocol
from urllib.parse import unquote

import httptools

from farebox.gateway.desk import logger
from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.server_exchange import Exchange, Line
from farebox.gateway.server_faults import head_too_large, malformed
from farebox.gateway.server_shared import Limits

FRAMING_PER_BYTE_MAX: Final = 16
"""Of a body's coding; chunks of one byte need five. More is a flood of extensions or trailers."""

Fault = Callable[[], GatewayError]
"""Makes an error anew wherever it is raised: one that is kept would lead back to its keeper."""


class Taker(Line, Protocol):
    """The connection, as far as its parser needs it."""

    def accept(self, exchange: Exchange) -> bool:
        """Take a request whose head is whole; False where too many wait already."""

    def note_whole(self, exchange: Exchange) -> None:
        """All of a request has come."""

    def hold_back(self) -> None:
        """Let the client wait."""


class RequestParser:
    """Reads the requests of one connection."""

    __slots__ = (
        "_connection",
        "_fault",
        "_framing",
        "_head_bytes",
        "_is_long",
        "_limits",
        "_lines",
        "_parser",
        "_url",
        "in_head",
        "incoming",
    )

    def __init__(self, connection: Taker, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._fault: Fault | None = None
        self._url = b""
        self._lines: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_long = False
        self._framing = 0
        self.in_head = False
        """A head has begun to come and is not whole."""
        self.incoming: Exchange | None = None
        """The request whose body is coming."""

    def feed(self, data: bytes) -> Fault | None:
        """Read on; gives why there is no reading on, if so.

        Requests go to the connection as soon as their heads are whole.
        """
        before, was_in_head = self.incoming, self.in_head
        self._is_long = was_in_head or len(data) > self._limits.head_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._take_as_ordinary(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError) and self._fault is None:
                logger.error("request_not_read", error=repr(error.__context__))
            return self._fault or partial(malformed, str(error))
        # What llhttp keeps of an unfinished line, or drops of a body's coding, it does not tell.
        if self.in_head and was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                return self._too_large()
        elif before is not None and self.incoming is before:
            self._framing += len(data)
            if self._framing > self._limits.head_bytes:
                return partial(malformed, "its chunks have more coding than content")
        return None

    def close(self) -> None:
        """Read no more."""
        # Both lead back to us, and only a collector would find out that nobody needs us.
        del self._parser, self._connection

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self.in_head = True
        self._url, self._lines = b"", []
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of its head, or of its trailers, which mean nothing here."""
        self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        parser = self._parser
        if parser.should_upgrade():
            return  # read in a second try
        self.in_head = False
        headers = self._read_lines()
        is_plain = self._check(parser.get_http_version(), headers)
        exchange = Exchange(
            self._connection, parser.get_method().decode("ascii"), self._path(), headers
        )
        exchange.is_plain = is_plain
        exchange.is_last = is_plain or not parser.should_keep_alive()
        if "expect" in headers and not is_plain:
            exchange.expects = headers["expect"].lower() == "100-continue"
        if not self._connection.accept(exchange):
            self._give_up(partial(malformed, "too many requests came at once"))
        self.incoming = exchange
        self._framing = 0

    def on_body(self, part: bytes) -> None:
        """A piece of its body."""
        exchange = self.incoming
        assert exchange is not None
        exchange.take(part)
        self._framing -= len(part) * (FRAMING_PER_BYTE_MAX + 1)
        if exchange.unread_bytes > self._limits.unread_body_bytes:
            self._connection.hold_back()

    def on_message_complete(self) -> None:
        """Its last byte."""
        exchange, self.incoming = self.incoming, None
        if exchange is not None:
            exchange.end()
            self._connection.note_whole(exchange)

    # How.

    def _read_lines(self) -> dict[str, str]:
        """The head's lines: of a repeated one the values joined by a comma."""
        lines, limits = self._lines, self._limits
        self._lines = []
        if len(lines) > limits.head_lines or (
            # One that came in a short piece is short itself, and need not be measured.
            self._is_long
            and len(self._url) + sum(len(name) + len(value) + 4 for name, value in lines)
            > limits.head_bytes
        ):
            self._give_up(self._too_large())
        headers: dict[str, str] = {}
        for name, value in lines:
            key = _lower(name)
            try:
                text = value.decode()  # labels in people's own languages are UTF-8
            except UnicodeDecodeError:
                text = value.decode("latin-1")
            text = text.rstrip(" \t")
            if key in headers:
                if key == "host":
                    self._give_up(partial(malformed, "it names two hosts"))
                text = f"{headers[key]},{text}"
            headers[key] = text
        return headers

    def _check(self, version: str, headers: dict[str, str]) -> bool:
        """Refuse what llhttp lets pass; says whether it is HTTP/1.0."""
        is_plain = version == "1.0"
        if not is_plain and version != "1.1":
            self._give_up(partial(malformed, "its version is neither HTTP/1.1 nor HTTP/1.0"))
        if "host" not in headers and not is_plain:
            self._give_up(partial(malformed, "it names no host"))
        if "transfer-encoding" in headers and (
            is_plain
            or headers["transfer-encoding"].lower() != "chunked"
            or "content-length" in headers
        ):
            self._give_up(partial(malformed, "its Transfer-Encoding is not chunked alone"))
        return is_plain

    def _path(self) -> str:
        url = self._url
        if not url.startswith(b"/") and url != b"*":
            try:
                url = httptools.parse_url(url).path or b"/"
            except httptools.HttpParserInvalidURLError:
                self._give_up(partial(malformed, "its target is no URL"))
        path = url.partition(b"?")[0].partition(b"#")[0].decode("ascii")
        return unquote(path) if "%" in path else path

    def _take_as_ordinary(self, rest: bytes) -> Fault | None:
        """Read a request that asks for another protocol as if it had not asked (RFC 9110, 7.8).

        llhttp takes such a request's body for the other protocol's bytes; so it gets the head once
        more, without the question.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            return partial(malformed, "this is no proxy")
        lines = b"".join(
            [b"%b: %b\r\n" % line for line in self._lines if _lower(line[0]) != "upgrade"]
        )
        first = b"%b %b HTTP/%b\r\n" % (method, self._url, version.encode())
        self._parser = httptools.HttpRequestParser(self)
        return self.feed(b"%b%b\r\n%b" % (first, lines, rest))

    def _too_large(self) -> Fault:
        return partial(head_too_large, self._limits.head_bytes, self._limits.head_lines)

    def _give_up(self, fault: Fault) -> NoReturn:
        """End the parsing from inside."""
        self._fault = fault
        raise ValueError


@lru_cache(maxsize=512)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()
