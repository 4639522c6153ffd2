"""Requests and answers on one connection: framing, order, pressure, and what is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from farebox.gateway.http import Answer, BodyTooLargeError, Request, StreamAnswer, json_answer
from tests.support.wires import (
    HOST,
    MemoryClient,
    Stream,
    chunked,
    echo,
    new_server,
    request,
    serving,
    until,
)

MEGABYTE = 2**20
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"


# Framing.


async def test_one_write() -> None:
    """A request that comes whole is answered with one task and one write."""
    client = MemoryClient(new_server(echo)).send(request("POST", "/", b"body"))
    assert client.task is not None
    await client.task
    (written,) = client.transport.writes
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"date: " + DATE.encode(),
        b"content-length: %d" % len(body),
        b"content-type: application/json",
    ]
    assert json.loads(body)["body"] == "body"


async def test_a_connection_is_kept() -> None:
    """Requests follow each other on one connection until one says that it is the last."""
    async with serving(echo) as served:
        client = await served.connect()
        for number in range(3):
            answer = await client.ask(request("POST", f"/{number}", b"x" * number))
            assert (answer.json["path"], answer.json["body"]) == (f"/{number}", "x" * number)
            assert "connection" not in answer.headers
        answer = await client.ask(request("GET", "/last", None, "connection: close"))
        assert (answer.json["path"], answer.headers["connection"]) == ("/last", "close")
        assert await client.ended() == b""


async def test_http_1_0() -> None:
    """An old client is answered and closed; its stream ends with the connection, uncoded."""
    stream = Stream()
    for handler, body in ((echo, None), (stream.handler, b"onetwo")):
        async with serving(handler) as served:
            client = await served.connect()
            answer = await client.ask(request(version="1.0"))
            assert answer.headers["connection"] == "close"
            assert "transfer-encoding" not in answer.headers
            assert body is None or answer.body == body
            assert await client.ended() == b""


async def test_answers_without_a_body() -> None:
    """HEAD gets the head of a GET; 204 has no length either."""
    async with serving(echo) as served:
        client = await served.connect()
        asked = await client.ask(request("HEAD", "/x"), to_head=True)
        length = len((await client.ask(request("GET", "/x"))).body)
        assert int(asked.headers["content-length"]) == length + len("HEAD") - len("GET")
    async with serving(lambda _: _answer(Answer(204, [], b"ignored"))) as served:
        client = await served.connect()
        for _ in range(2):
            answer = await client.ask(request())
            assert "content-length" not in answer.headers


async def _answer(answer: Answer) -> Answer:
    return answer


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stream(method: str) -> None:
    """A stream's pieces arrive one by one; an empty one does not end it; the connection is kept."""
    stream = Stream([b"one", b"", b"t\r\nwo", b"x" * 100_000])
    async with serving(stream.handler) as served:
        client = await served.connect()
        for _ in range(2):
            answer = await client.ask(request(method), to_head=method == "HEAD")
            assert (answer.status, answer.headers["a"]) == (200, "b")
            if method == "GET":
                assert answer.pieces == [b"one", b"t\r\nwo", b"x" * 100_000]
            assert not stream.abandoned.is_set()
            await stream.ended.wait()
        await until(lambda: stream.read == 8)


async def test_large_answers() -> None:
    """An answer of many megabytes arrives whole, and the next one after it."""
    body = bytes(range(256)) * 40_000
    async with serving(lambda _: _answer(Answer(200, [], body))) as served:
        client = await served.connect()
        for _ in range(2):
            await client.send(request())
            assert (await client.answer()).body == body


# Bodies.


async def test_bodies() -> None:
    """A body is read whole, however it comes."""
    body = bytes(range(256)) * 2_000
    coded = request("POST", "/", None, "transfer-encoding: chunked") + chunked(body[:7], body[7:])
    async with serving(echo) as served:
        client = await served.connect()
        for raw in (request("POST", "/", body), coded):
            assert (await client.ask(raw)).json["body"].encode("latin-1") == body
            head, _, rest = raw.partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            for start in range(0, len(rest), 50_000):
                await client.send(rest[start : start + 50_000])
                await asyncio.sleep(0)
            assert (await client.answer()).json["body"].encode("latin-1") == body


