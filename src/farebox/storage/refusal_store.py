"""Refused calls on PostgreSQL; see ``operations.refusals``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from farebox.operations.refusals import RefusalRow
from farebox.storage.arrays import numbers, texts, uuids
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries
from farebox.storage.writing import json_text

LABEL_CHARACTERS_MAX: Final = 300
"""Of a model's name or a label; what is longer was not made by a person."""

MESSAGE_CHARACTERS_MAX: Final = 2_000

_MICROSECOND: Final = timedelta(microseconds=1)


class PostgresRefusalStore:
    """Implements ``operations.refusals.RefusalStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = queries("refusals")

    async def insert(self, rows: Sequence[RefusalRow]) -> None:
        """Write rows in one statement; those whose id is there already are left as they are.

        Raises:
            UnavailableError: The database is away.
        """
        called = [row.refusal for row in rows]
        decided = [call.refusal for call in called]
        parameters = (
            uuids(call.call_id for call in called),
            uuids(call.organization_id for call in called),
            uuids(call.project_id for call in called),
            uuids(call.key_id for call in called),
            numbers(row.age // _MICROSECOND for row in rows),
            texts(refused.code for refused in decided),
            texts(refused.message[:MESSAGE_CHARACTERS_MAX] for refused in decided),
            texts(call.model[:LABEL_CHARACTERS_MAX] for call in called),
            texts(call.endpoint[:LABEL_CHARACTERS_MAX] for call in called),
            numbers(refused.needed for refused in decided),
            numbers(refused.available for refused in decided),
            numbers(refused.held for refused in decided),
            texts(None if r.limit is None else json_text(r.limit) for r in decided),
            texts(call.user[:LABEL_CHARACTERS_MAX] for call in called),
            texts(call.feature[:LABEL_CHARACTERS_MAX] for call in called),
            numbers(row.times for row in rows),
        )
        async with borrowed(self._pool) as connection:
            await connection.execute(self._sql["insert_refusals"], parameters)
