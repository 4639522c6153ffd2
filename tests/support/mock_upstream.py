"""The simulated provider behind real HTTP, so that tests can send bytes over a socket.

``with running_mock_upstream() as base_url`` is enough for a client that sends ``X-Sandbox-*``
headers. ``with mock_upstream() as mock`` also gives what arrived (``mock.requests``), what was
billed (``mock.billed``) and ``mock.ordering({...})``: a base URL that carries orders for every call
under it, for clients that never send sandbox headers, as the gateway's own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from farebox.operations.upstream import UpstreamBrokenError, UpstreamRequest
from farebox.providers.simulated import BilledCall, SimulatedUpstream

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

START_SECONDS_MAX = 10.0
REQUESTS_MAX = 10_000


def count_tokens(text: str) -> int:
    """About four bytes a token; never more than a gateway's bound of one token a byte."""
    return (len(text.encode()) + 3) // 4


def simulated_upstream(**settings: Any) -> SimulatedUpstream:
    """A simulated provider with real clocks and a plain counter, unless told otherwise."""
    usual: dict[str, Any] = {
        "count_tokens": count_tokens,
        "sleep": asyncio.sleep,
        "monotonic": time.monotonic,
        "unix_time": lambda: 1_790_000_000,
    }
    return SimulatedUpstream(**(usual | settings))


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came off the wire."""

    method: str
    path: str
    """Below the base URL, with its query."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        return dict(self.headers).get(name)


@dataclass
class MockUpstream:
    """A running one."""

    origin: str
    simulated: SimulatedUpstream
    requests: list[ReceivedRequest] = field(default_factory=list)
    """Everything received, oldest first."""

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"{self.origin}/v1"

    @property
    def billed(self) -> list[BilledCall]:
        """What the provider billed, oldest first."""
        return self.simulated.billed

    def ordering(self, directives: dict[str, str]) -> str:
        """A base URL under which every call obeys these sandbox headers too."""
        packed = base64.urlsafe_b64encode(json.dumps(directives).encode()).decode().rstrip("=")
        return f"{self.origin}/ordering/{packed}/v1"


class MockApplication:
    """The ASGI application: one request in, the simulated provider's answer out."""

    def __init__(self, mock: MockUpstream) -> None:
        self._mock = mock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = tuple((n.decode().lower(), v.decode()) for n, v in scope["headers"])
        endpoint, ordered = _read_path(scope)
        if len(self._mock.requests) < REQUESTS_MAX:
            received = ReceivedRequest(scope["method"], endpoint, headers, body)
            self._mock.requests.append(received)
        request = UpstreamRequest(
            endpoint=endpoint,
            body=body,
            headers=tuple(line for line in headers if not line[0].startswith("x-sandbox-")),
            sandbox_headers=tuple(line for line in headers if line[0].startswith("x-sandbox-"))
            + ordered,
            method=scope["method"],
        )
        await self._answer(request, receive, send)

    async def _answer(self, request: UpstreamRequest, receive: Receive, send: Send) -> None:
        """Answer until the end, or until the client goes away."""
        work = asyncio.ensure_future(self._work(request, send))
        gone = asyncio.ensure_future(_disconnect(receive))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _work(self, request: UpstreamRequest, send: Send) -> None:
        reply = await self._mock.simulated.send(request)
        try:
            lines = [(name.encode(), value.encode()) for name, value in reply.headers]
            await send({"type": "http.response.start", "status": reply.status, "headers": lines})
            async for chunk in reply.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except UpstreamBrokenError as error:
            # The server closes a connection whose application failed before the end.
            raise BrokenOffError from error
        finally:
            await reply.close()


class BrokenOffError(Exception):
    """Raised into the server so that it breaks the connection off."""


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read_path(scope: Message) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The endpoint, and the orders that the base URL carries."""
    path = scope["raw_path"].decode().partition("?")[0]
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode()
    ordered: tuple[tuple[str, str], ...] = ()
    if path.startswith("/ordering/"):
        packed, _, path = path.removeprefix("/ordering/").partition("/")
        path = f"/{path}"
        directives = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        ordered = tuple((name.lower(), value) for name, value in directives.items())
    return path.removeprefix("/v1"), ordered


@contextlib.contextmanager
def mock_upstream(**settings: Any) -> Iterator[MockUpstream]:
    """Run one on a free port of this machine, in a thread of its own.

    Args:
        settings: For :class:`SimulatedUpstream`.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    mock = MockUpstream(f"http://127.0.0.1:{port}", simulated_upstream(**settings))
    server = uvicorn.Server(
        uvicorn.Config(
            MockApplication(mock),
            lifespan="off",
            log_config=None,
            log_level="critical",  # a broken connection is what was ordered
            timeout_graceful_shutdown=1,
            ws="none",
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not server.started:
            assert time.monotonic() < deadline, "the mock upstream does not start"
            time.sleep(0.005)
        yield mock
    finally:
        server.should_exit = True
        thread.join(START_SECONDS_MAX)
        listener.close()


@contextlib.contextmanager
def running_mock_upstream(**settings: Any) -> Iterator[str]:
    """The same, when the base URL is all that is wanted."""
    with mock_upstream(**settings) as mock:
        yield mock.base_url
