"""Price plans on PostgreSQL.

A change of what anybody pays grows the catalogue's revision, so that an admission that was rated
before it is refused and rated anew, and the directory's, so that nodes forget whose plan was which.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError
from farebox.kit.ids import format_id
from farebox.operations.audit_log import AuditNote, changed
from farebox.operations.documents import instant
from farebox.operations.price_plans import Plan
from farebox.rating.price_plans import PlanTerms, PlanVersion, plan_in_force
from farebox.storage.arrays import uuids
from farebox.storage.audit_log_store import append_event
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

_Connection = AsyncConnection[tuple[Any, ...]]

_write_terms: Final = msgspec.json.Encoder().encode
_read_terms: Final = msgspec.json.Decoder(PlanTerms).decode


async def load_plans(connection: _Connection) -> dict[UUID, tuple[PlanVersion, ...]]:
    """Every plan with all its versions, the oldest first: what a node keeps."""
    found: dict[UUID, tuple[PlanVersion, ...]] = {}
    for version in await _versions(connection, None):
        found[version.plan_id] = (*found.get(version.plan_id, ()), version)
    return found


async def remember_planned(
    connection: _Connection, prices: Iterable[tuple[UUID, UUID, UUID]]
) -> None:
    """Note what prices under plans stand for: their ids, the book's, the plan versions'.

    Once for each is enough, and twice does no harm.
    """
    planned, books, plans = zip(*prices, strict=True)
    values = (uuids(planned), uuids(books), uuids(plans))
    await connection.execute(queries("price_plans")["remember_planned"], values)


class PostgresPlanStore:
    """Implements ``operations.price_plans.PlanStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by

    async def now(self) -> datetime:
        """See the port."""
        rows = await _ask(self._connection, "read_now", None, file="tenants")
        return utc(rows[0][0])

    async def plans(
        self,
        *,
        plan_id: UUID | None = None,
        name: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Plan]:
        """See the port."""
        values = {"id": plan_id, "name": name, "after": after, "limit": limit}
        rows = await _ask(self._connection, "list", values)
        now = await self.now()
        every = await load_plans(self._connection) if rows else {}
        return [
            Plan(
                id=row[0],
                name=row[1],
                created_at=utc(row[2]),
                version=plan_in_force(every.get(row[0], ()), now),
                versions=row[3],
                organizations=row[4],
            )
            for row in rows
        ]

    async def versions(self, plan_id: UUID) -> tuple[PlanVersion, ...]:
        """See the port."""
        return await _versions(self._connection, plan_id)

    async def add_version(
        self, plan_id: UUID, name: str, version_id: UUID, terms: PlanTerms, effective_at: datetime
    ) -> PlanVersion:
        """See the port."""
        text = _write_terms(terms).decode()
        values = {
            "plan_id": plan_id,
            "name": name,
            "id": version_id,
            "effective_at": effective_at,
            "terms": text,
        }
        try:
            async with self._connection.transaction():
                await self._grow()
                # The plan's row is the lock under which its versions are counted.
                await _ask(self._connection, "put_plan", values)
                await _ask(self._connection, "insert_version", values)
                version = (await _versions(self._connection, plan_id))[-1]
                note = AuditNote(
                    action="price_plan.revised",
                    subject_kind="price_plan",
                    subject_id=format_id("plan", plan_id),
                    after={
                        "name": version.plan_name,
                        "version": version.number,
                        "effective_at": instant(effective_at),
                        "terms": msgspec.json.decode(text),
                    },
                )
                await append_event(self._connection, self._by, note)
        except UniqueViolation as error:
            raise ConflictError(f"There is a price plan {name!r} already.") from error
        return version

    async def assign(self, organization_id: UUID, plan_id: UUID | None) -> None:
        """See the port."""
        values = {"organization_id": organization_id, "plan_id": plan_id}
        try:
            async with self._connection.transaction():
                lock = await _ask(
                    self._connection, "lock_organization", (organization_id,), file="tenants"
                )
                if not lock:
                    raise NotFoundError("There is no such organisation.")
                await self._grow()
                before = await self._assignment(organization_id)
                await _ask(self._connection, "assign", values)
                after = await self._assignment(organization_id)
                subject = format_id("org", organization_id)
                note = changed(
                    "organization.plan_assigned", subject, organization_id, before, after
                )
                await append_event(self._connection, self._by, note)
        except ForeignKeyViolation as error:
            raise NotFoundError("There is no such price plan.") from error

    async def _grow(self) -> None:
        """Nodes rate anew: the catalogue's row, then the directory's, as everywhere."""
        await _ask(self._connection, "grow_revision", None, file="catalogue")
        await _ask(self._connection, "grow_directory", None, file="tenants")

    async def _assignment(self, organization_id: UUID) -> dict[str, object]:
        values = {"organization_id": organization_id}
        rows = await _ask(self._connection, "read_assignment", values)
        return {"plan": rows[0][0]}


async def _versions(connection: _Connection, plan_id: UUID | None) -> tuple[PlanVersion, ...]:
    rows = await _ask(connection, "list_versions", {"plan_id": plan_id})
    return tuple(map(plan_version, rows))


def plan_version(row: tuple[Any, ...]) -> PlanVersion:
    """A row of ``list_versions``."""
    return PlanVersion(
        id=row[0],
        plan_id=row[1],
        plan_name=row[2],
        number=row[3],
        effective_at=utc(row[4]),
        terms=_read_terms(row[5]),
    )


async def _ask(
    connection: _Connection, name: str, values: Any, *, file: str = "price_plans"
) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries(file)[name], values)
    return await cursor.fetchall()
