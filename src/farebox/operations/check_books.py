"""Checking the books: every organisation's rows are told to an audit, which says what differs.

Rows that prove themselves are read page by page; what must agree with each other is added up by the
database in one short snapshot per organisation, so that a check can run beside traffic, any number
of calls long, and never holds back a hot row (ENGINE.md, "A batch").
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.ledger.audit import Audit
from farebox.ledger.audit_facts import (
    CallFacts,
    CallSums,
    Counts,
    GrantFacts,
    HoldFacts,
    JournalSums,
    OrganizationFacts,
    PostingFacts,
    PriceTables,
    QuarantinedFacts,
    RangeFacts,
    RollupFacts,
    WindowFacts,
)
from farebox.ledger.audit_findings import Finding, orphaned
from farebox.rating.charge import unit_price
from farebox.rating.units import Unit

FINDINGS_MAX: Final = 1_000
"""Findings that a report lists; when more are wrong, the first ones say enough."""

PRICES_KEPT_MAX: Final = 10_000
"""Price versions remembered between pages."""

_FIRST: Final = UUID(int=0)


class AuditSnapshot(Protocol):
    """One organisation as of one instant."""

    async def organization(self) -> tuple[OrganizationFacts, datetime] | None:
        """Its row, and the database's time; None if there is no such organisation."""

    def grants(self) -> AsyncIterator[GrantFacts]:
        """Every grant, and what names a grant that is not there."""

    def holds(self) -> AsyncIterator[HoldFacts]:
        """Every open hold."""

    async def windows(self) -> list[WindowFacts]:
        """Every window of every limit."""

    def unequal_ranges(self) -> AsyncIterator[RangeFacts]:
        """Postings of calls that may differ from their calls."""

    def unequal_rollups(self) -> AsyncIterator[RollupFacts]:
        """Rollup rows that may differ from their calls."""

    async def rollup_count(self) -> int:
        """How many rollup rows there are."""

    async def call_sums(self) -> CallSums:
        """All its calls added up."""

    async def journal_sums(self) -> JournalSums:
        """Its journal added up."""


class AuditStore(Protocol):
    """Where the books are."""

    async def organizations(self, after: UUID) -> list[UUID]:
        """A page of organisations in the order of their ids; none at the end."""

    async def orphans(self) -> list[tuple[str, UUID]]:
        """Table and organisation of rows whose organisation does not exist."""

    def call_pages(self, organization_id: UUID) -> AsyncIterator[list[CallFacts]]:
        """Closed calls, page by page."""

    async def overruns_told(self, organization_id: UUID, call_ids: Sequence[UUID]) -> set[UUID]:
        """Those of the calls whose overrun is in the outbox."""

    async def price_tables(self, ids: Sequence[UUID]) -> dict[UUID, PriceTables]:
        """The tables of price versions as stored; versions that do not exist are left out."""

    def posting_pages(self, organization_id: UUID) -> AsyncIterator[list[PostingFacts]]:
        """The journal, page by page."""

    async def quarantined(self, organization_id: UUID) -> list[QuarantinedFacts]:
        """Commands that wait for a ruling."""

    def snapshot(self, organization_id: UUID) -> AbstractAsyncContextManager[AuditSnapshot]:
        """Everything of one organisation as of one instant, for less than a minute."""


class BooksReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found."""

    findings: list[Finding]
    """The first difference of each kind per organisation, warnings last; at most
    :data:`FINDINGS_MAX`."""
    is_clean: bool
    """The books are right; a warning does not make them wrong."""
    checked: Counts


async def check_books(
    store: AuditStore, organization_ids: Sequence[UUID] | None = None
) -> BooksReport:
    """Recompute everything from its own rows and name the first difference of each kind.

    Args:
        store: Where the books are.
        organization_ids: Which to check; None checks all, and looks for rows of organisations
            that do not exist.

    Raises:
        UnavailableError: The database is away, or one organisation takes too long.
    """
    broken: list[Finding] = []
    warnings: list[Finding] = []
    checked = Counts()
    prices = _Prices(store)
    if organization_ids is None:
        broken += [orphaned(table, org) for table, org in await store.orphans()]
    async for organization_id in _each(store, organization_ids):
        audit = Audit(organization_id)
        await _check_rows(store, audit, prices)
        async with store.snapshot(organization_id) as snapshot:
            await _check_sums(snapshot, audit)
        for finding in audit.findings:
            kept = warnings if finding.warning else broken
            if len(kept) < FINDINGS_MAX:
                kept.append(finding)
        for name in checked.__struct_fields__:
            setattr(checked, name, getattr(checked, name) + getattr(audit.checked, name))
    return BooksReport(
        findings=[*broken, *warnings][:FINDINGS_MAX], is_clean=not broken, checked=checked
    )


async def _each(store: AuditStore, organization_ids: Sequence[UUID] | None) -> AsyncIterator[UUID]:
    if organization_ids is not None:
        for organization_id in organization_ids:
            yield organization_id
        return
    page = await store.organizations(_FIRST)
    while page:
        for organization_id in page:
            yield organization_id
        page = await store.organizations(page[-1])


async def _check_rows(store: AuditStore, audit: Audit, prices: _Prices) -> None:
    organization_id = audit.organization_id
    async for calls in store.call_pages(organization_id):
        tables = await prices.of({call.price_id for call in calls})
        beyond = [call.id for call in calls if call.charge > call.held]
        told = await store.overruns_told(organization_id, beyond) if beyond else set()
        for call in calls:
            audit.call(call, tables.get(call.price_id), overrun_told=call.id in told)
    async for postings in store.posting_pages(organization_id):
        for posting in postings:
            audit.posting(posting)
    for command in await store.quarantined(organization_id):
        audit.quarantined(command)


async def _check_sums(snapshot: AuditSnapshot, audit: Audit) -> None:
    found = await snapshot.organization()
    if found is None:
        return
    organization, now = found
    async for grant in snapshot.grants():
        audit.grant(grant)
    for window in await snapshot.windows():
        audit.window(window)
    async for hold in snapshot.holds():
        audit.hold(hold, now)
    async for covered in snapshot.unequal_ranges():
        audit.range(covered)
    async for rollup in snapshot.unequal_rollups():
        audit.rollup(rollup)
    audit.checked.rollups += await snapshot.rollup_count()
    audit.close(organization, await snapshot.call_sums(), await snapshot.journal_sums())


class _Prices:
    """Price versions by id, remembered from page to page."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._known: dict[UUID, PriceTables | None] = {}

    async def of(self, ids: set[UUID]) -> dict[UUID, PriceTables]:
        """The tables of those versions that exist, every unit that may be charged included."""
        if len(self._known) > PRICES_KEPT_MAX:
            self._known.clear()
        new = sorted(ids - self._known.keys())
        if new:
            stored = await self._store.price_tables(new)
            for version_id in new:
                tables = stored.get(version_id)
                self._known[version_id] = tables and tuple(map(_with_stand_ins, tables))
        return {i: tables for i in ids if (tables := self._known[i]) is not None}


def _with_stand_ins(table: Mapping[str, int]) -> dict[str, int]:
    """A price table with the units that are billed as another one (rating's ``BILLED_AS``)."""
    prices = {unit: price for unit in Unit if (price := table.get(unit)) is not None}
    full = {unit.value: unit_price(unit, prices) for unit in Unit}
    return {unit: price for unit, price in full.items() if price is not None}
