"""What the gateway reads of the database, and an upstream for every provider in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from farebox.assembly.database import Pool
from farebox.kit.errors import FareboxError
from farebox.operations.directory import Caller, Catalogue, CatalogueNow
from farebox.operations.upstream import Upstream
from farebox.providers.openai_compatible import OpenAICompatibleUpstream
from farebox.providers.simulated.provider import SimulatedUpstream
from farebox.storage.catalogue_store import ProviderRow, load_catalogue
from farebox.storage.key_store import find_key
from farebox.storage.node_store import borrowed
from farebox.storage.plan_store import remember_planned
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.system.clock import unix_seconds
from farebox.system.secrets import SecretBox
from farebox.system.token_counter import count_o200k

REPLACED_SECONDS: Final = 7_200.0
"""A provider that was changed or removed keeps its connections for as long as a call may last."""


class DatabaseDirectory:
    """Implements ``operations.directory.Directory``."""

    def __init__(self, pool: Pool, home: Path) -> None:
        self._pool = pool
        self._home = home
        self._upstreams: dict[UUID, tuple[ProviderRow, Upstream]] = {}

    async def find_key(self, digest: bytes) -> Caller | None:
        """The key with that digest."""
        async with borrowed(self._pool) as connection:
            return await find_key(connection, digest)

    async def catalogue_now(self) -> CatalogueNow:
        """The revisions and the engine's time."""
        async with borrowed(self._pool) as connection:
            cursor = await connection.execute(queries("nodes")["catalogue_now"])
            row = await cursor.fetchone()
        assert row is not None
        return CatalogueNow(row[0], utc(row[1]), row[2])

    async def remember_planned(self, prices: Sequence[tuple[UUID, UUID, UUID]]) -> None:
        """Note what prices under plans stand for."""
        async with borrowed(self._pool) as connection:
            await remember_planned(connection, prices)

    async def load_catalogue(self) -> tuple[Catalogue, dict[UUID, Upstream]]:
        """The catalogue, and an upstream for each of its providers; unchanged ones are kept."""
        async with borrowed(self._pool) as connection:
            catalogue = await load_catalogue(connection)
        kept: dict[UUID, tuple[ProviderRow, Upstream]] = {}
        for row in catalogue.providers:
            known = self._upstreams.get(row.id)
            kept[row.id] = known if known and known[0] == row else (row, self._upstream(row))
        replaced = [
            upstream
            for provider_id, (row, upstream) in self._upstreams.items()
            if kept.get(provider_id, (None, None))[1] is not upstream
        ]
        for upstream in replaced:
            # Calls that began with it may still run; when the last can have ended, it closes.
            asyncio.get_running_loop().call_later(REPLACED_SECONDS, _close, upstream)
        self._upstreams = kept
        return catalogue, {provider_id: upstream for provider_id, (_, upstream) in kept.items()}

    def _upstream(self, row: ProviderRow) -> Upstream:
        if row.kind == "simulated":
            return SimulatedUpstream(
                count_tokens=count_o200k,
                sleep=asyncio.sleep,
                monotonic=time.monotonic,
                unix_time=unix_seconds,
                seed=row.id.int & 0xFFFF_FFFF,
            )
        secret = None if row.secret is None else self._secret(row)
        return OpenAICompatibleUpstream(
            row.base_url,
            secret,
            style="azure" if row.kind == "azure" else "openai",
            api_version=row.api_version,
        )

    def _secret(self, row: ProviderRow) -> str:
        assert row.secret is not None
        try:
            return SecretBox(self._home).open(row.secret)
        except FareboxError as error:
            raise type(error)(f"The secret of provider {row.name!r}: {error.message}") from error


def _close(upstream: Upstream) -> None:
    asyncio.ensure_future(upstream.aclose())  # noqa: RUF006 - the loop keeps it while it runs
