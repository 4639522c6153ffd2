"""A whole Farebox for tests: gateway and worker over HTTP in a thread, on a fresh database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from farebox.assembly.database import OpenDatabase
from farebox.assembly.gateway import GatewayProcess
from farebox.assembly.sandbox import prepare_sandbox
from farebox.assembly.serving import Servers, bind, url
from farebox.assembly.worker import WorkerProcess
from farebox.kit.ids import parse_id
from farebox.ledger.commands import AnyCommand, Result
from farebox.providers.price_catalogue import import_catalogue
from farebox.storage.batch_store import PostgresBatchStore

FLUSH_SECONDS = 0.02
"""How soon refusals and content are written: a test waits for each of them."""

_catalogue_once = cache(import_catalogue)

_T = TypeVar("_T")


@dataclass
class House:
    """A running sandbox."""

    dsn: str
    home: Path
    gateway_url: str
    facts: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    gateway: GatewayProcess
    database: OpenDatabase
    _idle: list[psycopg.Connection[tuple[Any, ...]]] = field(default_factory=list)
    """Connections that nobody asks through just now; a new one costs more than most answers."""

    @property
    def api_key(self) -> str:
        """The sandbox's key."""
        return str(self.facts["api_key"])

    @property
    def base_url(self) -> str:
        """The OpenAI base URL."""
        return f"{self.gateway_url}/v1"

    @property
    def organization_id(self) -> Any:
        """The sandbox's organisation."""
        return parse_id("org", str(self.facts["organization_id"]), field="organization_id")

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something in the house's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def command(self, command: AnyCommand) -> Result:
        """Have the engine decide a command, as another process would."""

        async def decide() -> Result:
            store = PostgresBatchStore(self.database.connector("test"))
            try:
                (result,) = await store.run([command], resent=False)
            finally:
                await store.aclose()
            return result

        return self.run(decide())

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of the house's database."""
        return self._asked(sql, parameters).fetchall()

    def execute(self, sql: str, *parameters: object) -> None:
        """Change the house's database behind its back."""
        self._asked(sql, parameters)

    def close(self) -> None:
        """Let go of the connections that were asked through."""
        while self._idle:
            self._idle.pop().close()

    def _asked(self, sql: str, parameters: tuple[object, ...]) -> psycopg.Cursor[tuple[Any, ...]]:
        try:
            connection = self._idle.pop()
            connection.execute("SELECT")
        except (IndexError, psycopg.OperationalError):  # none, or its server was restarted
            # Nothing is prepared: a test may change tables between two questions.
            connection = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None)
        try:
            return connection.execute(sql, parameters or None)
        finally:
            self._idle.append(connection)


@contextmanager
def running_house(dsn: str, home: Path, *, worker: bool = False) -> Iterator[House]:
    """Start a sandbox on a database, and stop it afterwards."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()
    home.mkdir(parents=True, exist_ok=True)

    async def start() -> House:
        database = OpenDatabase(dsn, None, durable=False)
        facts = await prepare_sandbox(database.connector("sandbox"), home)
        if worker:
            sweeper = WorkerProcess(database)
            stack.push_async_callback(sweeper.aclose)
            await sweeper.start()
        gateway = GatewayProcess(database, home)
        stack.push_async_callback(gateway.aclose)
        server = await gateway.start()
        sock = bind("127.0.0.1", 0, variable="port")
        servers = Servers()
        await servers.serve(server, sock)
        stack.push_async_callback(servers.aclose)
        return House(dsn, home, url(sock), facts, loop, gateway, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farebox.providers.price_catalogue.import_catalogue", _catalogue_once)
        patch.setattr("farebox.operations.recording.FLUSH_SECONDS", FLUSH_SECONDS)
        try:
            house = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=60)
            stack.callback(house.close)
            yield house
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(timeout=60)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)
            loop.close()
