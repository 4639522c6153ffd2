"""Bytes that are requests, and bytes that two servers could read as different ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.server_exchange import Exchange
from farebox.gateway.server_parser import RequestParser
from farebox.gateway.server_shared import Limits
from tests.support.wires import HOST, chunked, request

POST = b"POST /x HTTP/1.1\r\n" + HOST
CODED = POST + b"transfer-encoding: chunked\r\n\r\n"
SMALL = Limits(head_bytes=1_000, head_lines=10, unread_body_bytes=100, pipelined=3)


@dataclass
class Taker:
    """A connection that takes what it is given."""

    room: int = 100
    taken: list[Exchange] = field(default_factory=list)
    whole: list[Exchange] = field(default_factory=list)
    held_back: int = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise AssertionError

    def accept(self, exchange: Exchange) -> bool:
        if len(self.taken) >= self.room:
            return False
        self.taken.append(exchange)
        return True

    def note_whole(self, exchange: Exchange) -> None:
        self.whole.append(exchange)

    def hold_back(self) -> None:
        self.held_back += 1

    def write_continue(self) -> None:
        raise AssertionError

    def read_on(self) -> None:
        raise AssertionError


Seen = tuple[str, str, dict[str, str], bytes, bool]


def body_of(exchange: Exchange) -> bytes:
    """A whole body."""
    assert exchange.is_whole
    reading = exchange.read_body(10_000_000)
    with pytest.raises(StopIteration) as stop:
        reading.send(None)
    found: bytes = stop.value.value
    return found


def read(*parts: bytes, limits: Limits = SMALL) -> tuple[list[Seen], GatewayError | None, Taker]:
    """The requests in some bytes, and why there are no more."""
    taker = Taker()
    parser = RequestParser(taker, limits)
    fault = None
    for part in parts:
        fault = parser.feed(part)
        if fault is not None:
            break
    parser.close()
    seen = [(one.method, one.path, one.headers, body_of(one), one.is_last) for one in taker.whole]
    return seen, fault() if fault else None, taker


REFUSED = {
    # Two lengths, or one that is none (RFC 9112, 6.3).
    "length and coding": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "the same length twice": POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "a list of lengths": POST + b"content-length: 3, 3\r\n\r\nabc",
    "a signed length": POST + b"content-length: +3\r\n\r\nabc",
    "a negative length": POST + b"content-length: -3\r\n\r\nabc",
    "a length in hex": POST + b"content-length: 0x3\r\n\r\nabc",
    "no length": POST + b"content-length:\r\n\r\nabc",
    "a length that overflows": POST + b"content-length: 99999999999999999999999\r\n\r\nabc",
    "a length in two words": POST + b"content-length: 1 1\r\n\r\nabc",
    # Codings but one (6.1).
    "identity": POST + b"transfer-encoding: identity\r\n\r\nabc",
    "gzip": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, then gzip": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "two codings": POST
    + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST
    + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "nearly chunked": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked behind a tab": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    # Lines (2.2, 5).
    "a space before the colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded line": POST + b"x: a\r\n b\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n host: x\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "a bare line feed": POST + b"x: a\ny: b\r\n\r\n",
    "a bare line feed at the end": POST + b"x: a\r\n\n",
    "a bare carriage return": POST + b"x: a\ry: b\r\n\r\n",
    "a zero in a value": POST + b"x: a\0b\r\n\r\n",
    "a control character in a value": POST + b"x: a\x01b\r\n\r\n",
    "a zero in a name": POST + b"x\0: a\r\n\r\n",
    "no name": POST + b": a\r\n\r\n",
    "no colon": POST + b"abc\r\n\r\n",
    "a quote in a name": POST + b'x"y: a\r\n\r\n',
    # Chunks (7.1).
    "a chunk of no length": CODED + b"\r\nabc\r\n0\r\n\r\n",
    "a chunk of letters": CODED + b"zz\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CODED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk shorter than it says": CODED + b"5\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": CODED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk with 0x": CODED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk that overflows": CODED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a space after a chunk's length": CODED + b"3 \r\nabc\r\n0\r\n\r\n",
    "line feeds around a chunk": CODED + b"3\nabc\n0\n\n",
    "a carriage return in an extension": CODED + b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "a length among the trailers": CODED + b"0\r\ncontent-length: 9\r\n\r\n",
    # First lines (3) and hosts (3.2).
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/2 from the beginning": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a protocol of its own": b"GET / ICE/1.0\r\n\r\n",
    "an unknown method": b"GETX / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space before the method": b" GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target that is no URL": b"GET http://:x/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "letters beyond ASCII in the target": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": POST + HOST + b"\r\n",
    "a proxy's method": b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("at_once", [True, False], ids=["whole", "byte by byte"])
def test_what_could_be_read_in_two_ways_is_refused(raw: bytes, at_once: bool) -> None:
    """Nothing is smuggled: such bytes are 400, and nothing after them is read."""
    raw += request("GET", "/smuggled")
    parts = [raw] if at_once else [raw[i : i + 1] for i in range(len(raw))]
    seen, fault, _ = read(*parts)
    assert fault is not None
    assert (fault.status, fault.code) == (400, "malformed_request")
    assert seen == []


def test_what_is_read() -> None:
    """Method, path without its query, joined headers, body; odd but clear requests too."""
    cases: list[tuple[bytes, Seen]] = [
        (
            request("POST", "/a?b=c#d", b"body", "X-A: 1", "x-a:2 \t", "x-b: \t"),
            (
                "POST",
                "/a",
                {"host": "gateway", "x-a": "1,2", "x-b": "", "content-length": "4"},
                b"body",
                False,
            ),
        ),
        (b"\r\n\r\n" + request(), ("GET", "/", {"host": "gateway"}, b"", False)),
        (request(path="/%41%2f%C3%A9"), ("GET", "/A/\u00e9", {"host": "gateway"}, b"", False)),
        (request(path="http://a:1/b?c"), ("GET", "/b", {"host": "gateway"}, b"", False)),
        (request(path="http://a"), ("GET", "/", {"host": "gateway"}, b"", False)),
        (request("OPTIONS", "*"), ("OPTIONS", "*", {"host": "gateway"}, b"", False)),
        (request(path="//a"), ("GET", "//a", {"host": "gateway"}, b"", False)),
        (b"GET / HTTP/1.0\r\n\r\n", ("GET", "/", {}, b"", True)),
        (
            b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
            ("GET", "/", {"connection": "keep-alive"}, b"", True),
        ),
        (
            request("GET", "/", None, "connection: Close"),
            ("GET", "/", {"host": "gateway", "connection": "Close"}, b"", True),
        ),
        (
            CODED + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n",
            ("POST", "/x", {"host": "gateway", "transfer-encoding": "chunked"}, b"abcde", False),
        ),
    ]
    for raw, expected in cases:
        assert read(raw)[:2] == ([expected], None), raw


def test_values_in_any_language() -> None:
    """UTF-8 is read as UTF-8, everything else byte by byte."""
    ((_, _, headers, _, _),), _, _ = read(POST + b"a: \xc3\xa9\r\nb: \xe9\r\n\r\n")
    assert (headers["a"], headers["b"]) == ("\u00e9", "\u00e9")


@pytest.mark.parametrize(
    "body", [b"content-length: 3\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n"]
)
def test_an_upgrade_is_not_asked_for(body: bytes) -> None:
    """RFC 9110, 7.8: one who asks for another protocol is answered in this one, body and all."""
    ask = POST + "connection: upgrade, x\r\nUpgrade: h2c\r\nx: \u00e9\r\n".encode()
    raw = ask + body + (chunked(b"abc") if b"chunked" in body else b"")
    for parts in (
        [raw + request()],
        [raw[:-1], raw[-1:] + request()],
        [ask, raw[len(ask) :], request()],
    ):
        seen, fault, _ = read(*parts)
        assert fault is None
        assert [one[3] for one in seen] == [b"abc", b""]
        assert seen[0][2]["connection"] == "upgrade, x"
        assert seen[0][2]["x"] == "\u00e9"
        assert "upgrade" not in seen[0][2]


def test_nothing_after_the_last() -> None:
    """Bytes after a request that closes are an error, and no request."""
    seen, fault, _ = read(request("GET", "/", None, "connection: close") + request())
    assert len(seen) == 1
    assert fault is not None


# Limits.


@pytest.mark.parametrize(
    "raw",
    [
        request("GET", "/", None, *(f"x-{i}: y" for i in range(10))),
        request("GET", "/", None, "x: " + "y" * 1_000),
        request("GET", "/" + "y" * 1_000),
        b"GET /" + b"y" * 3_000,
        POST + b"x: " + b"y" * 3_000,
        POST + b"x" * 3_000,
    ],
    ids=["lines", "value", "target", "endless target", "endless value", "endless name"],
)
@pytest.mark.parametrize("size", [100, 100_000])
def test_heads_are_bounded(raw: bytes, size: int) -> None:
    """A head that is too large is 431, whole or without an end."""
    parts = [raw[i : i + size] for i in range(0, len(raw), size)]
    if not raw.endswith(b"\r\n\r\n") and size > len(raw):
        parts += [b"y"] * 2_001  # what came in one piece is not counted until it goes on
    seen, fault, _ = read(*parts)
    assert seen == []
    assert fault is not None
    assert (fault.status, fault.code) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "raw", [b"1;x=" + b"y" * 5_000, b"0\r\nx: " + b"y" * 5_000], ids=["extension", "trailer"]
)
def test_codings_are_bounded(raw: bytes) -> None:
    """A flood of what is no content is refused; chunks of one byte are not."""
    seen, fault, _ = read(CODED, *(raw[i : i + 50] for i in range(0, len(raw), 50)))
    assert seen == []
    assert fault is not None
    assert fault.code == "malformed_request"
    text = chunked(*[b"z"] * 5_000)
    seen, fault, _ = read(CODED, *(text[i : i + 50] for i in range(0, len(text), 50)))
    assert (seen[0][3], fault) == (b"z" * 5_000, None)


def test_bodies_that_nobody_asked_for() -> None:
    """The connection is told when more is kept than a handler may leave unread."""
    _, _, taker = read(request("POST", "/", b"y" * 100))
    assert taker.held_back == 0
    _, _, taker = read(request("POST", "/", b"y" * 101))
    assert taker.held_back == 1


def test_no_room() -> None:
    """A request that the connection does not take ends the reading."""
    taker = Taker(room=1)
    parser = RequestParser(taker, SMALL)
    fault = parser.feed(request() * 2)
    assert fault is not None
    assert "too many" in fault().message
    parser.close()


# However the bytes are cut.

NAMES = st.from_regex(r"x-[a-z]{1,8}", fullmatch=True)
VALUES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request in one of its forms."""
    lines = [f"{draw(NAMES)}: {draw(VALUES)}" for _ in range(draw(st.integers(0, 4)))]
    body = draw(st.none() | st.binary(max_size=60))
    path = "/" + draw(st.text("abc/%20", max_size=10)).replace("%", "%41")
    head = f"POST {path} HTTP/1.1\r\n".encode() + HOST + "".join(f"{n}\r\n" for n in lines).encode()
    if draw(st.booleans()):
        head += b"connection: upgrade\r\nupgrade: h2c\r\n"
    if body is None:
        return head + b"\r\n"
    if draw(st.booleans()):
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    cut = draw(st.integers(1, 20))
    return (
        head
        + b"transfer-encoding: chunked\r\n\r\n"
        + chunked(*(body[i : i + cut] for i in range(0, len(body), cut)))
    )


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_however_the_bytes_are_cut(several: list[bytes], data: st.DataObject) -> None:
    """Any split of the bytes of valid requests gives the same requests."""
    raw = b"".join(several)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    parts = [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole, fault, _ = read(raw)
    assert fault is None
    assert len(whole) == len(several)
    assert read(*parts)[:2] == (whole, None)
    assert read(*(raw[i : i + 1] for i in range(len(raw))))[:2] == (whole, None)
