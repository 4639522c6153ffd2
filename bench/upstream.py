"""A mock upstream that costs as little as Python can: fixed answers from an asyncio protocol.

``python -m bench.upstream PORT``; JSON, or SSE events where the body says ``"stream":true``, paced
where its text says ``pace-ms=20``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import msgspec
from typing_extensions import override

EVENTS: Final = 24
_USAGE: Final = {"prompt_tokens": 200, "completion_tokens": EVENTS, "total_tokens": 200 + EVENTS}


def _json_answer() -> bytes:
    body = msgspec.json.encode(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "model": "gpt-5.4",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "word " * EVENTS},
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "service_tier": "default",
        }
    )
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _events() -> list[bytes]:
    def event(delta: dict[str, str], finish: str | None) -> bytes:
        chunk = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "model": "gpt-5.4",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            "usage": None,
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    last = {"id": "chatcmpl-bench", "choices": [], "usage": _USAGE, "service_tier": "default"}
    return [
        *(event({"content": "word "}, None) for _ in range(EVENTS)),
        event({}, "stop"),
        b"data: " + msgspec.json.encode(last) + b"\n\n",
        b"data: [DONE]\n\n",
    ]


def _chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


ANSWER: Final = _json_answer()
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM: Final = [_chunked(event) for event in _events()]
BURST: Final = STREAM_HEAD + b"".join(STREAM) + b"0\r\n\r\n"


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
        if b'"stream":true' not in body:
            self.transport.write(ANSWER)
            return
        at = body.find(b"pace-ms=")
        if at < 0:
            self.transport.write(BURST)
            return
        pace = int(body[at + 8 :].split(b" ", 1)[0]) / 1000
        self.transport.write(STREAM_HEAD)
        asyncio.get_running_loop().create_task(self.paced(pace))

    async def paced(self, pace: float) -> None:
        for event in STREAM:
            self.transport.write(event)
            await asyncio.sleep(pace)
        self.transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(
        Upstream, "127.0.0.1", port, backlog=4096
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
