"""The worker's part in the management plane: tiers move, abandoned notes are chained."""

from __future__ import annotations

from typing import Final

from farebox.operations.audited_money import Submit
from farebox.operations.tiers import TierDesk
from farebox.storage.audit_log_store import PostgresAuditLog
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.request_store import PostgresRequestStore
from farebox.storage.tier_store import PostgresTierStore
from farebox.system.secrets import random_bytes

UPKEEP_SECONDS: Final = 60.0
"""How soon a purchase moves an organisation's tier, and an abandoned note is chained."""

MENDING_STEPS: Final = 60
"""Every so many steps the limits of those who stay in their tier are looked at, too."""


class Upkeep:
    """Its steps; each is safe to take twice, and in two workers at once."""

    def __init__(self, pool: Pool, submit: Submit) -> None:
        """Put it together.

        Args:
            pool: Connections of the worker.
            submit: Has the engine decide and commit a command.
        """
        self._pool = pool
        self._submit = submit
        self._steps = 0

    async def step(self) -> None:
        """Everything that is due.

        Raises:
            UnavailableError: The database is away.
        """
        mend = self._steps % MENDING_STEPS == 0
        async with borrowed(self._pool) as connection:
            await PostgresAuditLog(connection).chain_abandoned()
            await PostgresRequestStore(connection).drop_old()
            desk = TierDesk(PostgresTierStore(connection), self._submit, chance=random_bytes)
            await desk.step(mend=mend)
        self._steps += 1
