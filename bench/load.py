"""A load driver: keep-alive connections that send one request after the other, and time each.

``python -m bench.load URL --key K --connections 16 --seconds 3 [--stream]`` prints one
JSON object: requests, statuses, microseconds at the median and at 99 %, and the charges.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast
from urllib.parse import urlsplit

from typing_extensions import override


def request(url: str, key: str, *, size: int, stream: bool, pace_ms: int) -> bytes:
    """The bytes of one request."""
    parts = urlsplit(url)
    pace = f"pace-ms={pace_ms} " if pace_ms else ""
    body = json.dumps(
        {
            "model": "gpt-5.4",
            "max_completion_tokens": 32,
            "messages": [{"role": "user", "content": pace + "x" * max(0, size - 150)}],
            **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        },
        separators=(",", ":"),
    ).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again."""

    def __init__(self, data: bytes, until: float, sums: Sums) -> None:
        self.data = data
        self.until = until
        self.sums = sums
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self.transport = cast("asyncio.Transport", transport)
        self.next()

    def next(self) -> None:
        if time.perf_counter() >= self.until:
            self.transport.close()
            return
        self.began = time.perf_counter()
        self.first = 0.0
        self.transport.write(self.data)

    @override
    def data_received(self, data: bytes) -> None:
        if not self.buffer:
            self.first = time.perf_counter()
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            whole = len(self.buffer) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        else:
            whole = self.buffer.endswith(b"0\r\n\r\n")
        if whole:
            self.sums.add(
                self.buffer, head, time.perf_counter() - self.began, self.first - self.began
            )
            self.buffer = b""
            self.next()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self.buffer:
            self.sums.lost += 1
        self.done.set_result(None)


class Sums:
    """What the answers came to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.first: list[float] = []
        self.statuses: dict[str, int] = {}
        self.lost = 0
        self.charge_nanos = 0

    def add(self, answer: bytes, head: bytes, seconds: float, first: float) -> None:
        self.seconds.append(seconds)
        self.first.append(first)
        status = head[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        at = head.find(b"x-farebox-charge:")
        if at >= 0:
            self.charge_nanos += nanos(head[at + 17 :].split(b"\r\n", 1)[0].strip().decode())
        elif (at := answer.rfind(b'"cost":')) >= 0:
            self.charge_nanos += nanos(answer[at + 7 :].split(b"}", 1)[0].split(b",")[0].decode())


def nanos(text: str) -> int:
    """A decimal amount, exactly."""
    whole, _, fraction = text.partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))


async def drive(url: str, data: bytes, connections: int, seconds: float) -> Sums:
    """Load an address for some seconds."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    sums = Sums()
    until = time.perf_counter() + seconds
    made = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: Connection(data, until, sums), parts.hostname or "", parts.port or 80
        )
        made.append(protocol)
    await asyncio.wait_for(asyncio.gather(*(p.done for p in made)), seconds + 60)
    return sums


def main() -> None:
    """Parse, drive, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--pace-ms", type=int, default=0)
    parser.add_argument("--bytes", type=int, default=1000)
    args = parser.parse_args()
    data = request(args.url, args.key, size=args.bytes, stream=args.stream, pace_ms=args.pace_ms)
    import uvloop

    began = time.perf_counter()
    sums = uvloop.run(drive(args.url, data, args.connections, args.seconds))
    seconds = time.perf_counter() - began
    times, first = sorted(sums.seconds), sorted(sums.first)
    count = len(times)
    print(
        json.dumps(
            {
                "requests": count,
                "per_second": round(count / seconds, 1),
                "p50_us": round(times[count // 2] * 1e6) if count else None,
                "p99_us": round(times[min(count - 1, count * 99 // 100)] * 1e6) if count else None,
                "first_byte_p50_us": round(first[count // 2] * 1e6) if count else None,
                "statuses": sums.statuses,
                "lost": sums.lost,
                "charge_nanos": sums.charge_nanos,
            }
        )
    )


if __name__ == "__main__":
    main()
