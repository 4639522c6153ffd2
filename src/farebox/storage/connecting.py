"""Connections to PostgreSQL: how they are made, and what kind of server is refused.

A server that may lose a commit it has acknowledged is refused (ENGINE.md, "The server it stands
on"); so is one that is older than 15.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from psycopg import AsyncConnection
from psycopg.types.json import set_json_loads

from farebox.kit.errors import IncompatibleError

SERVER_VERSION_MIN: Final = 150000

_SETTINGS: Final = (
    # Whatever the server, the database or the role says: batches rely on every one of these.
    "SELECT set_config('client_encoding', 'UTF8', false),"
    " set_config('default_transaction_isolation', 'read committed', false),"
    " set_config('datestyle', 'ISO, MDY', false), set_config('intervalstyle', 'postgres', false),"
    " set_config('idle_in_transaction_session_timeout', '2s', false),"
    " set_config('lock_timeout', '5s', false), set_config('statement_timeout', '60s', false),"
    " set_config('timezone', 'UTC', false), set_config('jit', 'off', false),"
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    " WHEN 'remote_apply' THEN 'remote_apply' WHEN 'remote_write' THEN 'remote_write'"
    " ELSE 'on' END, false)"
)

_FACTS: Final = (
    "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),"
    " current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('data_sync_retry')"
)


class Connector:
    """Makes connections to one database, all set up the same way."""

    def __init__(self, dsn: str, *, name: str, durable: bool = True) -> None:
        """Remember where and how.

        Args:
            dsn: A libpq connection string or URL.
            name: Shown by the server as the application's name.
            durable: Refuse a server that may lose commits; only tests say no.
        """
        self.dsn = dsn
        self._name = name
        self._durable = durable

    async def connect(self) -> AsyncConnection[tuple[Any, ...]]:
        """A new connection in autocommit mode.

        Raises:
            psycopg.OperationalError: The server cannot be reached.
            IncompatibleError: It must not be used.
        """
        connection = await AsyncConnection.connect(
            self.dsn,
            autocommit=True,
            connect_timeout=5,
            application_name=f"farebox {self._name}",
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
        try:
            await self.configure(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def configure(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        """Set a new connection up; pools call this for theirs.

        Raises:
            IncompatibleError: The server must not be used.
        """
        set_json_loads(msgspec.json.decode, connection)
        await connection.execute(_SETTINGS)
        # Each time: the next connection may reach another server than the last one did.
        await self._check(connection)

    async def _check(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        row = await (await connection.execute(_FACTS)).fetchone()
        assert row is not None
        version, encoding, fsync, full_page_writes, data_sync_retry = row
        if version < SERVER_VERSION_MIN:
            raise IncompatibleError(
                f"PostgreSQL {version // 10000} is too old; Farebox needs 15 or newer."
            )
        if encoding != "UTF8":
            raise IncompatibleError(
                f"The database is encoded in {encoding} and cannot hold every name; "
                "create it with ENCODING 'UTF8'."
            )
        if not self._durable:
            return
        for setting, value, wanted in (
            ("fsync", fsync, "on"),
            ("full_page_writes", full_page_writes, "on"),
            ("data_sync_retry", data_sync_retry, "off"),
        ):
            if value != wanted:
                raise IncompatibleError(
                    f"The database server has {setting} = {value}: it may lose money that it has "
                    f"acknowledged. Set {setting} = {wanted} and restart it."
                )
