"""The installation's clock on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection

from farebox.operations.clock import Deployment
from farebox.storage.tenancy_store import advance_clock, read_deployment
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresClock:
    """Implements ``operations.clock.Clock`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it is moved."""
        self._connection = connection
        self._by = by

    async def show(self) -> Deployment:
        """See the port."""
        return await read_deployment(self._connection)

    async def advance(self, by: timedelta) -> Deployment:
        """See the port."""
        return await advance_clock(self._connection, by, actor=self._by)
