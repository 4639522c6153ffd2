"""Databases held open, and pools that come back."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from farebox.assembly.database import open_pool
from farebox.storage.connecting import Connector
from tests.support.proxy import Proxy, socket_of, url_through


async def test_a_pool_comes_back_however_long_the_database_was_away(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Nodes and lapses": a node that was cut off registers again when it can, not later.

    Here the pause that would follow a failure is an hour.
    """
    monkeypatch.setattr("psycopg_pool.base.AttemptWithBackoff.INITIAL_DELAY", 3_600.0)
    monkeypatch.setattr("farebox.assembly.database.RECONNECT_SECONDS", 0.1)
    async with Proxy(socket_of(dsn), seed=1) as proxy:
        connector = Connector(url_through(proxy, dsn), name="test", durable=False)
        pool = await open_pool(connector, size=1)
        try:
            proxy.refuses = True
            proxy.reset()
            with pytest.raises((PoolTimeout, psycopg.OperationalError)):
                async with pool.connection(timeout=0.5) as connection:
                    await connection.execute("SELECT 1")
            proxy.heal()
            async with pool.connection(timeout=10.0) as connection:
                cursor = await connection.execute("SELECT 1")
                assert await cursor.fetchone() == (1,)
        finally:
            await pool.close()
