"""When keys were last used, written through a pool: outside any organisation's lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from farebox.storage.key_store import note_uses
from farebox.storage.node_store import Pool, borrowed


class PostgresKeyUseStore:
    """Implements ``operations.key_use.KeyUseStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def note_uses(self, uses: Sequence[tuple[UUID, UUID, datetime]]) -> None:
        """See the port."""
        async with borrowed(self._pool) as connection:
            await note_uses(connection, uses)