async def asked(request: Request) -> Answer:
    """Reads no body of those that are not called for, and at most a hundred thousand bytes."""
    if request.path == "/refused":
        return json_answer(401, {})
    try:
        return json_answer(200, len(await request.read_body(100_000)))
    except BodyTooLargeError:
        return json_answer(413, {})


async def test_a_client_that_waits_for_a_word() -> None:
    """Expect: 100-continue gets its word when the body is wanted; else its answer, and the end."""
    expect = request("POST", "/", None, "expect: 100-Continue", "content-length: 4")
    async with serving(asked) as served:
        client = await served.connect()
        await client.send(expect)
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"body")).json == 4
        answer = await client.ask(expect + b"body")  # one that does not wait, gets no word
        assert answer.json == 4
        answer = await client.ask(expect.replace(b" / ", b" /refused "))
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await client.ended() == b""


async def test_who_is_still_sending_is_not_cut_off() -> None:
    """Closed at once, an answer might be lost with the reset: first our direction, then both."""
    expect = request("POST", "/refused", None, "expect: 100-continue", "content-length: 4")
    client = MemoryClient(new_server(asked)).send(expect)
    await until(client.has_received)
    assert client.transport.has_ended
    assert not client.transport.is_closed
    client.connection.look(client.connection.shared.now + 1_000)
    assert client.transport.is_closed


@pytest.mark.parametrize(("path", "status"), [("/refused", 401), ("/", 413)])
@pytest.mark.parametrize("is_coded", [False, True], ids=["length", "chunked"])
async def test_answers_before_the_body(path: str, status: int, is_coded: bool) -> None:
    """A body that nobody wants is thrown away: its client sees the answer and can go on."""
    body = b"x" * 5 * MEGABYTE
    raw = request("POST", path, body)
    if is_coded:
        coded = chunked(*[b"x" * 50_000] * 100)
        raw = request("POST", path, None, "transfer-encoding: chunked") + coded
    async with serving(asked) as served:
        client = await served.connect()
        for _ in range(2):
            answer = await client.ask(raw)
            assert answer.status == status
            assert "connection" not in answer.headers
        assert (await client.ask(request("POST", "/", b"abc"))).json == 3


async def test_a_body_that_grows_too_large() -> None:
    """Its handler is told as soon as it passes the limit, not at its end."""
    client = MemoryClient(new_server(asked))
    client.send(request("POST", "/", None, "transfer-encoding: chunked"))
    task = client.task
    assert task is not None
    await asyncio.sleep(0)
    client.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
    await asyncio.sleep(0)
    assert not client.has_received()
    client.send(b"1\r\nx")
    await task
    assert client.received.startswith(b"HTTP/1.1 413 ")
    # One that was there before anybody asked for it is none the smaller.
    client = MemoryClient(new_server(asked))
    head = request("POST", "/", None, "transfer-encoding: chunked")
    client.send(head + chunked(b"x" * 100_001))
    await until(client.has_received)
    assert client.received.startswith(b"HTTP/1.1 413 ")


async def test_the_rest_of_a_body_is_not_waited_for_long() -> None:
    """A client that has its answer and sends its body for ever is cut off."""
    async with serving(asked, spill_seconds=0.05) as served:
        client = await served.connect()
        answer = await client.ask(request("POST", "/refused", None, "content-length: 9"))
        assert answer.status == 401
        assert await client.ended() == b""


