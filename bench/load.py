"""A load driver: keep-alive connections that send one request after the other, and time each.

``python -m bench.load URL --key K --connections 16 --seconds 3 [--stream]`` prints one
JSON object: requests, statuses, microseconds of the whole answer and of its first byte, and the
charges. It parses no more of an answer than its length and its charge, and so costs a few
microseconds a request; what it can do at most is its rate against the upstream itself ("direct").
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

from typing_extensions import override

from bench.figures import percentile

PERCENTS: Final = (50, 75, 95, 99)
DRAIN_SECONDS: Final = 60.0
"""How long the last answers may take once the time is up."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What requests look like."""

    url: str
    size: int = 1000
    """Bytes of the body."""
    stream: bool = False
    headers: tuple[str, ...] = ()
    text: str = ""
    """Words that the mock upstream understands."""

    def parts(self) -> tuple[bytes, bytes]:
        """A request's bytes before and after the key."""
        document: dict[str, object] = {
            "model": "gpt-5.4",
            "max_completion_tokens": 512,
            "messages": [{"role": "user", "content": ""}],
        }
        if self.stream:
            document |= {"stream": True, "stream_options": {"include_usage": True}}
        spare = self.size - len(_encoded(document)) - len(self.text)
        document["messages"] = [{"role": "user", "content": self.text + "x" * max(0, spare)}]
        body = _encoded(document)
        url = urlsplit(self.url)
        lines = [
            f"POST {url.path} HTTP/1.1",
            f"host: {url.netloc}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *self.headers,
            "authorization: Bearer ",
        ]
        return "\r\n".join(lines).encode(), b"\r\n\r\n" + body


@dataclass(slots=True)
class Sums:
    """What the answers came to."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    charge_nanos: int = 0
    charges: list[str] = field(default_factory=list)
    """``x-request-id`` and charge of each answer that names both."""

    def add(self, head: bytes, tail: bytes, seconds: float, first: float) -> None:
        """Count one whole answer: its head in lower case, and enough of its end."""
        self.seconds.append(seconds)
        self.first.append(first)
        status = head[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        charge = _header(head, b"x-farebox-charge")
        if charge is None and (at := tail.rfind(b'"cost":')) >= 0:
            charge = tail[at + 7 :].split(b"}", 1)[0].split(b",")[0]
        if charge is None or status != "200":
            return
        amount = nanos(charge.decode())
        self.charge_nanos += amount
        name = _header(head, b"x-request-id")
        self.charges.append(f"{'' if name is None else name.decode()} {amount}")

    def report(self, seconds: float) -> dict[str, object]:
        """The figures, in whole microseconds."""
        return {
            "requests": len(self.seconds),
            "seconds": round(seconds, 3),
            "per_second": round(len(self.seconds) / seconds, 1),
            **_percentiles("", self.seconds),
            **_percentiles("first_byte_", self.first),
            "statuses": self.statuses,
            "lost": self.lost,
            "charge_nanos": self.charge_nanos,
        }


class Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again."""

    def __init__(
        self, parts: tuple[bytes, bytes], keys: Iterator[bytes], until: float, sums: Sums
    ) -> None:
        self.before, self.after = parts
        self.keys = keys
        self.until = until
        self.sums = sums
        self.done = asyncio.get_running_loop().create_future()
        self.head = b""
        self.buffer = b""
        self.length = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self.transport = cast("asyncio.Transport", transport)
        self.next()

    def next(self) -> None:
        """Send the next request, or end."""
        self.head = self.buffer = b""
        if time.perf_counter() >= self.until:
            self.transport.close()
            return
        data = self.before + next(self.keys) + self.after
        self.first = 0.0
        self.began = time.perf_counter()
        self.transport.write(data)

    @override
    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.head:
            self.first = self.first or time.perf_counter()
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.buffer = self.buffer[:end].lower(), self.buffer[end + 4 :]
            length = _header(self.head, b"content-length")
            self.length = -1 if length is None else int(length)
        if self.length < 0:
            whole = self.buffer.endswith(b"0\r\n\r\n")
        else:
            whole = len(self.buffer) >= self.length
        if whole:
            now = time.perf_counter()
            self.sums.add(self.head, self.buffer[-1000:], now - self.began, self.first - self.began)
            self.next()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self.head or self.buffer:
            self.sums.lost += 1
        self.done.set_result(None)


def nanos(text: str) -> int:
    """A decimal amount, exactly."""
    whole, _, fraction = text.strip().partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))


async def drive(
    wanted: Wanted, keys: list[bytes], connections: int, seconds: float
) -> dict[str, object]:
    """Load an address for some seconds; gives the report."""
    found, took = await load(wanted, keys, connections, seconds)
    return found.report(took)


async def load(
    wanted: Wanted, keys: list[bytes], connections: int, seconds: float
) -> tuple[Sums, float]:
    """Load an address; gives what the answers came to, and the seconds until the last."""
    url = urlsplit(wanted.url)
    loop = asyncio.get_running_loop()
    sums, parts, turn = Sums(), wanted.parts(), cycle(keys)
    began = time.perf_counter()
    until = began + seconds
    made = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: Connection(parts, turn, until, sums), url.hostname or "", url.port or 80
        )
        made.append(protocol)
    await asyncio.wait_for(asyncio.gather(*(p.done for p in made)), seconds + DRAIN_SECONDS)
    return sums, time.perf_counter() - began


def _encoded(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    return head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip()


def _percentiles(name: str, seconds: list[float]) -> dict[str, int | None]:
    if not seconds:
        return {f"{name}p{p}_us": None for p in PERCENTS}
    return {f"{name}p{p}_us": round(percentile(seconds, p) * 1e6) for p in PERCENTS}


def main() -> None:
    """Parse, drive, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--keys", type=Path, help="a file of keys, used in turn")
    parser.add_argument("--header", action="append", default=[], help="one more line of the head")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--charges", type=Path, help="a file for each answer's id and charge")
    args = parser.parse_args()
    wanted = Wanted(args.url, args.bytes, args.stream, tuple(args.header))
    keys = args.keys.read_bytes().split() if args.keys else [args.key.encode()]
    import uvloop

    gc.freeze()
    sums, seconds = uvloop.run(load(wanted, keys, args.connections, args.seconds))
    if args.charges:
        args.charges.write_text("".join(line + "\n" for line in sums.charges))
    print(json.dumps(sums.report(seconds)))


if __name__ == "__main__":
    main()
