"""The catalogue on PostgreSQL: price versions, models and providers under one revision.

Every change happens inside :func:`changing_catalogue`, which takes the catalogue's row and grows
its revision in the same transaction; so an admission that was rated with older prices is always
found out (ENGINE.md, "A batch"). Price versions are only ever added.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import structs
from psycopg import AsyncConnection

from farebox.kit.errors import ConflictError, NotFoundError
from farebox.operations.audit_log import AuditNote
from farebox.operations.catalogue_import import ImportPlan, plan_import
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.price_plans import PlanVersion
from farebox.rating.units import Lane, Unit
from farebox.storage.arrays import flags, instants, numbers, texts, uuids
from farebox.storage.audit_log_store import append_event
from farebox.storage.plan_store import load_plans
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]


class NewProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as it is added."""

    id: UUID
    name: str
    kind: str
    """``openai``, ``azure`` or ``simulated``."""
    price_list: str
    """The provider name under which its price versions are looked up."""
    base_url: str
    api_version: str | None
    """Azure only."""
    secret: bytes | None
    """Encrypted with the key in FAREBOX_HOME; None where the provider wants none."""
    account_id: UUID
    """Our own account there, on which its calls cost us money."""
    account_name: str


class ProviderRow(NewProvider, frozen=True, kw_only=True):
    """A model provider that calls can be sent to."""

    created_at: datetime


class Catalogue(msgspec.Struct, frozen=True):
    """Everything at one revision; never changed, only replaced by a newer one."""

    revision: int
    prices: PriceBook
    providers: tuple[ProviderRow, ...]
    """In the order they were added: the first is preferred where several have a model."""
    plans: Mapping[UUID, tuple[PlanVersion, ...]] = {}
    """Every price plan's versions, the oldest first."""


async def load_catalogue(connection: _Connection) -> Catalogue:
    """Read the whole catalogue as of one instant.

    Args:
        connection: In autocommit mode, outside any transaction.

    Raises:
        InvalidInputError: Its rows contradict each other (:class:`PriceBook`).
    """
    sql = queries("catalogue")
    async with connection.transaction():
        await connection.execute(sql["read_only_snapshot"])
        revision = await read_revision(connection)
        versions = await _all(connection, "read_price_versions")
        models = await _all(connection, "read_models")
        providers = await _all(connection, "read_providers")
        plans = await load_plans(connection)
    book = PriceBook(map(price_version, versions), map(_facts, models), revision=revision)
    return Catalogue(revision, book, tuple(map(_provider, providers)), plans)


async def read_revision(connection: _Connection) -> int:
    """The catalogue's current revision; one cheap statement, asked every second by every node."""
    cursor = await connection.execute(queries("catalogue")["read_revision"])
    row = await cursor.fetchone()
    assert row is not None
    revision: int = row[0]
    return revision


async def read_versions(connection: _Connection) -> list[PriceVersion]:
    """Every price version, in the order they were added."""
    return [price_version(row) for row in await _all(connection, "read_price_versions")]


async def read_providers(connection: _Connection) -> list[ProviderRow]:
    """Every provider that is not removed, in the order they were added."""
    return [_provider(row) for row in await _all(connection, "read_providers")]


async def read_facts(connection: _Connection) -> list[ModelFacts]:
    """Everything known of models."""
    return [_facts(row) for row in await _all(connection, "read_models")]


class CatalogueChange:
    """The changes of one transaction; made by :func:`changing_catalogue` alone."""

    def __init__(self, connection: _Connection, revision: int) -> None:
        self._connection = connection
        self._sql = queries("catalogue")
        self.revision = revision
        """The revision that the change makes."""

    async def insert_price_versions(self, versions: Sequence[PriceVersion]) -> int:
        """Add versions in one statement; those whose id is known are left as they are.

        Returns:
            How many were new.
        """
        if not versions:
            return 0
        cursor = await self._connection.execute(
            self._sql["insert_price_versions"],
            (
                uuids(v.id for v in versions),
                texts(v.provider for v in versions),
                texts(v.model for v in versions),
                texts(v.lane.value for v in versions),
                texts(v.currency for v in versions),
                instants(v.effective_at for v in versions),
                texts(v.source for v in versions),
                numbers(v.long_context_over for v in versions),
                texts(_units(v.base) for v in versions),
                texts(_prices(v.base) for v in versions),
                texts(_units(v.long) for v in versions),
                texts(_prices(v.long) for v in versions),
            ),
        )
        return cursor.rowcount

    async def check(self) -> PriceBook:
        """Build the price book as the change makes it, so that no change can break the catalogue.

        Raises:
            InvalidInputError: The rows contradict each other; nothing must be committed.
        """
        versions, facts = await read_versions(self._connection), await read_facts(self._connection)
        return PriceBook(versions, facts, revision=self.revision)

    async def write_models(self, facts: Sequence[ModelFacts]) -> None:
        """Add what is known of models, or put it in place of what was."""
        if not facts:
            return
        await self._connection.execute(
            self._sql["write_models"],
            (
                texts(f.provider for f in facts),
                texts(f.model for f in facts),
                numbers(f.context_window for f in facts),
                numbers(f.output_max for f in facts),
                flags(f.counts_o200k for f in facts),
                numbers(f.image_tokens_max for f in facts),
                texts(texts(f.aliases) for f in facts),
                texts(texts(f.patterns) for f in facts),
            ),
        )

    async def add_provider(self, new: NewProvider) -> ProviderRow:
        """Add a provider, and its account where no account has that name yet.

        Args:
            new: Its ids are for new rows: a removed provider of that name, and an account that is
                there already, keep theirs.

        Returns:
            The row as it is now, with the ids that hold.

        Raises:
            ConflictError: There is one of that name.
        """
        named = {"id": new.account_id, "name": new.account_name}
        account = await self._one(self._sql["use_account"], named)
        assert account is not None
        values = {**structs.asdict(new), "account_id": account[0]}
        row = await self._one(self._sql["insert_provider"], values)
        if row is None:
            raise ConflictError(
                f"There is a provider {new.name!r} already; remove it first or choose another name."
            )
        values |= {"id": row[0], "created_at": utc(row[1])}
        return ProviderRow(**values)

    async def remove_provider(self, provider_id: UUID) -> None:
        """Take a provider out of service and forget its secret; its account and calls stay.

        Raises:
            NotFoundError: There is none, or it is removed already.
        """
        cursor = await self._connection.execute(self._sql["remove_provider"], (provider_id,))
        if cursor.rowcount == 0:
            raise NotFoundError("There is no such provider; `farebox providers list` shows them.")

    async def _one(self, sql: str, values: dict[str, object]) -> tuple[Any, ...] | None:
        return await (await self._connection.execute(sql, values)).fetchone()


