"""Operators' alerts as gateways write them, through a pool: outside any organisation's lock."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from farebox.kit.ids import format_id
from farebox.operations.provider_watch import ACCOUNT_USED_UP, NotedAccount
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries


class PostgresProviderWatchStore:
    """Implements ``operations.provider_watch.ProviderWatchStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tell(self, found: Sequence[NotedAccount]) -> int:
        """See the port."""
        values = {
            "kind": ACCOUNT_USED_UP,
            "accounts": [each.account_id for each in found],
            "facts": [msgspec.json.encode(_facts(each)).decode() for each in found],
        }
        async with borrowed(self._pool) as connection:
            cursor = await connection.execute(queries("anomalies")["tell_operators"], values)
            return len(await cursor.fetchall())


def _facts(noted: NotedAccount) -> dict[str, str]:
    return {
        "provider": noted.provider,
        "status": str(noted.status),
        "request_id": format_id("req", noted.call_id),
    }