async def test_a_body_that_nobody_reads_waits() -> None:
    """Until a handler asks for it, little of a body is taken; the rest waits with its client."""
    wanted, sizes = asyncio.Event(), []

    async def late(request: Request) -> Answer:
        await wanted.wait()
        sizes.append(len(await request.read_body(100 * MEGABYTE)))
        return json_answer(200, {})

    client = MemoryClient(new_server(late))
    client.send(request("POST", "/", None, f"content-length: {10 * MEGABYTE}"))
    client.send(b"x" * 65_536)
    assert not client.is_held_back()
    client.send(b"x")
    assert client.is_held_back()
    task = client.task
    assert task is not None
    # It is we who do not read: no time runs for the client.
    client.connection.look(client.connection.shared.now + 1_000)
    wanted.set()
    await until(lambda: not client.is_held_back())
    for _ in range(200):
        client.send(b"x" * 65_536)
    assert not client.is_held_back()
    await task
    assert sizes == [10 * MEGABYTE]


# Faults.


async def test_what_is_no_request() -> None:
    """ERR-01: 400 in OpenAI's shape with a request id, and the connection ends."""
    async with serving(echo) as served:
        for raw, status, code in [
            (b"rubbish\r\n\r\n", 400, "malformed_request"),
            (request("GET", "/", None, "x: " + "y" * 70_000), 431, "headers_too_large"),
            (
                b"POST / HTTP/1.1\r\n" + HOST + b"content-length: x\r\n\r\n",
                400,
                "malformed_request",
            ),
        ]:
            client = await served.connect()
            answer = await client.ask(raw)
            assert (answer.status, answer.code) == (status, code)
            assert answer.headers["connection"] == "close"
            assert await client.ended() == b""


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_body_that_is_none(is_wanted: bool) -> None:
    """A bad chunk is 400 for a handler that reads it; whoever answers before, closes."""
    raw = request("POST", "/" if is_wanted else "/refused", None, "transfer-encoding: chunked")
    async with serving(echo if is_wanted else asked) as served:
        for parts in ([raw + b"zz\r\n"], [raw, b"3\r\nabc\r\n", b"zz\r\n"]):
            client = await served.connect()
            for part in parts:
                await client.send(part)
                await asyncio.sleep(0.01)
            answer = await client.answer()
            assert answer.status == (400 if is_wanted else 401)
            assert await client.ended() == b""


async def test_a_handler_that_fails() -> None:
    """A fault of ours is 500 in OpenAI's shape, and the connection ends."""

    async def fails(_: Request) -> Answer:
        raise RuntimeError("a secret")

    async def writes_nonsense(_: Request) -> Answer:
        return Answer(99, [], b"")

    for handler, name in ((fails, "RuntimeError"), (writes_nonsense, "ValueError")):
        async with serving(handler) as served:
            client = await served.connect()
            answer = await client.ask(request())
            assert (answer.status, answer.code) == (500, "internal_error")
            assert name in answer.json["error"]["message"]
            assert b"a secret" not in answer.body
            assert answer.headers["connection"] == "close"
            assert await client.ended() == b""


async def test_a_stream_that_fails() -> None:
    """A stream that breaks has no end mark, so that nobody takes it for whole."""
    told: list[bool] = []

    async def breaks() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise RuntimeError

    async def handler(_: Request) -> StreamAnswer:
        return StreamAnswer(200, [], breaks(), lambda: told.append(True))

    async with serving(handler) as served:
        client = await served.connect()
        await client.send(request())
        await client.head()
        assert await client.ended() == b"3\r\none\r\n"
    assert told == [True]


async def test_a_head_that_cannot_be_written() -> None:
    """A stream whose head is a mistake of ours is read to its end, and charged, all the same."""
    stream = Stream(status=99)
    async with serving(stream.handler) as served:
        client = await served.connect()
        assert (await client.ask(request())).status == 500
    assert stream.abandoned.is_set()
    assert stream.read == 2


# Order.