async def import_prices(
    connection: _Connection,
    versions: Sequence[PriceVersion],
    facts: Sequence[ModelFacts],
    now: datetime,
    *,
    by: Actor = SYSTEM,
) -> ImportPlan:
    """Bring a price catalogue in (:func:`plan_import`); writes nothing where nothing is new.

    Args:
        connection: In autocommit mode, outside any transaction.
        versions: Every version of the catalogue.
        facts: What it knows of models.
        now: The database's time.
        by: Who brings it in, for the audit log.

    Raises:
        InvalidInputError: With it, the rows would contradict each other; nothing was written.
    """
    known = await read_versions(connection), await read_facts(connection)
    plan = plan_import(*known, versions, facts, now)
    if plan.is_empty:
        return plan
    async with changing_catalogue(connection) as change:
        # Again under the lock: another import may have come first.
        known = await read_versions(connection), await read_facts(connection)
        plan = plan_import(*known, versions, facts, now)
        await change.insert_price_versions(plan.versions)
        await change.write_models(plan.facts)
        await change.check()
        note = AuditNote(
            action="prices.imported",
            subject_kind="catalogue",
            subject_id=f"revision {change.revision}",
            after={
                "sources": sorted({version.source for version in plan.versions}),
                "versions_added": len(plan.versions),
                "models_written": len(plan.facts),
            },
        )
        await append_event(connection, by, note)
    return plan


@asynccontextmanager
async def changing_catalogue(connection: _Connection) -> AsyncIterator[CatalogueChange]:
    """Change the catalogue: everything inside commits under one new revision, or nothing does.

    Args:
        connection: In autocommit mode, outside any transaction.
    """
    async with connection.transaction():
        # Planning an import takes seconds where the machine is busy. Nobody waits for the rows that
        # it holds but another change of the catalogue.
        await connection.execute(queries("catalogue")["take_time"])
        cursor = await connection.execute(queries("catalogue")["grow_revision"])
        row = await cursor.fetchone()
        assert row is not None
        yield CatalogueChange(connection, row[0])


async def _all(connection: _Connection, name: str) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("catalogue")[name])
    return await cursor.fetchall()


def _units(table: Iterable[tuple[Unit, int]]) -> str:
    return texts(unit.value for unit, _ in table)


def _prices(table: Iterable[tuple[Unit, int]]) -> str:
    return numbers(price for _, price in table)


def price_version(row: tuple[Any, ...]) -> PriceVersion:
    """A row of ``read_price_versions``."""
    return PriceVersion(
        id=row[0],
        provider=row[1],
        model=row[2],
        lane=Lane(row[3]),
        currency=row[4],
        effective_at=utc(row[5]),
        source=row[6],
        long_context_over=row[7],
        base=tuple(zip(map(Unit, row[8]), row[9], strict=True)),
        long=tuple(zip(map(Unit, row[10]), row[11], strict=True)),
    )


def _facts(row: tuple[Any, ...]) -> ModelFacts:
    return ModelFacts(
        provider=row[0],
        model=row[1],
        context_window=row[2],
        output_max=row[3],
        counts_o200k=row[4],
        image_tokens_max=row[5],
        aliases=tuple(row[6]),
        patterns=tuple(row[7]),
    )


def _provider(row: tuple[Any, ...]) -> ProviderRow:
    return ProviderRow(
        id=row[0],
        name=row[1],
        kind=row[2],
        price_list=row[3],
        base_url=row[4],
        api_version=row[5],
        secret=row[6],
        account_id=row[7],
        account_name=row[8],
        created_at=utc(row[9]),
    )
