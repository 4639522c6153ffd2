"""Alerts on PostgreSQL: what the watch reads, what it writes once, what people are told of.

Reads are short statements, each a page of bounded size. An alert is written under its
organisation's lock, with its word in the outbox, and its key makes it one (BUD-07, ANO-09).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import structs
from psycopg import AsyncConnection

from farebox.advice.anomalies import (
    REPEATS_MIN,
    USER_CALLS_MIN,
    AlertSettings,
    Anomaly,
    AnomalyKey,
    checked_settings,
)
from farebox.advice.anomalies_calls import USERS_HISTORY, Repeated, RunCall, UserHours
from farebox.advice.anomalies_overrun import Budget, RecentUse, looked_back, recent_since
from farebox.advice.anomalies_spending import (
    HISTORY,
    ByHour,
    Spender,
    Spent,
    first_hour_of_day,
)
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.periods import hour_start
from farebox.ledger.scopes import ID_KINDS
from farebox.operations.alerts import KINDS, OPERATOR_KINDS, Alert, settings_document
from farebox.operations.anomaly_watch import Active, FoundRepeat, FoundUser, ScopePage, Stop
from farebox.operations.audit_log import changed
from farebox.operations.balance import LimitView, view_limits
from farebox.storage import rows
from farebox.storage.audit_log_store import append_event
from farebox.storage.balance_store import list_limits
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor

STOPS_PER_STEP: Final = 100
USER_HOURS_MAX: Final = 1_000
"""Hours of users that a median is taken of."""

REPEATS_KEPT: Final = timedelta(days=1)
USERS_KEPT: Final = timedelta(days=14)

_Connection = AsyncConnection[tuple[Any, ...]]
_Row = tuple[Any, ...]

_write: Final = msgspec.json.Encoder().encode
_read_settings: Final = msgspec.json.Decoder(AlertSettings).decode
_read_facts: Final = msgspec.json.Decoder(dict[str, str]).decode


class PostgresAnomalyStore:
    """Implements ``operations.anomaly_watch.AnomalyStore`` and ``operations.alerts.AlertStore``.

    On one connection in autocommit mode.
    """

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by

    # What people see and change.

    async def settings(self, organization_id: UUID) -> AlertSettings:
        """See the port."""
        found = await self._ask("read_settings", {"organization_id": organization_id})
        return _settings(found[0][0] if found else None)

    async def change_settings(
        self, organization_id: UUID, changes: Mapping[str, Any]
    ) -> AlertSettings:
        """See the port."""
        async with self._connection.transaction():
            await self._lock(organization_id)
            standing = await self.settings(organization_id)
            settings = checked_settings(structs.replace(standing, **changes))
            before = settings_document(standing)
            values = {"organization_id": organization_id, "settings": _write(settings).decode()}
            await self._ask("put_settings", values)
            after, subject = settings_document(settings), format_id("org", organization_id)
            note = changed("alert_settings.changed", subject, organization_id, before, after)
            await append_event(self._connection, self._by, note)
        return settings

    async def alerts(
        self, organization_id: UUID, *, kind: str | None, before: int | None, limit: int
    ) -> list[Alert]:
        """See the port."""
        found = await self._ask(
            "alerts",
            {
                "organization_id": organization_id,
                "kinds": list(KINDS) if kind is None else [kind],
                "before": before,
                "limit": limit,
            },
        )
        return [_alert(row) for row in found]

    async def operator_alerts(
        self, *, before: int | None = None, since: datetime | None = None, limit: int
    ) -> list[Alert]:
        """See the port."""
        kinds = list(OPERATOR_KINDS)
        values = {"kinds": kinds, "before": before, "since": since, "limit": limit}
        return [_alert(row) for row in await self._ask("operator_alerts", values)]

    async def limits(
        self, organization_id: UUID, *, scopes: Iterable[int] | None = None
    ) -> tuple[LimitView, ...]:
        """See the port."""
        return await list_limits(self._connection, organization_id, scopes=scopes)

    # What the watch reads.

    async def now(self) -> datetime:
        """See the port."""
        return rows.utc((await self._ask("read_now", None, file="tenants"))[0][0])

    async def active(self, after: UUID | None, *, limit: int) -> list[Active]:
        """See the port."""
        return [
            Active(
                organization_id=row[0],
                zone=row[1],
                sequence=row[2],
                looked_at=None if row[3] is None else rows.utc(row[3]),
                limits_at=None if row[4] is None else rows.utc(row[4]),
                settings=_settings(row[5]),
            )
            for row in await self._ask("active", {"after": after, "limit": limit})
        ]

    async def looked(self, active: Active, *, at: datetime, limits_at: datetime) -> None:
        """See the port."""
        await self._ask(
            "looked",
            {
                "organization_id": active.organization_id,
                "sequence": active.sequence,
                "at": at,
                "limits_at": limits_at,
            },
        )

    async def spent(
        self, organization_id: UUID, *, zone: str, now: datetime, minimum: int, limit: int
    ) -> list[Spent]:
        """See the port."""
        found = await self._ask(
            "spent",
            {
                "organization_id": organization_id,
                "hour": hour_start(now),
                "day": first_hour_of_day(now, zone),
                "minimum": minimum,
                "limit": limit,
            },
        )
        return [Spent(_spender(organization_id, *row[:2]), *row[2:]) for row in found]

    async def histories(
        self, organization_id: UUID, who: Sequence[Spender], *, now: datetime
    ) -> dict[Spender, ByHour]:
        """See the port."""
        found = await self._ask(
            "histories",
            {
                "organization_id": organization_id,
                "since": hour_start(now) - HISTORY,
                "hour": hour_start(now),
                "projects": [UUID(each.ref) for each in who if each.kind == "project"],
                "keys": [UUID(each.ref) for each in who if each.kind == "key"],
            },
        )
        return {
            _spender(organization_id, *row[:2]): dict(
                zip(map(rows.utc, row[2]), row[3], strict=True)
            )
            for row in found
        }

    async def newest_calls(
        self, organization_id: UUID, *, since: datetime, limit: int
    ) -> dict[str, list[RunCall]]:
        """See the port."""
        runs: dict[str, list[RunCall]] = {}
        for run, call_id, at, *tokens in await self._ask(
            "newest_calls", {"organization_id": organization_id, "limit": limit}
        ):
            runs.setdefault(run, []).append(RunCall(call_id, rows.utc(at), *tokens))
        return {run: calls for run, calls in runs.items() if calls[-1].admitted_at >= since}

    async def scopes(
        self, organization_id: UUID, after: int | None, *, limit: int, now: datetime
    ) -> ScopePage:
        """See the port."""
        values = {"organization_id": organization_id, "after": after, "limit": limit}
        page = await self._ask("scope_page", values)
        if not page:
            return ScopePage((), None)
        defaults = await self._ask("scope_defaults", {"organization_id": organization_id})
        found = await self._ask("read_organization", (organization_id,), file="balance")
        scopes = [rows.limits(row) for row in (*(row[:5] for row in page), *defaults)]
        limits = view_limits(rows.organization(found[0]), scopes, now)
        return ScopePage(limits, page[-1][5] if len(page) == limit else None)

    async def recent_use(
        self, organization_id: UUID, budget: Budget, *, now: datetime
    ) -> RecentUse:
        """See the port."""
        models = budget.rule.models
        is_prefix = models.endswith("*")
        is_id = budget.scope_kind in ID_KINDS
        found = await self._ask(
            "recent_use",
            {
                "organization_id": organization_id,
                "measure": budget.rule.measure.value,
                "recent": recent_since(budget, now),
                "since": looked_back(budget, now),
                "kind": budget.scope_kind.value,
                "ref": str(UUID(budget.scope_ref)) if is_id else budget.scope_ref,
                "model": "" if is_prefix else models,
                "prefix": models[:-1] if is_prefix else "",
            },
        )
        first, used = found[0]
        return RecentUse(None if first is None else rows.utc(first), used)

    async def frequent_users(self, *, hour: datetime, limit: int) -> list[FoundUser]:
        """See the port."""
        values = {"hour": hour, "minimum": USER_CALLS_MIN, "limit": limit}
        found = await self._ask("frequent_users", values)
        return [FoundUser(row[0], _settings(row[1]), row[2], row[3]) for row in found]

    async def user_hours(self, found: FoundUser, *, hour: datetime) -> UserHours:
        """See the port."""
        every = await self._ask(
            "user_hours",
            {
                "organization_id": found.organization_id,
                "since": hour - USERS_HISTORY,
                "hour": hour,
                "user": found.user,
                "limit": USER_HOURS_MAX,
            },
        )
        own = tuple(calls for mine, calls in every if mine)
        others = tuple(calls for mine, calls in every if not mine)
        return UserHours(found.user, found.calls, own, others)

    async def repeats(self, *, since: datetime, limit: int) -> list[FoundRepeat]:
        """See the port."""
        values = {"since": since, "minimum": REPEATS_MIN, "limit": limit}
        return [
            FoundRepeat(
                row[0],
                _settings(row[1]),
                Repeated(
                    minute=rows.utc(row[2]),
                    project_id=row[3],
                    key_id=row[4],
                    run=row[5],
                    model=row[6],
                    watched=row[7],
                    calls=row[8],
                ),
            )
            for row in await self._ask("repeats", values)
        ]

    # What the watch writes.

    async def told(self, organization_id: UUID, found: Sequence[Anomaly]) -> set[AnomalyKey]:
        """See the port."""
        told = await self._ask("told", {"organization_id": organization_id, **_keys(found)})
        return {AnomalyKey(row[0], row[1], rows.utc(row[2])) for row in told}

    async def tell(
        self, organization_id: UUID, found: Sequence[Anomaly], *, stopping: bool = False
    ) -> dict[int, Anomaly]:
        """See the port."""
        by_key = {each.key: each for each in found}
        every = list(by_key.values())
        async with self._connection.transaction():
            await self._lock(organization_id)
            new = await self._ask(
                "tell",
                {
                    "organization_id": organization_id,
                    "action": "stopping" if stopping else "told",
                    "facts": [_write(each.facts).decode() for each in every],
                    **_keys(every),
                },
            )
        return {row[0]: by_key[AnomalyKey(row[1], row[2], rows.utc(row[3]))] for row in new}

    async def stops_left(self, before: datetime) -> list[Stop]:
        """See the port."""
        found = await self._ask("stops_left", {"before": before, "limit": STOPS_PER_STEP})
        return [Stop(row[0], row[1], _read_facts(row[2])) for row in found]

    async def stopped(self, stop: Stop) -> None:
        """See the port."""
        async with self._connection.transaction():
            await self._lock(stop.organization_id)
            await self._ask("stopped", {"id": stop.anomaly_id})

    async def forget_old(self, now: datetime) -> None:
        """See the port."""
        sql = queries("anomalies")
        await self._connection.execute(sql["forget_repeats"], {"before": now - REPEATS_KEPT})
        await self._connection.execute(sql["forget_users"], {"before": now - USERS_KEPT})

    async def _lock(self, organization_id: UUID) -> None:
        if not await self._ask("lock_organization", (organization_id,), file="tenants"):
            raise NotFoundError("There is no such organisation.")

    async def _ask(self, name: str, values: Any, *, file: str = "anomalies") -> list[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(queries(file)[name], values)
        return await cursor.fetchall()


def _alert(row: _Row) -> Alert:
    return Alert(
        id=row[0],
        kind=row[1],
        at=rows.utc(row[2]),
        facts=_read_facts(row[3]),
        action=row[4],
    )


def _settings(text: str | None) -> AlertSettings:
    return AlertSettings() if text is None else _read_settings(text)


def _spender(organization_id: UUID, project_id: UUID | None, key_id: UUID | None) -> Spender:
    if key_id is not None:
        return Spender("key", key_id.hex)
    if project_id is not None:
        return Spender("project", project_id.hex)
    return Spender("organization", organization_id.hex)


def _keys(found: Sequence[Anomaly]) -> dict[str, object]:
    return {
        "kinds": [each.kind.value for each in found],
        "subjects": [each.subject for each in found],
        "periods": [each.period_start.astimezone(UTC) for each in found],
    }
