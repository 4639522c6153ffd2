"""A mock upstream that costs as little as Python can: fixed answers from an asyncio protocol.

``python -m bench.upstream PORT``; JSON, or SSE events where the body says ``"stream":true``. Where
the body's text says ``pace-ms=20 events=100``, an event leaves every 20 ms and its text is the
instant at which it left, in nanoseconds of this machine's monotonic clock: a driver on the same
machine sees how long each event was on its way.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from typing import Final, cast

import msgspec
from typing_extensions import override

EVENTS: Final = 24
STAMP_DIGITS: Final = 18

_PACED: Final = re.compile(rb"pace-ms=(\d+) events=(\d+)")


def _usage(events: int) -> dict[str, int]:
    return {"prompt_tokens": 200, "completion_tokens": events, "total_tokens": 200 + events}


def _json_answer() -> bytes:
    message = {"role": "assistant", "content": "word " * EVENTS}
    body = msgspec.json.encode(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-5.4",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(EVENTS),
            "service_tier": "default",
        }
    )
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _event(delta: dict[str, str] | None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-5.4",
        "choices": choices,
        "usage": None,
        **more,
    }
    data = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _ending(events: int) -> bytes:
    done = b"data: [DONE]\n\n"
    return (
        _event({}, "stop")
        + _event(None, usage=_usage(events), service_tier="default")
        + f"{len(done):x}\r\n".encode()
        + done
        + b"\r\n0\r\n\r\n"
    )


ANSWER: Final = _json_answer()
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
BURST: Final = STREAM_HEAD + _event({"content": "word "}) * EVENTS + _ending(EVENTS)
_BEFORE, _AFTER = _event({"content": "0" * STAMP_DIGITS + " "}).split(b"0" * STAMP_DIGITS)


class Upstream(asyncio.Protocol):
    """Answers requests one after the other on a connection."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""

    @override
    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(body)

    def answer(self, body: bytes) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self.transport.write(ANSWER)
        elif (paced := _PACED.search(body)) is None:
            self.transport.write(BURST)
        else:
            self.transport.write(STREAM_HEAD)
            self.pace_seconds, self.left = int(paced[1]) / 1000, int(paced[2])
            self.ending = _ending(self.left)
            self.due = asyncio.get_running_loop().time()
            self.send_event()

    def send_event(self) -> None:
        """Send one event of a paced stream; the pace does not drift, however late a timer is."""
        if self.transport.is_closing():
            return
        if self.left == 0:
            self.transport.write(self.ending)
            return
        self.left -= 1
        stamp = str(time.monotonic_ns()).zfill(STAMP_DIGITS).encode()
        self.transport.write(_BEFORE + stamp + _AFTER)
        self.due += self.pace_seconds
        asyncio.get_running_loop().call_at(self.due, self.send_event)


async def main(port: int) -> None:
    """Serve until killed."""
    gc.freeze()
    server = await asyncio.get_running_loop().create_server(
        Upstream, "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
