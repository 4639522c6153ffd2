"""Running the gateway's server and ASGI applications in one event loop, until a signal says stop.

Sockets are bound before anything is announced, so that a port in use is an error with a name and a
port of zero is known before it is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from typing_extensions import override

from farebox.gateway.server import HttpServer
from farebox.kit.errors import InvalidInputError

BACKLOG: Final = 2_048
KEEP_ALIVE_SECONDS: Final = 75
STOP_SECONDS: Final = 30
"""How long open answers may take to end after a stop signal."""


class _Server(uvicorn.Server):
    """A server that leaves signals to us: there may be several in one loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int, *, variable: str) -> socket.socket:
    """A listening socket.

    Raises:
        InvalidInputError: The address cannot be bound; names the variable to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise InvalidInputError(
            variable, f"{port} cannot be listened on at {host}: {error.strerror or error}"
        ) from error
    sock.listen(BACKLOG)
    return sock


class Servers:
    """The servers of this process."""

    def __init__(self) -> None:
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._own: list[HttpServer] = []
        self._stop = asyncio.Event()

    async def serve(self, server: HttpServer, sock: socket.socket) -> None:
        """Serve with the gateway's own server on a bound socket."""
        await server.start(sock, backlog=BACKLOG)
        self._own.append(server)

    async def start(self, app: Any, sock: socket.socket) -> None:
        """Serve an application on a bound socket."""
        config = uvicorn.Config(
            app,
            http="httptools",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            # Nobody in front of us is trusted to say who calls.
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        self._servers.append((server, task))
        await asyncio.wait(
            {task, asyncio.create_task(server.listening.wait())},
            return_when=asyncio.FIRST_COMPLETED,
        )

    async def until_stopped(self) -> None:
        """Wait for SIGINT or SIGTERM, or for a server that ends by itself."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop.set)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait(
            {stop, *(task for _, task in self._servers)}, return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()

    async def aclose(self) -> None:
        """Stop accepting, let open answers end, close."""
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(
            *(task for _, task in self._servers),
            *(server.aclose(STOP_SECONDS) for server in self._own),
            return_exceptions=True,
        )


def url(sock: socket.socket) -> str:
    """The URL at which people reach a bound socket, without a slash at its end."""
    host, port = sock.getsockname()[:2]
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
