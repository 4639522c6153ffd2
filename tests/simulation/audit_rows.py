"""The rows of the simulated database as the real books check reads them.

Says in Python what ``storage/queries/audit.sql`` says in SQL, so that ``operations.check_books``
and ``ledger.audit`` run on every world.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from farebox.kit.periods import hour_start
from farebox.ledger.audit_facts import (
    ROLLUP_MEASURES,
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
from farebox.ledger.holds import Dimensions
from farebox.ledger.journal import Account, Posting, PostingKind
from farebox.ledger.limits import micros
from farebox.ledger.state import ClosedCall, Ending
from tests.simulation.database import Batch, Database
from tests.simulation.limits import places, uses, windows
from tests.simulation.prices import PRICE_TABLES

_NO_ID = UUID(int=0)


class MemoryAuditStore:
    """Implements ``operations.check_books.AuditStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._endings: dict[UUID, Ending] = {}

    def committed(self, batch: Batch) -> None:
        """Keep the parts of a call's row that the engine writes and never reads."""
        assert batch.decision is not None
        changes = batch.decision.changes
        self._endings.update({c.call.call_id: c.ending for c in changes.closings})
        self._endings.update({late.call.call_id: late.ending for late in changes.late})

    async def organizations(self, after: UUID) -> list[UUID]:
        """One page of all."""
        return sorted(i for i in self._database.ledger.organizations if i > after)

    async def orphans(self) -> list[tuple[str, UUID]]:
        """None: every row was checked when it was written."""
        return []

    async def call_pages(self, organization_id: UUID) -> AsyncIterator[list[CallFacts]]:
        """One page of all closed calls."""
        yield [self._call(call) for call in self.calls(organization_id)]

    def calls(self, organization_id: UUID) -> list[ClosedCall]:
        """An organisation's closed calls."""
        calls = self._database.ledger.calls.values()
        return [call for call in calls if call.organization_id == organization_id]

    def _call(self, call: ClosedCall) -> CallFacts:
        ending = self._endings[call.call_id]
        return CallFacts(
            id=call.call_id,
            state=call.state,
            held=call.held,
            charge=call.charge,
            absorbed=call.absorbed,
            owed=call.owed,
            late_charge=call.late_charge,
            late_absorbed=call.late_absorbed,
            estimated=ending.estimated,
            price_id=_NO_ID,
            units=[line.unit for line in ending.lines],
            quantities=[line.quantity for line in ending.lines],
            prices=[line.price for line in ending.lines],
            amounts=[line.amount for line in ending.lines],
            draws=[draw.amount for draw in call.draws],
        )

    async def overruns_told(self, organization_id: UUID, call_ids: Sequence[UUID]) -> set[UUID]:
        """Calls whose overrun is in the outbox."""
        told = {
            UUID(event.facts["call_id"])
            for event in self._database.ledger.events
            if event.kind == "overrun" and event.organization_id == organization_id
        }
        return told & set(call_ids)

    async def price_tables(self, ids: Sequence[UUID]) -> dict[UUID, PriceTables]:
        """One price book for all."""
        return dict.fromkeys(ids, PRICE_TABLES)

    def postings(self, organization_id: UUID) -> list[Posting]:
        """An organisation's journal."""
        postings = self._database.ledger.postings
        return [each for each in postings if each.organization_id == organization_id]

    async def posting_pages(self, organization_id: UUID) -> AsyncIterator[list[PostingFacts]]:
        """One page of the whole journal."""
        ledger = self._database.ledger
        facts = []
        for number, posting in enumerate(self.postings(organization_id)):
            grant = None if posting.grant_id is None else ledger.grants.get(posting.grant_id)
            call = None if posting.call_id is None else ledger.calls.get(posting.call_id)
            facts.append(
                PostingFacts(
                    id=number,
                    kind=posting.kind,
                    at=posting.at,
                    accounts=list(posting.accounts),
                    amounts=list(posting.amounts),
                    grant_id=posting.grant_id,
                    call_id=posting.call_id,
                    grant_expires_at=grant.expires_at if grant else None,
                    call_state=call.state if call else None,
                    call_late_charge=call.late_charge if call else 0,
                    call_late_absorbed=call.late_absorbed if call else 0,
                )
            )
        yield facts

    async def quarantined(self, organization_id: UUID) -> list[QuarantinedFacts]:
        """Commands that wait for a ruling."""
        return [
            QuarantinedFacts(number, type(row.command).__name__, row.error)
            for number, row in enumerate(self._database.quarantine)
            if row.command.organization_id == organization_id and not row.ruled
        ]

    @asynccontextmanager
    async def snapshot(self, organization_id: UUID) -> AsyncIterator[MemorySnapshot]:
        """Nothing happens between two lines of an audit."""
        yield MemorySnapshot(self._database, self, organization_id)


