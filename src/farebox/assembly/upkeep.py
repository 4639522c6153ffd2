"""The worker's part in the management plane: tiers, abandoned notes, days of usage, alerts."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from psycopg import AsyncConnection

from farebox.kit.errors import RefusedError
from farebox.kit.ids import format_id
from farebox.ledger.commands import AnyCommand, Refused, Result
from farebox.operations.anomaly_watch import AnomalyWatch
from farebox.operations.audited_money import Submit, audited
from farebox.operations.retention import retention_step
from farebox.operations.tiers import CHANGES_PER_PAGE, Followed, TierDesk, TierRounds
from farebox.storage.anomaly_store import PostgresAnomalyStore
from farebox.storage.audit_log_store import PostgresAuditLog
from farebox.storage.node_store import Pool, borrowed
from farebox.storage.request_store import PostgresRequestStore
from farebox.storage.retention_store import PostgresRetentionStore
from farebox.storage.tier_store import PostgresTierStore
from farebox.storage.usage_days import PostgresUsageDays
from farebox.system.secrets import random_bytes

UPKEEP_SECONDS: Final = 60.0
"""How soon a purchase moves an organisation's tier, and an abandoned note is chained."""

REPEATS_SECONDS: Final = 5.0
"""How soon a loop is told of, and stopped where that is wanted."""

RETENTION_SECONDS: Final = 3_600.0
"""How soon what is past retention goes: months are long."""

logger: Final = structlog.get_logger("farebox.worker")

FOLLOWING_SECONDS: Final = 5.0
"""How soon the next page of organisations follows a changed tier."""


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
        self._rounds = TierRounds(monotonic=time.monotonic)

    async def step(self) -> None:
        """Everything that is due.

        Raises:
            UnavailableError: The database is away.
        """
        async with borrowed(self._pool) as connection:
            await PostgresAuditLog(connection).chain_abandoned()
            await PostgresRequestStore(connection).drop_old()
            desk = self._tiers(connection)
            _log_failed(await desk.step(mend=False, changes_max=CHANGES_PER_PAGE))
            await PostgresUsageDays(connection).step()

    async def follow(self) -> int:
        """Give the next page of organisations the limits of a changed tier; tells how many changed.

        Raises:
            UnavailableError: The database is away.
        """
        async with borrowed(self._pool) as connection:
            followed = await self._rounds.step(self._tiers(connection))
        _log_failed(followed)
        return followed.changed

    def _tiers(self, connection: AsyncConnection[tuple[Any, ...]]) -> TierDesk:
        return TierDesk(PostgresTierStore(connection), self._submit, chance=random_bytes)


def _log_failed(followed: Followed) -> None:
    for each in followed.failed:
        who = format_id("org", each.organization_id)
        logger.warning("tier_not_followed", organization_id=who, error=repr(each.error))


class Retaining:
    """Retention, now and then; safe to take twice, and in two workers at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def step(self) -> None:
        """Drop what is past retention.

        Raises:
            UnavailableError: The database is away.
        """
        async with borrowed(self._pool) as connection:
            store, audit = PostgresRetentionStore(connection), PostgresAuditLog(connection)
            for outcome in await retention_step(store, audit):
                what = f"{outcome.parent}s of {outcome.month:%Y-%m}"
                if outcome.dropped:
                    logger.info("month_dropped", month=what, rows=outcome.rows)
                else:
                    logger.warning("month_stays", month=what, reason=outcome.reason)


class Watching:
    """The watch for anomalies; its steps are safe to take twice, and in two workers at once."""

    def __init__(self, pool: Pool, submit: Submit) -> None:
        """Put it together.

        Args:
            pool: Connections of the worker.
            submit: Has the engine decide and commit a command.
        """
        self._pool = pool
        self._submit = submit
        self._watch = AnomalyWatch()

    async def step(self) -> int:
        """Look at whoever has spent; gives how many alerts are new.

        Raises:
            FareboxError: The database is away, or somebody could not be looked at.
        """
        async with borrowed(self._pool) as connection:
            return await self._watch.step(PostgresAnomalyStore(connection))

    async def step_repeats(self) -> int:
        """Look at repeated requests; gives how many alerts are new.

        Raises:
            UnavailableError: The database is away.
        """
        async with borrowed(self._pool) as connection:
            log = PostgresAuditLog(connection)

            async def stop(command: AnyCommand) -> Result:
                result = await audited(log, self._submit, command)
                if isinstance(result, Refused):
                    raise RefusedError(result.code, result.message)
                return result

            return await self._watch.step_repeats(PostgresAnomalyStore(connection), stop)
