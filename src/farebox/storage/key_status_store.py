"""What a key is told of itself, read in one snapshot: the rows that the engine decides on."""

from __future__ import annotations

from farebox.ledger.scopes import scope_number
from farebox.operations.attribution import Names
from farebox.operations.key_status import KeyStatusFacts, scopes_of_key
from farebox.storage import rows
from farebox.storage.key_store import read_details
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.sql import queries


class PostgresKeyStatusStore:
    """Implements ``operations.key_status.KeyStatusStore`` over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(self, digest: bytes, names: Names) -> KeyStatusFacts | None:
        """See the port."""
        balance, keys = queries("balance"), queries("keys")
        async with borrowed(self._pool) as connection, connection.transaction():
            cursor = connection.cursor(binary=True)
            await cursor.execute(queries("catalogue")["read_only_snapshot"])
            key = await read_details(connection, digest)
            if key is None:
                return None
            numbers = [scope_number(kind, ref) for kind, ref in scopes_of_key(key, names)]
            one = (key.organization_id,)
            await cursor.execute(balance["read_organization"], one)
            organization = await cursor.fetchone()
            assert organization is not None
            await cursor.execute(balance["read_grants_with_money"], one)
            grants = await cursor.fetchall()
            wanted = {"organization_id": key.organization_id, "numbers": numbers}
            await cursor.execute(keys["read_key_limits"], wanted)
            limits = await cursor.fetchall()
        return KeyStatusFacts(
            key=key,
            organization=rows.organization(organization),
            grants=[rows.grant(row) for row in grants],
            limits=[rows.limits(row) for row in limits],
            now=rows.utc(organization[-1]),
        )
