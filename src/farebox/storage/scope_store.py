"""Rows of scopes that may be forgotten, page by page."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from farebox.ledger.limits import WINDOW_KEPT
from farebox.operations.forgetting import Place, ScopesPage
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries

_FIRST: Final = Place(UUID(int=0), -1)


class PostgresScopeStore:
    """Implements ``operations.forgetting.ScopeStore``, on connections of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def scopes_over(self, after: Place | None, limit: int) -> ScopesPage:
        """See the port."""
        begin = after or _FIRST
        values = {
            "organization_id": begin.organization_id,
            "number": begin.number,
            "limit": limit,
            "kept": WINDOW_KEPT,
        }
        async with borrowed(self._pool) as connection:
            cursor = await connection.execute(queries("forgetting")["scopes_over"], values)
            rows = await cursor.fetchall()
        over = [Place(row[0], row[1]) for row in rows if row[2]]
        last = Place(rows[-1][0], rows[-1][1]) if len(rows) == limit else None
        return ScopesPage(over, last)
