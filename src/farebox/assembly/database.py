"""The database of a process: the home's bundled server, or the one that ``DATABASE_URL`` names.

Whoever opens it first brings its schema up to this version; the last to close a bundled server
stops it.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from farebox.settings import Settings
from farebox.storage.connecting import Connector
from farebox.storage.migrate import migrate
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.server import RunningServer

Pool = AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]]

RECONNECT_SECONDS: Final = 5.0
"""How long a pool tries by itself to replace a connection that was lost. Its pauses double: one
that tried for ever would come back an hour after an outage of an hour. One that has given up tries
again at once when somebody asks it for a connection."""


class OpenDatabase:
    """A migrated database, held open until it is released."""

    def __init__(self, dsn: str, server: RunningServer | None, *, durable: bool = True) -> None:
        """Hold it open.

        Args:
            dsn: A libpq connection string or URL.
            server: The bundled server to release at the end, if it is that one.
            durable: Refuse a server that may lose commits; only tests say no.
        """
        self.dsn = dsn
        self._server = server
        self._durable = durable

    def connector(self, name: str) -> Connector:
        """Connections under a name that the server shows."""
        return Connector(self.dsn, name=name, durable=self._durable)

    def ensure_running(self) -> bool:
        """Start a bundled server again that was killed; tells whether it had to."""
        return self._server is not None and self._server.ensure_running()

    def release(self) -> None:
        """Let go of it."""
        if self._server is not None:
            self._server.release()


def open_database(settings: Settings, *, sandbox: bool | None = None) -> OpenDatabase:
    """Start or attach to the database and migrate it; blocks, so call it before the event loop.

    Args:
        settings: Where it is.
        sandbox: What a new database is to be; None takes an existing one as it is.

    Raises:
        FareboxError: It cannot be opened; the message says why and what to do.
    """
    if settings.database_url is not None:
        migrate(settings.database_url, sandbox=sandbox)
        return OpenDatabase(settings.database_url, None)
    server = launch(settings.home)
    try:
        migrate(server.dsn, sandbox=sandbox)
    except BaseException:
        server.release()
        raise
    return OpenDatabase(server.dsn, server)


async def open_pool(connector: Connector, *, size: int) -> Pool:
    """A pool for everything that is not a batch of money."""
    pool: Pool = AsyncConnectionPool(
        connector.dsn,
        kwargs={"autocommit": True, "connect_timeout": 5, "application_name": "farebox pool"},
        configure=connector.configure,
        check=AsyncConnectionPool.check_connection,
        min_size=1,
        max_size=size,
        timeout=5.0,
        reconnect_timeout=RECONNECT_SECONDS,
        max_waiting=1_000,
        open=False,
    )
    await pool.open(wait=True, timeout=10.0)
    return pool
