"""A whole Farebox for tests: gateway and worker over HTTP in a thread, on a fresh database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from farebox.assembly.database import OpenDatabase
from farebox.assembly.gateway import GatewayProcess
from farebox.assembly.sandbox import prepare_sandbox
from farebox.assembly.serving import Servers, bind, url
from farebox.assembly.worker import WorkerProcess
from farebox.kit.ids import parse_id
from farebox.ledger.commands import AnyCommand, Result
from farebox.storage.batch_store import PostgresBatchStore

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
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(sql, parameters or None).fetchall()

    def execute(self, sql: str, *parameters: object) -> None:
        """Change the house's database behind its back."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql, parameters or None)


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

    try:
        house = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=60)
        yield house
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
