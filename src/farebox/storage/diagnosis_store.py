"""What the doctor reads, on one connection; see ``operations.diagnosis``.

Everything of an organisation is read in one snapshot. Nothing takes a lock, and every list is read
from its newest end up to a bound, so that a diagnosis costs the same however long the history is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from farebox.advice.facts import (
    NODE_SILENT_SECONDS,
    BooksDifference,
    CallRecord,
    DaySpend,
    EndingGroup,
    ExhaustedAccount,
    HoldsFacts,
    InstallationFacts,
    KeyRecord,
    ModelFinding,
    Neighbour,
    OrganizationFacts,
    ProjectFacts,
    QuarantineFacts,
    RefusalGroup,
    SpenderFacts,
    SpendingFacts,
    TierFacts,
)
from farebox.kit.errors import NotFoundError
from farebox.kit.periods import month_start, next_month_start
from farebox.ledger.limits import LimitFigures
from farebox.ledger.organizations import Organization
from farebox.ledger.scopes import ScopeKind, scope_number
from farebox.operations.balance import (
    LimitView,
    view_balance,
    view_grants,
    view_limits,
)
from farebox.operations.check_books import check_books
from farebox.operations.diagnosis import FoundCall, FoundKey, OrganizationRecord
from farebox.operations.diagnosis_facts import model_finding
from farebox.storage import rows
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.catalogue_store import load_catalogue
from farebox.storage.sql import queries
from farebox.tenancy.api_keys import key_state

GRANTS_MAX: Final = 100
"""The newest grants, besides all that have money left."""

LIMITS_MAX: Final = 2_000
SCANNED_CALLS_MAX: Final = 2_000
SCANNED_REFUSALS_MAX: Final = 5_000
SCANNED_ALERTS_MAX: Final = 500
GROUPS_MAX: Final = 20
SPENDERS_MAX: Final = 20
KEYS_MAX: Final = 5
NEIGHBOURS_MAX: Final = 3
OWNERS_MAX: Final = 3

SMALL_INSTALLATION_MAX: Final = 10
"""With more organisations, those that share no member are strangers to each other."""

BASELINE_DAYS: Final = 14
"""Days before the last one that say what is usual."""

SILENCE: Final = timedelta(seconds=NODE_SILENT_SECONDS)
OVERDUE: Final = timedelta(minutes=3)
"""A worker ends holds within a minute or two; after a clock's jump it waits for two."""

_Connection = AsyncConnection[tuple[Any, ...]]
_Row = tuple[Any, ...]


