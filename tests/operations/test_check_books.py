"""Checking the books, from books in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec import structs

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
    RangeFacts,
    RollupFacts,
    WindowFacts,
)
from farebox.ledger.limits import Rule
from farebox.operations import check_books as module
from farebox.operations.check_books import check_books

NOW = datetime(2026, 5, 17, tzinfo=UTC)
PRICE = UUID(int=77)


class MemoryBooks:
    """Organisations that have nothing but calls, each of one cent that a grant paid."""

    def __init__(self, *calls: CallFacts, organizations: int = 1) -> None:
        self.ids = [UUID(int=number) for number in range(1, organizations + 1)]
        self.calls = list(calls)
        self.tables: dict[UUID, PriceTables] = {}
        self.asked: list[list[UUID]] = []
        self.told: set[UUID] = set()
        self.orphaned: list[tuple[str, UUID]] = []
        self.gone: set[UUID] = set()

    async def organizations(self, after: UUID) -> list[UUID]:
        return [each for each in self.ids if each > after][:2]

    async def orphans(self) -> list[tuple[str, UUID]]:
        return self.orphaned

    async def call_pages(self, organization_id: UUID) -> AsyncIterator[list[CallFacts]]:
        if organization_id == self.ids[0]:
            for call in self.calls:
                yield [call]

    async def overruns_told(self, organization_id: UUID, call_ids: Sequence[UUID]) -> set[UUID]:
        assert organization_id == self.ids[0]
        return self.told & set(call_ids)

    async def price_tables(self, ids: Sequence[UUID]) -> dict[UUID, PriceTables]:
        self.asked.append(list(ids))
        return {each: self.tables[each] for each in ids if each in self.tables}

    async def posting_pages(self, organization_id: UUID) -> AsyncIterator[list[PostingFacts]]:
        for _ in range(organization_id.int - 1):
            yield []

    async def quarantined(self, organization_id: UUID) -> list[QuarantinedFacts]:
        return [QuarantinedFacts(1, "settle", "no")] if organization_id.int == 3 else []

    @asynccontextmanager
    async def snapshot(self, organization_id: UUID) -> AsyncIterator[MemorySnapshot]:
        yield MemorySnapshot(self, organization_id)


class MemorySnapshot:
    """One of these organisations."""

    def __init__(self, books: MemoryBooks, organization_id: UUID) -> None:
        self.books = books
        self.id = organization_id
        self.charge = sum(each.charge for each in books.calls) if organization_id.int == 1 else 0

    async def organization(self) -> tuple[OrganizationFacts, datetime] | None:
        if self.id in self.books.gone:
            return None
        count = len(self.books.calls) if self.charge else 0
        nothing = dict.fromkeys(OrganizationFacts.__struct_fields__, 0)
        facts = OrganizationFacts(**{**nothing, "id": self.id})  # type: ignore[arg-type]
        return structs.replace(facts, sequence=count, granted=self.charge, spent=self.charge), NOW

    async def grants(self) -> AsyncIterator[GrantFacts]:
        if self.charge:
            zeros = dict.fromkeys(GrantFacts.__struct_fields__, 0)
            facts = GrantFacts(**{**zeros, "id": self.id})  # type: ignore[arg-type]
            yield structs.replace(
                facts,
                source="free",
                state="open",
                amount=self.charge,
                drawn=self.charge,
                posted_free=self.charge,
            )

    async def holds(self) -> AsyncIterator[HoldFacts]:
        for _ in range(self.id.int - 1):
            yield HoldFacts(
                self.id, 0, 0, [], (), NOW, NOW, closed_too=False, scopes=(), model="m", tokens=0
            )

    async def windows(self) -> list[WindowFacts]:
        return [WindowFacts("organization", self.id.hex, 1, Rule(maximum=1), NOW, NOW, 0, 0, 0, 0)]

    async def unequal_ranges(self) -> AsyncIterator[RangeFacts]:
        for _ in range(self.id.int - 2):
            zeros = dict.fromkeys(RangeFacts.__struct_fields__, 0)
            yield structs.replace(RangeFacts(**zeros), range_before_ends=1)

    async def unequal_rollups(self) -> AsyncIterator[RollupFacts]:
        for _ in range(self.id.int - 2):
            yield RollupFacts(NOW, "m", None, None)

    async def rollup_count(self) -> int:
        return 4

    async def call_sums(self) -> CallSums:
        count = len(self.books.calls) if self.charge else 0
        return CallSums(self.charge, 0, 0, count, count, count)

    async def journal_sums(self) -> JournalSums:
        if not self.charge:
            return JournalSums({})
        return JournalSums(
            {
                "grant": {"promotion_expense": self.charge, "customer_credit": -self.charge},
                "calls": {"customer_credit": self.charge, "revenue": -self.charge},
            }
        )


def call(number: int, *, unit: str = "input", held: int = 10) -> CallFacts:
    """A call of ten units for ten nanos."""
    return CallFacts(
        id=UUID(int=number),
        state="settled",
        held=held,
        charge=10,
        absorbed=0,
        owed=0,
        late_charge=0,
        late_absorbed=0,
        estimated=False,
        price_id=PRICE,
        units=[unit],
        quantities=[10],
        prices=[1_000_000],
        amounts=[10],
        draws=[10],
    )


async def test_all_organisations_are_checked_page_by_page() -> None:
    """Every organisation is checked once, and the counts of all are added up."""
    books = MemoryBooks(call(1), call(2), organizations=5)
    books.gone = {UUID(int=4)}
    report = await check_books(books)
    checked = report.checked
    assert (checked.organizations, checked.calls, checked.grants) == (5, 2, 1)
    assert (checked.rollups, checked.windows, checked.holds) == (16, 4, 7)
    # The third and the fifth have a range that overlaps; the third waits for a ruling too.
    assert {(f.organization_id.int, f.code.value) for f in report.findings} == {
        (3, "quarantined"),
        (3, "range"),
        (5, "range"),
    }
    assert not report.is_clean


async def test_some_organisations_are_checked_alone() -> None:
    """What is not asked for is not read, and rows of nobody are not looked for."""
    books = MemoryBooks(call(1), organizations=5)
    books.orphaned = [("call", UUID(int=9))]
    report = await check_books(books, [UUID(int=1), UUID(int=2)])
    assert (report.findings, report.checked.organizations) == ([], 2)
    whole = await check_books(books)
    assert ("orphans", "call") in {(f.code.value, f.subject) for f in whole.findings}


async def test_a_warning_leaves_the_books_clean() -> None:
    """Clean means that nothing is wrong; somebody may still have something to do."""
    report = await check_books(MemoryBooks(organizations=3), [UUID(int=1)])
    assert report.is_clean
    books = MemoryBooks(organizations=3)
    books.gone = {UUID(int=3)}
    waiting = await check_books(books, [UUID(int=3)])
    assert [f.code.value for f in waiting.findings] == ["quarantined"]
    assert waiting.is_clean


async def test_prices_are_asked_for_once_and_stand_in_for_others() -> None:
    """DED-07: a line is compared with its version; a unit without a price has its stand-in's."""
    books = MemoryBooks(call(1), call(2, unit="cached_input"), call(3, unit="audio_input"))
    books.tables[PRICE] = ({"input": 1_000_000},)
    report = await check_books(books)
    assert books.asked == [[PRICE]]
    (finding,) = report.findings
    assert finding.code.value == "call_line_price"
    assert finding.times == 1
    assert "audio_input" in finding.found


async def test_a_version_that_does_not_exist_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls rated by a version that is gone are not compared with any; memory stays bounded."""
    books = MemoryBooks(call(1), call(2))
    assert (await check_books(books)).findings == []
    assert books.asked == [[PRICE]]
    monkeypatch.setattr(module, "PRICES_KEPT_MAX", 0)
    assert (await check_books(books)).findings == []
    assert books.asked == [[PRICE]] * 3


async def test_an_overrun_must_have_been_told() -> None:
    """A charge beyond its hold is right only if the outbox knows of it."""
    books = MemoryBooks(call(1, held=9), call(2, held=9))
    books.told = {UUID(int=1)}
    (finding,) = (await check_books(books)).findings
    assert finding.code.value == "call_beyond_hold"
    assert finding.subject.endswith("2")


async def test_a_report_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits for a person, a report is short and no difference is lost behind it."""
    monkeypatch.setattr(module, "FINDINGS_MAX", 1)
    books = MemoryBooks(organizations=9)
    books.gone = {UUID(int=number) for number in range(1, 9)}
    report = await check_books(books)
    assert [(f.organization_id.int, f.code.value) for f in report.findings] == [(9, "range")]
    assert report.checked.organizations == 9
    assert not report.is_clean
