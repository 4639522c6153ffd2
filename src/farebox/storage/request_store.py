"""Writes of the native API on PostgreSQL: one row per key that a client chose."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from farebox.kit.errors import ConflictError, RefusedError
from farebox.operations.idempotency import (
    ABANDONED_AFTER,
    ANSWER_BYTES_MAX,
    KEPT,
    Answer,
    Begun,
)
from farebox.storage.sql import queries

DROPPED_AT_ONCE: Final = 10_000
"""Rows deleted in one short transaction; the rest is the next call's."""

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresRequestStore:
    """Implements ``operations.idempotency.RequestStore`` on a connection in autocommit mode."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._sql = queries("requests")

    async def begin(
        self, caller: str, key: str, fingerprint: bytes, effect_id: UUID
    ) -> Begun | Answer:
        """See the port."""
        values = {
            "caller": caller,
            "key": key,
            "fingerprint": fingerprint,
            "effect_id": effect_id,
            "abandoned": ABANDONED_AFTER,
        }
        begun = await self._ask("begin", values)
        if begun:
            return Begun(begun[0][0])
        rows = await self._ask("read", values)
        if rows and rows[0][0] != fingerprint:
            raise RefusedError(
                "idempotency_key_reused",
                "This Idempotency-Key came with another request before; send a new key with a new "
                "request, and the same request with the same key.",
            )
        if not rows or rows[0][1] is None:
            raise ConflictError(
                "A request with this Idempotency-Key is being done; ask again in a moment."
            )
        return Answer(rows[0][1], rows[0][2], rows[0][3])

    async def finish(self, caller: str, key: str, answer: Answer) -> None:
        """See the port."""
        assert len(answer.body) <= ANSWER_BYTES_MAX, len(answer.body)
        values = {
            "caller": caller,
            "key": key,
            "status": answer.status,
            "content_type": answer.content_type,
            "body": answer.body,
        }
        await self._connection.execute(self._sql["finish"], values)

    async def abandon(self, caller: str, key: str) -> None:
        """See the port."""
        await self._connection.execute(self._sql["abandon"], {"caller": caller, "key": key})

    async def drop_old(self) -> int:
        """See the port."""
        values = {"kept": KEPT, "limit": DROPPED_AT_ONCE}
        cursor = await self._connection.execute(self._sql["drop_old"], values)
        return cursor.rowcount

    async def _ask(self, name: str, values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], values)
        return await cursor.fetchall()