class PostgresDiagnosisStore:
    """Implements ``operations.diagnosis.DiagnosisStore`` on a connection in autocommit mode."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._sql = queries("diagnosis")

    # Whose and what it is.

    async def now(self) -> datetime:
        """See the port."""
        return rows.utc((await self._all("now", None))[0][0])

    async def find_call(self, call_id: UUID) -> FoundCall | None:
        """See the port."""
        facts = await PostgresCallStore(self._connection).find(call_id)
        if facts is None:
            return None
        alive = True
        if facts.status == "open":
            node = {"id": facts.node_id, "epoch": facts.epoch, "silence": SILENCE}
            alive = bool((await self._all("node_alive", node))[0][0])
        return FoundCall(facts, alive)

    async def find_keys(
        self,
        *,
        key_id: UUID | None = None,
        digest: bytes | None = None,
        prefix: str | None = None,
    ) -> Sequence[FoundKey]:
        """See the port."""
        values = {"id": key_id, "digest": digest, "prefix": prefix, "limit": KEYS_MAX}
        found = await self._all("find_keys", values)
        now = await self.now()
        return [FoundKey(_key(row, now), row[11]) for row in found]

    async def find_management_key(
        self, *, digest: bytes | None, prefix: str
    ) -> tuple[str, datetime | None] | None:
        """See the port."""
        found = await self._all("find_management_key", {"digest": digest, "prefix": prefix})
        return (found[0][0], _instant(found[0][1])) if found else None

    async def find_refusal(self, message: str) -> UUID | None:
        """See the port."""
        values = {"message": message, "scanned": SCANNED_REFUSALS_MAX}
        found = await self._all("find_refusal", values)
        return found[0][0] if len({row[1] for row in found}) == 1 else None

    async def find_organization(
        self, *, organization_id: UUID | None = None, name: str | None = None
    ) -> UUID | None:
        """See the port."""
        found = await self._all("find_organization", {"id": organization_id, "name": name})
        return found[0][0] if found else None

    async def owner_of(self, kind: str, row_id: UUID) -> UUID | None:
        """See the port."""
        found = await self._all(f"organization_of_{kind}", (row_id,))
        return found[0][0] if found else None

    async def organizations(self, limit: int) -> Sequence[UUID]:
        """See the port."""
        return [row[0] for row in await self._all("first_organizations", (limit,))]

    # Everything of an organisation.

    async def organization(
        self,
        organization_id: UUID,
        *,
        project_id: UUID | None,
        key_id: UUID | None,
        limit: LimitFigures | None,
    ) -> OrganizationRecord:
        """See the port.

        Raises:
            NotFoundError: There is no such organisation.
        """
        async with self._connection.transaction():
            await self._connection.execute(queries("catalogue")["read_only_snapshot"])
            return await self._record(organization_id, project_id, key_id, limit)

    async def _record(
        self,
        organization_id: UUID,
        project_id: UUID | None,
        key_id: UUID | None,
        limit: LimitFigures | None,
    ) -> OrganizationRecord:
        found = await self._all("read_organization", (organization_id,))
        if not found:
            raise NotFoundError("There is no such organisation.")
        name, currency, active, created_at, sequence = found[0]
        (row,) = await self._all("read_organization", (organization_id,), file="balance")
        engine, now = rows.organization(row), rows.utc(row[-1])
        about = {"organization_id": organization_id, "now": now, "key_id": key_id}
        with_money = await self._grants("read_grants_with_money", (organization_id,))
        newest = await self._grants(
            "list_grants",
            {"organization_id": organization_id, "before": None, "limit": GRANTS_MAX},
        )
        shown = list({grant.id: grant for grant in (*newest, *with_money)}.values())
        refusals = await self._refusals(about)
        asked = [limit, *(group.last.limit for group in refusals)]
        limits = await self._limits(engine, now, [each for each in asked if each is not None])
        project = await self._project(organization_id, project_id)
        return OrganizationRecord(
            at=now,
            organization=OrganizationFacts(
                id=organization_id, name=name, currency=currency, active=active
            ),
            calls=sequence,
            project=project,
            usable_keys=await self._usable_keys(about, project_id),
            scope_names=await self._scope_names(organization_id, limits),
            balance=view_balance(engine, with_money, now),
            grants=view_grants(engine, shown, with_money, now),
            last_charge_at=await self._last_charge(organization_id),
            limits=limits,
            tier=await self._tier(organization_id, engine, now),
            refusals=refusals,
            endings=await self._endings(about),
            holds=await self._holds(about),
            spending=await self._spending(about, rows.utc(created_at)),
            quarantine=await self._quarantine(organization_id),
            neighbours=await self._neighbours(about),
            owners=await self._owners(organization_id),
        )

    async def _grants(self, name: str, values: Any) -> list[Any]:
        return [rows.grant(row) for row in await self._all(name, values, file="balance")]

    async def _project(self, organization_id: UUID, project_id: UUID | None) -> ProjectFacts | None:
        if project_id is None:
            return None
        values = {"id": project_id, "organization_id": organization_id}
        found = await self._all("read_project", values)
        if not found:
            return None
        row = found[0]
        return ProjectFacts(
            id=row[0],
            name=row[1],
            owner=row[2],
            archived_at=_instant(row[3]),
            allowed_models=None if row[4] is None else tuple(row[4]),
        )

    async def _usable_keys(
        self, about: dict[str, Any], project_id: UUID | None
    ) -> tuple[KeyRecord, ...]:
        values = {**about, "project_id": project_id, "limit": KEYS_MAX}
        return tuple(_key(row, about["now"]) for row in await self._all("usable_keys", values))

    async def _limits(
        self, engine: Organization, now: datetime, asked: Sequence[LimitFigures]
    ) -> tuple[LimitView, ...]:
        numbers = [scope_number(each.scope_kind, each.scope_id) for each in asked]
        values = {"organization_id": engine.id, "numbers": numbers, "limit": LIMITS_MAX}
        found = await self._all("read_limits", values)
        return view_limits(engine, [rows.limits(row) for row in found], now)

    async def _scope_names(
        self, organization_id: UUID, limits: Sequence[LimitView]
    ) -> dict[str, str]:
        kinds = {ScopeKind.PROJECT, ScopeKind.KEY}
        refs = sorted({each.scope_ref for each in limits if each.scope_kind in kinds})
        if not refs:
            return {}
        values = {"organization_id": organization_id, "refs": refs}
        return {row[0]: row[1] for row in await self._all("scope_names", values)}

    async def _last_charge(self, organization_id: UUID) -> datetime | None:
        values = {"organization_id": organization_id, "limit": SCANNED_CALLS_MAX}
        return _instant((await self._all("last_charge", values))[0][0])

    async def _tier(
        self, organization_id: UUID, engine: Organization, now: datetime
    ) -> TierFacts | None:
        ends = next_month_start(now, engine.zone)
        values = {
            "organization_id": organization_id,
            "month_start": month_start(now, engine.zone),
            "month_end": ends,
        }
        found = await self._all("read_tier", values)
        if not found:
            return None
        name, maximum, next_name, next_needs, used = found[0]
        return TierFacts(
            name=name,
            monthly_maximum=maximum,
            used=used,
            resets_at=ends,
            next_name=next_name or "",
            next_needs=next_needs,
        )

    async def _refusals(self, about: dict[str, Any]) -> tuple[RefusalGroup, ...]:
        values = {**about, "scanned": SCANNED_REFUSALS_MAX, "limit": GROUPS_MAX}
        return tuple(map(_refusals, await self._all("read_refusals", values)))

    async def _endings(self, about: dict[str, Any]) -> tuple[EndingGroup, ...]:
        values = {**about, "scanned": SCANNED_CALLS_MAX, "limit": GROUPS_MAX}
        return tuple(
            EndingGroup(
                status=row[0],
                reason=row[1],
                times=row[2],
                last_id=row[3],
                last_at=rows.utc(row[4]),
                absorbed=row[5],
            )
            for row in await self._all("read_endings", values)
        )

    async def _holds(self, about: dict[str, Any]) -> HoldsFacts:
        (row,) = await self._all("read_holds", {**about, "overdue": OVERDUE})
        return HoldsFacts(count=row[0], amount=row[1], oldest_at=_instant(row[2]), overdue=row[3])

    async def _spending(self, about: dict[str, Any], created_at: datetime) -> SpendingFacts:
        existed = (about["now"] - created_at) // timedelta(days=1)
        values = {**about, "days": BASELINE_DAYS}
        days = await self._all("read_days", values)
        spenders = await self._all("read_spenders", {**values, "limit": SPENDERS_MAX})
        (retries,) = await self._all("read_retries", {**about, "scanned": SCANNED_CALLS_MAX})
        return SpendingFacts(
            days=tuple(
                DaySpend(age_days=row[0], charge=row[1], calls=row[2], tokens=row[3])
                for row in days
                if row[0] <= BASELINE_DAYS
            ),
            known_days=min(BASELINE_DAYS, max(0, existed)),
            spenders=tuple(map(_spender, spenders)),
            retried_calls=retries[0],
            looked_at_calls=retries[1],
        )

    async def _quarantine(self, organization_id: UUID) -> QuarantineFacts | None:
        found = await self._all("read_quarantine", (organization_id,))
        if not found:
            return None
        count, at, number, command, error = found[0]
        return QuarantineFacts(
            count=count, oldest_at=rows.utc(at), first_number=number, command=command, error=error
        )

    async def _neighbours(self, about: dict[str, Any]) -> tuple[Neighbour, ...]:
        values = {**about, "small": SMALL_INSTALLATION_MAX, "limit": NEIGHBOURS_MAX}
        return tuple(
            Neighbour(
                id=row[0], name=row[1], currency=row[2], available=row[3], members=tuple(row[4])
            )
            for row in await self._all("read_neighbours", values)
        )

    async def _owners(self, organization_id: UUID) -> tuple[str, ...]:
        values = {"organization_id": organization_id, "limit": OWNERS_MAX}
        return tuple(row[0] for row in await self._all("read_owners", values))

    # The installation.

    async def installation(self) -> InstallationFacts:
        """See the port."""
        (row,) = await self._all("read_installation", {"silence": SILENCE})
        exhausted = await self._all("read_exhausted", {"limit": SCANNED_ALERTS_MAX})
        return InstallationFacts(
            sandbox=row[0],
            clock_moved=row[1],
            real_time=rows.utc(row[3]),
            gateways_alive=row[4],
            gateway_seen_at=_instant(row[5]),
            providers=tuple(row[6]),
            priced_currencies=tuple(row[7]),
            exhausted=tuple(
                ExhaustedAccount(provider=each[0], account=each[1], at=rows.utc(each[2]))
                for each in exhausted
            ),
        )

    async def model(self, name: str, currency: str) -> ModelFinding:
        """See the port."""
        catalogue = await load_catalogue(self._connection)
        sellers = [(each.name, each.price_list) for each in catalogue.providers]
        now = await self.now()
        return model_finding(catalogue.prices, sellers, name, currency=currency, at=now)

    async def books(self, organization_id: UUID) -> tuple[BooksDifference, ...]:
        """See the port; differences only, no warnings."""
        report = await check_books(PostgresAuditStore(self._connection), [organization_id])
        return tuple(
            BooksDifference(each.code.value, each.message)
            for each in report.findings
            if not each.warning
        )

    async def _all(self, name: str, values: Any, *, file: str = "diagnosis") -> list[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(queries(file)[name], values)
        return await cursor.fetchall()


def _key(row: _Row, now: datetime) -> KeyRecord:
    expires_at, revoked_at = _instant(row[6]), _instant(row[7])
    return KeyRecord(
        id=row[0],
        name=row[1],
        prefix=row[2],
        state=key_state(
            now,
            revoked_at=revoked_at,
            expires_at=expires_at,
            project_archived_at=_instant(row[9]),
            organization_active=row[10],
        ),
        project_id=row[3],
        project_name=row[4],
        created_at=rows.utc(row[5]),
        expires_at=expires_at,
        revoked_at=revoked_at,
        used_at=_instant(row[8]),
    )


def _refusals(row: _Row) -> RefusalGroup:
    figures = None if row[8] is None else msgspec.json.decode(row[8], type=LimitFigures)
    last = CallRecord(
        id=row[0],
        status="refused",
        code=row[1],
        message=row[2],
        at=rows.utc(row[3]),
        model=row[4],
        needed=row[5],
        available=row[6],
        held=row[7],
        limit=figures,
        key_prefix=row[9] or "",
    )
    return RefusalGroup(last=last, times=row[10], first_at=rows.utc(row[11]))


def _spender(row: _Row) -> SpenderFacts:
    return SpenderFacts(
        key_id=row[0],
        key_name=row[1] or "",
        key_prefix=row[2] or "",
        project_name=row[3] or "",
        model=row[4],
        charge=row[5],
        calls=row[6],
        tokens=row[7],
        before_charge=row[8],
        before_calls=row[9],
        before_tokens=row[10],
    )


def _instant(value: datetime | None) -> datetime | None:
    return None if value is None else rows.utc(value)
