"""The console, put together: a small pool, its store, its pages."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from farebox.assembly.console_api import DatabaseApiDesk
from farebox.assembly.database import OpenDatabase, open_pool
from farebox.console.app import ConsoleDeps, build_console
from farebox.console.throttle import REQUESTS_PER_CALLER_MAX
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.key_status import KeyStatuses
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.console_store import PostgresConsoleStore
from farebox.storage.key_status_store import PostgresKeyStatusStore
from farebox.storage.node_store import borrowed
from farebox.storage.tenancy_store import read_deployment
from farebox.tenancy.api_keys import KeyKind

POOL_CONNECTIONS: Final = 8
"""A page takes one for some milliseconds, and an open page asks every two seconds; a write by the
API keeps one for as long as the engine takes."""


class ConsoleProcess:
    """A console that runs in this process; any number may run at once."""

    def __init__(
        self, database: OpenDatabase, home: Path, *, requests_max: int = REQUESTS_PER_CALLER_MAX
    ) -> None:
        """Describe it.

        Args:
            database: Where everything is.
            home: Where the key of stored secrets lies.
            requests_max: Requests of one key or session to the API in a minute.
        """
        self._database = database
        self._home = home
        self._requests_max = requests_max
        self._stack = AsyncExitStack()

    async def start(self) -> ASGIApp:
        """Connect; gives the ASGI application.

        Raises:
            FareboxError: The database is away or set up wrongly.
        """
        pool = await open_pool(self._database.connector("console"), size=POOL_CONNECTIONS)
        self._stack.push_async_callback(pool.close)
        async with borrowed(pool) as connection:
            deployment = await read_deployment(connection)
        bookkeeper = Bookkeeper(
            [PostgresBatchStore(self._database.connector("console lane"))],
            monotonic=time.monotonic,
        )
        bookkeeper.start()
        self._stack.push_async_callback(bookkeeper.aclose)
        key_kind = KeyKind.TEST if deployment.sandbox else KeyKind.LIVE
        return build_console(
            ConsoleDeps(
                store=PostgresConsoleStore(pool),
                api=DatabaseApiDesk(pool, bookkeeper, self._home, key_kind=key_kind),
                keys=KeyStatuses(PostgresKeyStatusStore(pool), monotonic=time.monotonic),
                chance=os.urandom,
                monotonic=time.monotonic,
                sandbox=deployment.sandbox,
                login_place=f"{self._home.name}/ready.json",
                requests_max=self._requests_max,
            )
        )

    async def aclose(self) -> None:
        """Close everything."""
        await self._stack.aclose()
