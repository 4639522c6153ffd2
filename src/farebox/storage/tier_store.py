"""Tiers on PostgreSQL: the table, and where each organisation stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.scopes import ScopeKind, scope_number
from farebox.operations.audit_log import AuditNote, changed, made
from farebox.operations.balance import LimitView
from farebox.operations.documents import document
from farebox.operations.tiers import TierFacts
from farebox.storage.audit_log_store import append_event
from farebox.storage.balance_store import list_limits, read_balance
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor
from farebox.tenancy.tiers import Record, Tier, TierRate

_Connection = AsyncConnection[tuple[Any, ...]]

_write_rates: Final = msgspec.json.Encoder().encode
_read_rates: Final = msgspec.json.Decoder(tuple[TierRate, ...]).decode


class PostgresTierStore:
    """Implements ``operations.tiers.TierStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by

    async def now(self) -> datetime:
        """See the port."""
        rows = await self._ask("read_now", None, file="tenants")
        return utc(rows[0][0])

    async def tiers(
        self, *, currency: str | None = None, tier_id: UUID | None = None
    ) -> list[Tier]:
        """See the port."""
        values = {"currency": currency, "id": tier_id}
        return [_tier(row) for row in await self._ask("list", values)]

    async def put_tier(self, tier: Tier) -> Tier:
        """See the port."""
        values = {name: getattr(tier, name) for name in Tier.__struct_fields__}
        values["rates"] = _write_rates(tier.rates).decode()
        try:
            async with self._connection.transaction():
                before = await self.tiers(tier_id=tier.id)
                await self._ask("put", values)
                facts = document(tier, of="tier")
                if before:
                    old = document(before[0], of="tier")
                    note = changed("tier.changed", facts["id"], None, old, facts)
                else:
                    note = made("tier", facts["id"], None, facts)
                await append_event(self._connection, self._by, note)
        except UniqueViolation as error:
            raise ConflictError(
                f"There is a tier of {tier.currency} with the name {tier.name!r} or the position "
                f"{tier.position} already; `farebox tiers list` shows them."
            ) from error
        return tier

    async def remove_tier(self, tier_id: UUID) -> None:
        """See the port."""
        try:
            async with self._connection.transaction():
                before = await self.tiers(tier_id=tier_id)
                if not before:
                    raise NotFoundError("There is no such tier; `farebox tiers list` shows them.")
                await self._ask("remove", (tier_id,))
                facts = document(before[0], of="tier")
                note = AuditNote(
                    action="tier.removed",
                    subject_kind="tier",
                    subject_id=facts["id"],
                    before=facts,
                )
                await append_event(self._connection, self._by, note)
        except ForeignKeyViolation as error:
            raise RefusedError(
                "tier_in_use", "Organisations stand in this tier; assign them another one first."
            ) from error

    async def facts(
        self, *, organization_id: UUID | None = None, after: UUID | None = None, limit: int
    ) -> list[TierFacts]:
        """See the port."""
        values = {"id": organization_id, "after": after, "limit": limit}
        return [
            TierFacts(
                organization_id=row[0],
                organization_name=row[1],
                record=Record(currency=row[2], made_at=utc(row[3]), purchased=Nanos(row[6])),
                tier_id=row[4],
                fixed=row[5],
            )
            for row in await self._ask("facts", values)
        ]

    async def assign(self, organization_id: UUID, tier_id: UUID | None, *, fixed: bool) -> None:
        """See the port."""
        values = {"organization_id": organization_id, "tier_id": tier_id, "fixed": fixed}
        async with self._connection.transaction():
            if not await self._ask("lock_organization", (organization_id,), file="tenants"):
                raise NotFoundError("There is no such organisation.")
            before = await self._assignment(organization_id)
            await self._ask("unassign" if tier_id is None else "assign", values)
            after = await self._assignment(organization_id)
            subject = format_id("org", organization_id)
            note = changed("organization.tier_assigned", subject, organization_id, before, after)
            await append_event(self._connection, self._by, note)

    async def limits(self, organization_id: UUID) -> tuple[LimitView, ...]:
        """See the port."""
        own = scope_number(ScopeKind.ORGANIZATION, organization_id.hex)
        return await list_limits(self._connection, organization_id, scopes=[own])

    async def balance(self, organization_id: UUID) -> Nanos:
        """See the port."""
        return (await read_balance(self._connection, organization_id)).posted

    async def _assignment(self, organization_id: UUID) -> dict[str, object]:
        rows = await self._ask("read_assignment", {"organization_id": organization_id})
        return {
            "tier": rows[0][0] if rows else None,
            "fixed": rows[0][1] if rows else False,
        }

    async def _ask(self, name: str, values: Any, *, file: str = "tiers") -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(queries(file)[name], values)
        return await cursor.fetchall()


def _tier(row: tuple[Any, ...]) -> Tier:
    def amount(value: int | None) -> Nanos | None:
        return None if value is None else Nanos(value)

    return Tier(
        id=row[0],
        currency=row[1],
        position=row[2],
        name=row[3],
        purchases=Nanos(row[4]),
        age_days=row[5],
        monthly_maximum=amount(row[6]),
        balance_maximum=amount(row[7]),
        recharge_maximum=amount(row[8]),
        rates=_read_rates(row[9]),
    )