async def test_pipelined_requests() -> None:
    """Requests that come before their turn are answered in their order, streams among them."""
    running = 0

    async def handler(request: Request) -> Answer | StreamAnswer:
        nonlocal running
        running += 1
        assert running == 1, "one at a time"
        body = await request.read_body(100)
        await asyncio.sleep(0.001)
        running -= 1
        if request.path.endswith("s"):
            return await Stream([body]).handler(request)
        return json_answer(200, [request.path, body.decode()])

    raw = b"".join(request("POST", f"/{i}{'s' * (i % 2)}", b"%d" % i) for i in range(40))
    for size in (len(raw), 1_000, 7):
        async with serving(handler) as served:
            client = await served.connect()
            for start in range(0, len(raw), size):
                await client.send(raw[start : start + size])
            for i in range(40):
                answer = await client.answer()
                if i % 2:
                    assert answer.body == b"%d" % i
                else:
                    assert answer.json == [f"/{i}", str(i)]


async def test_pipelined_bytes_are_bounded() -> None:
    """Some bytes before their turn are kept, then the client waits; nothing is lost."""
    answered = asyncio.Event()

    async def handler(request: Request) -> Answer:
        size = len(await request.read_body(MEGABYTE))
        await answered.wait()
        return json_answer(200, size)

    client = MemoryClient(new_server(handler, later_bytes=1_000))
    client.send(request("POST", "/", b"ab"))
    later = request("POST", "/", b"y" * 5_000)
    client.send(later[:1_000])
    assert not client.is_held_back()
    client.send(later[1_000:2_000])
    assert client.is_held_back()
    answered.set()
    await until(lambda: not client.is_held_back())
    client.send(later[2_000:])
    await until(lambda: len(client.transport.writes) == 2)
    assert client.transport.writes[0].endswith(b"\r\n\r\n2")
    assert client.transport.writes[1].endswith(b"\r\n\r\n5000")
    # The same where all of it was there: reading goes on once there is room.
    answered.clear()
    client.send(request("POST", "/", b"ab") + request("POST", "/", b"cde"))
    client.send(later[:1_500])
    assert client.is_held_back()
    answered.set()
    await until(lambda: len(client.transport.writes) == 4 and client.task is not None)
    assert not client.is_held_back()


async def test_too_many_pipelined_requests() -> None:
    """What came at once beyond the limit is refused after the answers to what did not."""
    async with serving(echo, pipelined=2) as served:
        client = await served.connect()
        await client.send(request() * 5)
        statuses = [(await client.answer()).status for _ in range(4)]
        assert statuses == [200, 200, 200, 400]
        assert await client.ended() == b""


async def test_rubbish_after_a_request() -> None:
    """The request gets its answer, the rubbish its own; after the last, nobody looks at it."""
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(request() + b"rubbish")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.ended() == b""
        client = await served.connect()
        await client.send(request("GET", "/", None, "connection: close") + b"rubbish")
        assert (await client.answer()).status == 200
        assert await client.ended() == b""


async def test_an_upgrade_is_answered_as_ordinary() -> None:
    """RFC 9110, 7.8: an offer of another protocol is not taken up; the body is still a body."""
    upgrade = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    async with serving(echo) as served:
        client = await served.connect()
        for _ in range(2):
            answer = await client.ask(request("POST", "/", b"GET / HTTP/1.1\r\n\r\n", *upgrade))
            assert answer.json["body"] == "GET / HTTP/1.1\r\n\r\n"


# Pressure.


async def test_a_client_that_reads_slowly() -> None:
    """A stream waits for its client: what is sent ahead is bounded, and all of it arrives."""
    stream = Stream([b"x" * 100_000] * 500)
    async with serving(stream.handler) as served:
        client = await served.connect()
        await client.send(request())
        await client.head()
        sizes = 0
        before = -1
        while stream.read != before:  # it stands still
            before = stream.read
            await asyncio.sleep(0.05)
        assert stream.read < 400
        async for piece in client.pieces():
            sizes += len(piece)
        assert sizes == 500 * 100_000
        assert stream.read == 500
    assert not stream.abandoned.is_set()
