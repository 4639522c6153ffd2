"""Node rows and what the sweep asks, each on a connection of its own from the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from farebox.kit.errors import UnavailableError
from farebox.operations.sweep import CLOCK_JUMP_MAX, HoldToLapse
from farebox.storage.rows import utc
from farebox.storage.sql import queries

Pool = AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]]


@asynccontextmanager
async def borrowed(pool: Pool) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
    """A connection of the pool; whatever the server or the way to it refuses is UnavailableError.

    A server that turned read-only in a failover, or is starting, is away like one that is down.
    """
    try:
        async with pool.connection() as connection:
            yield connection
    except (psycopg.Error, PoolTimeout, OSError) as error:
        raise UnavailableError(f"The database is away: {error}") from error


class PostgresNodeStore:
    """Implements ``operations.nodes.NodeStore`` and ``operations.sweep.SweepStore``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = queries("nodes")

    async def register(self, node_id: UUID, name: str) -> int:
        """Make the node's row, or begin its next epoch."""
        row = await self._one("register_node", id=node_id, name=name)
        assert row is not None
        return int(row[0])

    async def renew(self, node_id: UUID, epoch: int) -> bool:
        """Renew the row; False if the epoch has been fenced off."""
        return await self._one("renew_node", id=node_id, epoch=epoch) is not None

    async def retire(self, node_id: UUID, epoch: int) -> None:
        """End the epoch."""
        async with borrowed(self._pool) as connection:
            await connection.execute(self._sql["retire_node"], {"id": node_id, "epoch": epoch})

    async def real_time(self) -> datetime:
        """The database's real clock."""
        row = await self._one("real_time")
        assert row is not None
        return utc(row[0])

    async def fence_silent(self, silence: timedelta, looked_at: datetime) -> list[str]:
        """End the epochs of nodes unseen for that long that still hold money; gives their names."""
        rows = await self._all(
            "fence_silent_nodes", silence=silence, looked_at=looked_at, jump_max=CLOCK_JUMP_MAX
        )
        return [row[1] for row in rows]

    async def holds_to_lapse(self, limit: int) -> list[HoldToLapse]:
        """Open holds whose node is gone or whose time is up."""
        return [HoldToLapse(*row) for row in await self._all("holds_to_lapse", limit=limit)]

    async def organizations_with_ended_grants(self, limit: int) -> list[UUID]:
        """Organisations that have breakage to post."""
        return [row[0] for row in await self._all("grants_to_expire", limit=limit)]

    async def keep_house(self) -> None:
        """Make coming months' partitions and forget old nodes."""
        async with borrowed(self._pool) as connection:
            await connection.execute(self._sql["make_partitions"])
            await connection.execute(self._sql["forget_old_nodes"])

    async def _one(self, query: str, **parameters: object) -> tuple[Any, ...] | None:
        async with borrowed(self._pool) as connection:
            return await (await connection.execute(self._sql[query], parameters)).fetchone()

    async def _all(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        async with borrowed(self._pool) as connection:
            return await (await connection.execute(self._sql[query], parameters)).fetchall()
