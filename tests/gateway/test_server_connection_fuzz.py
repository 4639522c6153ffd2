"""Whatever bytes come, in whatever pieces: answers that can be read, and nothing raised."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from hypothesis import given
from hypothesis import strategies as st

from farebox.gateway.http import Answer, Request, StreamAnswer
from tests.support.wires import HOST, MemoryClient, Stream, echo, new_server, request

LATER_BYTES_MAX = 200
TURNS = 30

WORDS = st.sampled_from(
    [
        request("POST", "/", b"body"),
        request("GET", "/stream"),
        request("GET", "/unread", None, "content-length: 3"),
        request("POST", "/", None, "transfer-encoding: chunked"),
        request("GET", "/", None, "connection: close"),
        request("POST", "/", b"x", "connection: upgrade", "upgrade: h2c"),
        request("POST", "/", None, "expect: 100-continue", "content-length: 1"),
        b"POST /stream HTTP/1.0\r\n",
        b"GET / HTTP/1.1\r\n",
        HOST,
        b"content-length: 2\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\0",
        b"abc",
    ]
)
BYTES = st.lists(WORDS | st.binary(max_size=4), min_size=1, max_size=12).map(b"".join)


async def some_answer(asked: Request) -> Answer | StreamAnswer:
    """One of each kind."""
    if asked.path == "/unread":
        return Answer(401, [], b"no")
    if asked.path == "/stream":
        return await Stream([b"one", b"", b"two"]).handler(asked)
    return await echo(asked)


class Answers:
    """Reads what the server wrote, as a client would."""

    def __init__(self) -> None:
        self.whole = self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.whole += 1


async def talk(raw: bytes, cuts: list[int], *, goes: bool) -> tuple[MemoryClient, list[Any]]:
    """Send bytes in pieces, with turns of the loop between them."""
    troubles: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
    client = MemoryClient(
        new_server(some_answer, head_bytes=500, head_lines=9, later_bytes=LATER_BYTES_MAX)
    )
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if client.transport.is_closed:
            break
        client.send(raw[start:end])
        await asyncio.sleep(0)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    if goes:
        client.hang_up()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert client.connection.current is None
        assert not client.connection.shared.running
    return client, troubles


@given(BYTES, st.data(), st.booleans())
def test_whatever_comes(raw: bytes, data: st.DataObject, goes: bool) -> None:
    """Every byte that the server writes belongs to an answer, and no task is left with an error."""
    size = len(raw)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, size - 1)), max_size=6)))
    client, troubles = asyncio.run(talk(raw, [cut for cut in cuts if cut < size], goes=goes))
    assert troubles == []
    answers = Answers()
    parser = httptools.HttpResponseParser(answers)
    for written in client.transport.writes:
        if not written.startswith(b"HTTP/1.1 100 "):
            parser.feed_data(written)
    assert answers.begun - answers.whole <= 1
    if answers.begun > answers.whole:
        # To HTTP/1.0 the end of the connection is the end of a stream.
        assert goes or client.transport.is_closed