class MemorySnapshot:
    """Implements ``operations.check_books.AuditSnapshot``."""

    def __init__(self, database: Database, store: MemoryAuditStore, organization_id: UUID) -> None:
        ledger = database.ledger
        self._database = database
        self._id = organization_id
        self._grants = [g for g in ledger.grants.values() if g.organization_id == organization_id]
        self._holds = [h for h in ledger.holds.values() if h.organization_id == organization_id]
        self._calls = store.calls(organization_id)
        self._postings = store.postings(organization_id)

    async def organization(self) -> tuple[OrganizationFacts, datetime] | None:
        """The organisation's row, and the time."""
        row = self._database.ledger.organizations[self._id]
        names = OrganizationFacts.__struct_fields__
        return OrganizationFacts(*(getattr(row, name) for name in names)), self._database.now()

    async def grants(self) -> AsyncIterator[GrantFacts]:
        """Grants with what calls, holds and the journal say of them."""
        drawn: Counter[UUID] = Counter()
        earmarked: Counter[UUID] = Counter()
        posted: dict[UUID, Counter[str]] = defaultdict(Counter)
        for call in self._calls:
            for draw in call.draws:
                drawn[draw.grant_id] += draw.amount
        for hold in self._holds:
            for mark in hold.earmarks:
                earmarked[mark.grant_id] += mark.amount
        for posting in self._postings:
            if posting.grant_id is not None:
                for name, amount in _posted(posting):
                    posted[posting.grant_id][name] += amount
        for grant in self._grants:
            journal = posted[grant.id]
            yield GrantFacts(
                id=grant.id,
                source=grant.source,
                state=grant.state,
                amount=grant.amount,
                remaining=grant.remaining,
                reserved=grant.reserved,
                frozen=grant.frozen,
                repaid=grant.repaid,
                expired=grant.expired,
                refunded=grant.refunded,
                drawn=drawn[grant.id],
                earmarked=earmarked[grant.id],
                posted_paid=journal["paid"],
                posted_free=journal["free"],
                posted_repaid=journal["repaid"],
                posted_expired=journal["expired"],
                posted_refunded=journal["refunded"],
            )

    async def holds(self) -> AsyncIterator[HoldFacts]:
        """Open holds."""
        for hold in self._holds:
            yield HoldFacts(
                call_id=hold.call_id,
                amount=hold.amount,
                unsecured=hold.unsecured,
                earmarks=[mark.amount for mark in hold.earmarks],
                raised=tuple(RaisedFacts(r.scope, r.rule, r.start, r.amount) for r in hold.raised),
                admitted_at=hold.admitted_at,
                latest_end=hold.latest_end,
                closed_too=hold.call_id in self._database.ledger.calls,
                scopes=tuple(places(hold)),
                model=hold.dimensions.model,
                tokens=hold.tokens,
            )

    async def windows(self) -> list[WindowFacts]:
        """Windows of limits with what their calls used."""
        ledger = self._database.ledger
        rows = [row for key, row in ledger.limits.items() if key[0] == self._id]
        return [
            WindowFacts(
                scope_kind=row.kind,
                scope_ref=row.ref,
                scope=row.number,
                rule=rule,
                start=start,
                end=end,
                start_micros=micros(start),
                used=used,
                held=held,
                counted=sum(
                    uses(call, rule.measure, failed=rule.count_failed)
                    for call in self._calls
                    if start <= call.admitted_at < end
                    and rule.counts(call.dimensions.model)
                    and (row.kind.value, row.ref) in places(call)
                ),
            )
            for row, rule, start, end, used, held in windows(rows)
        ]

    async def unequal_ranges(self) -> AsyncIterator[RangeFacts]:
        """Postings of calls, each beside its calls; all of them, the audit compares."""
        owed_late: Counter[UUID | None] = Counter()
        for posting in self._postings:
            if posting.kind is PostingKind.LATE and posting.grant_id is None:
                owed_late[posting.call_id] += _entry(posting, Account.RECEIVABLE)
        ranges = [p for p in self._postings if p.kind is PostingKind.CALLS]
        ranges.sort(key=lambda posting: posting.first_sequence or 0)
        before = 0
        for number, posting in enumerate(ranges):
            first, last = posting.first_sequence or 0, posting.last_sequence or 0
            after = ranges[number + 1].first_sequence if number + 1 < len(ranges) else None
            calls = [
                c for c in self._calls if first <= c.sequence and (not after or c.sequence < after)
            ]
            yield RangeFacts(
                posting_id=number,
                first_sequence=first,
                last_sequence=last,
                range_before_ends=before,
                customer_credit=_entry(posting, Account.CUSTOMER_CREDIT),
                receivable=_entry(posting, Account.RECEIVABLE),
                absorbed=_entry(posting, Account.ABSORBED),
                revenue=_entry(posting, Account.REVENUE),
                calls=len(calls),
                call_first=min((c.sequence for c in calls), default=0),
                call_last=max((c.sequence for c in calls), default=0),
                charge=sum(c.charge - c.late_charge for c in calls),
                owed=sum(c.owed - owed_late[c.call_id] for c in calls),
                call_absorbed=sum(c.absorbed - c.late_absorbed for c in calls),
            )
            before = last

    async def unequal_rollups(self) -> AsyncIterator[RollupFacts]:
        """Every hour's rollup beside its calls."""
        counted: dict[tuple[datetime, Dimensions], list[int]] = {}
        for call in self._calls:
            key = (hour_start(call.admitted_at), call.dimensions)
            sums = counted.setdefault(key, [0] * len(ROLLUP_MEASURES))
            sums[0] += 1
            for place, name in enumerate(ROLLUP_MEASURES[1:], 1):
                sums[place] += getattr(call.usage if name.endswith("tokens") else call, name)
        stored = {
            (key.hour, key.dimensions): [getattr(delta, name) for name in ROLLUP_MEASURES]
            for key, delta in self._database.ledger.rollups.items()
            if key.organization_id == self._id
        }
        for key in {**counted, **stored}:
            yield RollupFacts(key[0], key[1].model, stored.get(key), counted.get(key))

    async def rollup_count(self) -> int:
        """How many rollup rows there are."""
        return sum(key.organization_id == self._id for key in self._database.ledger.rollups)

    async def call_sums(self) -> CallSums:
        """Calls added up, and the numbers of calls and grants."""
        numbers = [c.sequence for c in self._calls] + [g.sequence for g in self._grants]
        return CallSums(
            charge=sum(c.charge for c in self._calls),
            absorbed=sum(c.absorbed for c in self._calls),
            owed=sum(c.owed for c in self._calls),
            numbered=len(numbers),
            numbers=len(set(numbers)),
            number_max=max(numbers, default=0),
        )

    async def journal_sums(self) -> JournalSums:
        """The journal added up."""
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for posting in self._postings:
            for account, amount in zip(posting.accounts, posting.amounts, strict=True):
                by_kind[posting.kind][account] += amount
        return JournalSums(by_kind)


def _entry(posting: Posting, account: Account) -> int:
    return next(
        (n for a, n in zip(posting.accounts, posting.amounts, strict=True) if a is account), 0
    )


def _posted(posting: Posting) -> Iterator[tuple[str, int]]:
    """What a posting says of the grant that it names."""
    match posting.kind:
        case PostingKind.GRANT:
            yield "paid", _entry(posting, Account.CLEARING)
            yield "free", _entry(posting, Account.PROMOTION_EXPENSE)
        case PostingKind.REPAYMENT:
            yield "repaid", _entry(posting, Account.CUSTOMER_CREDIT)
        case PostingKind.REFUND | PostingKind.DISPUTE_LOST:
            yield "refunded", _entry(posting, Account.CUSTOMER_CREDIT)
        case _:
            pass
    yield "expired", -_entry(posting, Account.BREAKAGE)
