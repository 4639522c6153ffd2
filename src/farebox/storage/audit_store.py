"""The books as an audit reads them: in pages, and in one short snapshot per organisation.

Nothing is locked and no snapshot lives longer than :data:`SNAPSHOT_SECONDS_MAX`: a check may run
beside traffic. Memory is bounded by a page, whatever the number of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from farebox.kit.errors import UnavailableError
from farebox.kit.ids import format_id
from farebox.ledger.audit_facts import (
    CallFacts,
    CallSums,
    GrantFacts,
    HoldFacts,
    JournalSums,
    OrganizationFacts,
    PostingFacts,
    PriceTables,
    QuarantinedFacts,
    RaisedFacts,
    RangeFacts,
    RollupFacts,
    WindowFacts,
)
from farebox.ledger.counters import Amounts
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import Measure, Rule, ScopeLimits, Window, instant, micros
from farebox.ledger.scopes import ID_KINDS, scopes_of
from farebox.storage import rows
from farebox.storage.planned_prices import load_planned
from farebox.storage.sql import queries

PAGE_ROWS: Final = 1_000
"""Rows of one page: some hundred kilobytes, some milliseconds."""

SNAPSHOT_SECONDS_MAX: Final = 60.0
"""An older snapshot makes a hot row many times slower (ENGINE.md, "A batch")."""

_Row = tuple[Any, ...]
_FIRST: Final = UUID(int=0)


class PostgresAuditStore:
    """Implements ``operations.check_books.AuditStore`` on one connection in autocommit mode."""

    def __init__(self, connection: AsyncConnection[_Row]) -> None:
        self._connection = connection
        self._sql = queries("audit")

    async def organizations(self, after: UUID) -> list[UUID]:
        """A page of organisations in the order of their ids."""
        found = await self._all("organizations", after=after, limit=PAGE_ROWS)
        return [row[0] for row in found]

    async def orphans(self) -> list[tuple[str, UUID]]:
        """Table and organisation of rows whose organisation does not exist."""
        return [(row[0], row[1]) for row in await self._all("orphans", limit=PAGE_ROWS)]

    async def call_pages(self, organization_id: UUID) -> AsyncIterator[list[CallFacts]]:
        """Closed calls by id, each page in a statement of its own."""
        after = _FIRST
        while page := await self._page("call_page", organization_id, after):
            yield [CallFacts(*row) for row in page]
            after = page[-1][0]

    async def posting_pages(self, organization_id: UUID) -> AsyncIterator[list[PostingFacts]]:
        """The journal by id, each page in a statement of its own."""
        after = 0
        while page := await self._page("posting_page", organization_id, after):
            yield [PostingFacts(*row) for row in page]
            after = page[-1][0]

    async def overruns_told(self, organization_id: UUID, call_ids: Sequence[UUID]) -> set[UUID]:
        """Those of the calls whose overrun is in the outbox."""
        ids = [str(call_id) for call_id in call_ids]
        found = await self._all("overruns_told", organization_id=organization_id, call_ids=ids)
        return {row[0] for row in found}

    async def price_tables(self, ids: Sequence[UUID]) -> dict[UUID, PriceTables]:
        """The tables of price versions as stored."""
        found = await self._all("price_versions", ids=list(ids))
        tables = {
            row[0]: _tables(zip(*row[1:3], strict=True), zip(*row[3:], strict=True))
            for row in found
        }
        if others := set(ids) - tables.keys():
            planned = await load_planned(self._connection, others)
            tables |= {each.id: _tables(each.base, each.long) for each in planned.values()}
        return tables

    async def quarantined(self, organization_id: UUID) -> list[QuarantinedFacts]:
        """Commands that wait for a ruling, the oldest."""
        found = await self._page("quarantined", organization_id, 0)
        return [QuarantinedFacts(*row) for row in found]

    @asynccontextmanager
    async def snapshot(self, organization_id: UUID) -> AsyncIterator[PostgresAuditSnapshot]:
        """One organisation as of one instant.

        Raises:
            UnavailableError: It was not read in :data:`SNAPSHOT_SECONDS_MAX`.
        """
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS_MAX), self._connection.transaction():
                await self._connection.execute(self._sql["begin_snapshot"])
                await self._connection.execute(self._sql["hold_months"])
                await self._connection.execute(self._sql["bound_snapshot"])
                yield PostgresAuditSnapshot(self._connection, organization_id)
        except TimeoutError as error:
            raise UnavailableError(
                f"{format_id('org', organization_id)} could not be read within"
                f" {SNAPSHOT_SECONDS_MAX:.0f} s; check it while the database is less busy."
            ) from error

    async def _page(self, name: str, organization_id: UUID, after: object) -> list[_Row]:
        return await self._all(name, organization_id=organization_id, after=after, limit=PAGE_ROWS)

    async def _all(self, name: str, **parameters: object) -> list[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], parameters)
        return await cursor.fetchall()


class PostgresAuditSnapshot:
    """Implements ``operations.check_books.AuditSnapshot`` inside one transaction."""

    def __init__(self, connection: AsyncConnection[_Row], organization_id: UUID) -> None:
        self._connection = connection
        self._sql = queries("audit")
        self._organization_id = organization_id
        self._parameters: dict[str, object] = {"organization_id": organization_id}

    async def organization(self) -> tuple[OrganizationFacts, datetime] | None:
        """The organisation's row and the time."""
        found = await self._all("organization")
        return (OrganizationFacts(*found[0][:-1]), found[0][-1]) if found else None

    async def grants(self) -> AsyncIterator[GrantFacts]:
        """Grants with what calls, holds and the journal say of them."""
        async for row in self._stream("grants"):
            yield GrantFacts(*row)

    async def holds(self) -> AsyncIterator[HoldFacts]:
        """Open holds."""
        async for row in self._stream("holds"):
            dimensions = Dimensions(*row[8:15])
            tokens, user, run, tags = row[15:]
            scopes = scopes_of(
                self._organization_id, dimensions, user=user, run=run, tags=tags or {}
            )
            counters = tuple(
                RaisedFacts(r.scope, r.rule, r.start, r.amount) for r in rows.raised(row[4])
            )
            yield HoldFacts(
                call_id=row[0],
                amount=row[1],
                unsecured=row[2],
                earmarks=row[3],
                raised=counters,
                admitted_at=row[5],
                latest_end=row[6],
                closed_too=row[7],
                scopes=tuple(scopes),
                model=dimensions.model,
                tokens=tokens,
            )

    async def windows(self) -> list[WindowFacts]:
        """Windows of limits with what their calls were charged."""
        scopes = [rows.limits(row) for row in await self._all("limits")]
        defaults = {scope.kind: scope.rules for scope in scopes if scope.is_default}
        forgotten = [micros(row[0]) for row in await self._all("forgotten_before")]
        return [
            await self._window(scope, rule, window)
            for scope in scopes
            if not scope.is_default
            for rule in {
                rule.number: rule for rule in (*defaults.get(scope.kind, ()), *scope.rules)
            }.values()
            for window in scope.windows.get(rule.number, ())
            # A default that was set anew begins anew; older windows wait to be forgotten.
            if rule.counts_from is None or window.start >= micros(rule.counts_from)
            if not forgotten or window.held or window.end > forgotten[0]
        ]

    async def _window(self, scope: ScopeLimits, rule: Rule, window: Window) -> WindowFacts:
        start, end = instant(window.start), instant(window.end)
        ((money, tokens, calls),) = await self._all(
            "used_between",
            kind=scope.kind,
            ref=str(UUID(scope.ref)) if scope.kind in ID_KINDS else scope.ref,
            model=rule.models,
            prefix=rule.models[:-1] if rule.models.endswith("*") else None,
            start=start,
            end=end,
            failed=rule.count_failed,
        )
        counted = Amounts(money, tokens, 0 if rule.measure is Measure.PARALLEL else calls)
        return WindowFacts(
            scope_kind=scope.kind,
            scope_ref=scope.ref,
            scope=scope.number,
            rule=rule,
            start=start,
            end=end,
            start_micros=window.start,
            used=window.used,
            held=window.held,
            counted=counted.of(rule.measure),
        )

    async def unequal_ranges(self) -> AsyncIterator[RangeFacts]:
        """Postings of calls that differ from their calls."""
        async for row in self._stream("unequal_ranges"):
            yield RangeFacts(*row)

    async def unequal_rollups(self) -> AsyncIterator[RollupFacts]:
        """Rollup rows that differ from their calls."""
        async for row in self._stream("unequal_rollups"):
            yield RollupFacts(*row)

    async def rollup_count(self) -> int:
        """How many rollup rows there are."""
        count: int = (await self._all("count_rollups"))[0][0]
        return count

    async def call_sums(self) -> CallSums:
        """Calls added up, and the numbers of calls and grants."""
        sums = (await self._all("call_sums"))[0]
        return CallSums(*sums, *(await self._all("sequences"))[0])

    async def journal_sums(self) -> JournalSums:
        """The journal added up."""
        by_kind: dict[str, dict[str, int]] = {}
        for kind, account, nanos in await self._all("journal_sums"):
            by_kind.setdefault(kind, {})[account] = nanos
        return JournalSums(by_kind)

    async def _stream(self, name: str) -> AsyncIterator[_Row]:
        async with self._connection.cursor(name, binary=True) as cursor:
            cursor.itersize = PAGE_ROWS
            await cursor.execute(self._sql[name], self._parameters)
            async for row in cursor:
                yield row

    async def _all(self, name: str, **more: object) -> list[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], {**self._parameters, **more})
        return await cursor.fetchall()


def _tables(base: Iterable[tuple[str, int]], long: Iterable[tuple[str, int]]) -> PriceTables:
    """The base table, and the long-context one where there is one."""
    tables = (dict(base), dict(long))
    return tables if tables[1] else tables[:1]
