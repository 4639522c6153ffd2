"""What gateways note of requests, written through a pool: outside any organisation's lock."""

from __future__ import annotations

from collections.abc import Sequence

from farebox.kit.texts import storable
from farebox.operations.request_watch import NotedRepeat, NotedUser
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries


class PostgresRequestWatchStore:
    """Implements ``operations.request_watch.RequestWatchStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def note_repeats(self, found: Sequence[NotedRepeat]) -> None:
        """See the port."""
        values = {
            "organizations": [each.organization_id for each in found],
            "watched": [each.watched.hex() for each in found],
            "projects": [each.project_id for each in found],
            "keys": [each.key_id for each in found],
            "runs": [storable(each.run) for each in found],
            "models": [storable(each.model) for each in found],
            "calls": [each.calls - each.written for each in found],
        }
        async with borrowed(self._pool) as connection:
            await connection.execute(queries("anomalies")["note_repeats"], values)

    async def note_users(self, found: Sequence[NotedUser]) -> None:
        """See the port."""
        values = {
            "organizations": [each.organization_id for each in found],
            "users": [each.user for each in found],
            "calls": [each.calls - each.written for each in found],
        }
        async with borrowed(self._pool) as connection:
            await connection.execute(queries("anomalies")["note_users"], values)
