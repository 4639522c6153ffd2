"""The audit: are the books what their own rows make of them?

Facts in, findings out. Every total is compared with the sum of the rows it stands for, every row
with its parts, the journal with both (DESIGN.md promise 3, DED-04, DED-16). The first difference of
each kind is named, and how many more there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import structs

from farebox.kit.ids import format_id
from farebox.kit.money import format_amount, price_half_even
from farebox.ledger.audit_facts import (
    ROLLUP_MEASURES,
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
from farebox.ledger.audit_findings import WARNINGS, Code, Finding
from farebox.ledger.counters import Amounts
from farebox.ledger.grants import PAID, GrantState
from farebox.ledger.holds import CallState
from farebox.ledger.journal import Account, PostingKind
from farebox.ledger.limits import Measure, Origin
from farebox.ledger.scopes import ID_KINDS

HOLD_OVERDUE_AFTER: Final = timedelta(minutes=5)
"""The sweep ends a hold within seconds of its latest end; after a clock jump it pauses for two
minutes. Later than this, nobody sweeps."""


class Audit:
    """One organisation's audit: told row by row, it keeps the first difference of each kind."""

    def __init__(self, organization_id: UUID) -> None:
        self.organization_id = organization_id
        self.checked = Counts(organizations=1)
        self._findings: dict[Code, Finding] = {}
        self._grants = dict.fromkeys(("amount", "remaining", "reserved", "frozen"), 0)
        self._grants |= dict.fromkeys(("repaid", "expired", "refunded"), 0)
        self._earmarked = 0
        self._unsecured = 0
        self._windows: dict[_WindowKey, WindowFacts] = {}
        self._windows_of: dict[tuple[str, str], list[_WindowKey]] = {}
        self._window_holds: dict[_WindowKey, int] = {}
        self._window_raised: dict[_WindowKey, int] = {}

    @property
    def findings(self) -> list[Finding]:
        """The first difference of each kind so far, in the order they were found."""
        return list(self._findings.values())

    # Single rows, each in itself.

    def call(
        self, call: CallFacts, prices: PriceTables | None, *, overrun_told: bool = False
    ) -> None:
        """Check a closed call: its lines, its draws and its bounds.

        Args:
            call: The row.
            prices: The tables of its price version, stand-ins included; None if there is none.
            overrun_told: Whether an overrun of this call was written to the outbox.
        """
        self.checked.calls += 1
        self.checked.line_items += len(call.units)
        self.checked.draws += len(call.draws)
        subject = format_id("req", call.id)
        metered = call.charge + call.absorbed
        if call.state in {CallState.SETTLED, CallState.LATE}:
            self._money(Code.CALL_LINES, subject, sum(call.amounts), metered)
        elif call.state == CallState.RELEASED:
            moved = metered + sum(call.amounts) + sum(call.draws)
            self._money(Code.CALL_RELEASED, subject, 0, moved)
        self._money(Code.CALL_DRAWS, subject, call.charge, sum(call.draws) + call.owed)
        if call.draws and min(call.draws) <= 0:
            self._note(Code.CALL_DRAWS, subject, "draws above zero", _amount(min(call.draws)))
        self._lines(subject, call, prices)
        if call.charge > call.held and not overrun_told:
            wanted = f"at most {_amount(call.held)}"
            self._note(Code.CALL_BEYOND_HOLD, subject, wanted, _amount(call.charge))
        if call.state != CallState.LATE:
            self._money(Code.CALL_LATE, subject, 0, abs(call.late_charge) + abs(call.late_absorbed))

    def _lines(self, subject: str, call: CallFacts, prices: PriceTables | None) -> None:
        columns = (call.units, call.quantities, call.prices, call.amounts)
        if len({len(column) for column in columns}) > 1:
            lengths = " and ".join(str(len(column)) for column in columns)
            self._note(Code.CALL_LINES, subject, "lines of four parts each", f"{lengths} parts")
            return
        for unit, quantity, price, amount in zip(*columns, strict=True):
            if quantity < 0 or price < 0 or price_half_even(quantity, price) != amount:
                wanted = f"{unit}: {quantity} x {_amount(price)} per million"
                self._note(Code.CALL_LINE_AMOUNT, subject, wanted, _amount(amount))
        if prices is not None and not _priced(call, prices):
            wanted = " or ".join(_table(call.units, table) for table in prices)
            has = _table(call.units, dict(zip(call.units, call.prices, strict=True)))
            self._note(Code.CALL_LINE_PRICE, subject, wanted, has)

    def posting(self, posting: PostingFacts) -> None:
        """Check a posting: balanced, of known words, and true of the grant and call it names."""
        self.checked.postings += 1
        subject = f"posting {posting.id}"
        self._money(Code.POSTING_UNBALANCED, subject, 0, sum(posting.amounts))
        entries = dict(zip(posting.accounts, posting.amounts, strict=True))
        unknown = [account for account in entries if account not in _ACCOUNTS]
        if posting.kind not in _KINDS or unknown or len(entries) < len(posting.accounts):
            said = ", ".join([posting.kind, *posting.accounts])
            self._note(Code.POSTING_UNKNOWN, subject, "known words, each account once", said)
        if posting.call_id is not None and posting.call_state is None:
            call = format_id("req", posting.call_id)
            self._note(Code.POSTING_CALL, subject, f"call {call}", "no such call")
        elif posting.kind == PostingKind.LATE and posting.grant_id is None:
            self._late(subject, posting, entries)
        if Account.BREAKAGE in entries:
            self._breakage(subject, posting)

    def _late(self, subject: str, posting: PostingFacts, entries: dict[str, int]) -> None:
        charge, absorbed = posting.call_late_charge, posting.call_late_absorbed
        wanted = f"late, charge {_amount(charge)}, absorbed {_amount(absorbed)}"
        has_absorbed = entries.get(Account.ABSORBED, 0)
        has_charge = -entries.get(Account.REVENUE, 0) - has_absorbed
        has = (
            f"{posting.call_state}, charge {_amount(has_charge)}, absorbed {_amount(has_absorbed)}"
        )
        if wanted != has:
            self._note(Code.POSTING_LATE, subject, wanted, has)

    def _breakage(self, subject: str, posting: PostingFacts) -> None:
        """At the grant's end; what came back to it later, when it came back (CRD-11)."""
        end = posting.grant_expires_at
        once = posting.kind == PostingKind.BREAKAGE and posting.call_id is None
        if end is None:
            self._note(Code.BREAKAGE_DATE, subject, "a grant that ends", "no end")
        elif posting.at != end if once else posting.at < end:
            wanted = f"{'at' if once else 'not before'} {end.isoformat()}"
            self._note(Code.BREAKAGE_DATE, subject, wanted, posting.at.isoformat())

    def quarantined(self, command: QuarantinedFacts) -> None:
        """Remind of a command that waits for a ruling; its hold stays until then."""
        subject = f"quarantine {command.id}"
        self._note(Code.QUARANTINED, subject, "none", f"{command.command_kind}: {command.error}")

    # Rows of one snapshot, beside the sums of others.

    def grant(self, grant: GrantFacts) -> None:
        """Check a grant against the calls, the holds and the journal (DED-04, CRD-11)."""
        subject = format_id("grant", grant.id)
        if grant.source is None:
            used = f"drawn {_amount(grant.drawn)}, earmarked {_amount(grant.earmarked)}"
            self._note(Code.GRANT_UNKNOWN, subject, "a grant of this organisation", used)
            return
        self.checked.grants += 1
        for name in self._grants:
            self._grants[name] += getattr(grant, name)
        parts = grant.remaining + grant.drawn + grant.repaid + grant.expired + grant.refunded
        self._money(Code.GRANT_PARTS, subject, parts, grant.amount)
        unreserved = grant.remaining - grant.reserved - grant.frozen
        low = min(grant.reserved, grant.frozen, unreserved, grant.amount - grant.remaining)
        if low < 0:
            self._note(Code.GRANT_BOUNDS, subject, "no part below zero", _amount(low))
        elsewhere = grant.frozen if grant.state != GrantState.FROZEN else 0
        if grant.state != GrantState.OPEN:
            elsewhere += max(0, unreserved)
        self._money(Code.GRANT_STATE, subject, 0, elsewhere)
        self._money(Code.GRANT_RESERVED, subject, grant.earmarked, grant.reserved)
        paid = grant.posted_paid if grant.source in PAID else grant.posted_free
        other = grant.posted_paid + grant.posted_free - paid
        self._money(Code.GRANT_POSTED, subject, grant.amount, paid - other)
        self._money(Code.GRANT_REPAID, subject, grant.posted_repaid, grant.repaid)
        self._money(Code.GRANT_EXPIRED, subject, grant.posted_expired, grant.expired)
        if grant.refunded < grant.posted_refunded:
            wanted = f"at least {_amount(grant.posted_refunded)}"
            self._note(Code.GRANT_REFUNDED, subject, wanted, _amount(grant.refunded))

    def window(self, window: WindowFacts) -> None:
        """Check a limit's used, and note the window for the holds, which come after."""
        self.checked.windows += 1
        self._counted(Code.WINDOW_USED, window, window.counted, window.used)
        key = (window.scope, window.rule.number, window.start_micros)
        self._windows[key] = window
        self._windows_of.setdefault((window.scope_kind, window.scope_ref), []).append(key)
        self._window_holds[key] = self._window_raised[key] = 0

    def hold(self, hold: HoldFacts, now: datetime) -> None:
        """Check an open hold; every window must be known by now."""
        self.checked.holds += 1
        subject = format_id("req", hold.call_id)
        earmarked = sum(hold.earmarks)
        self._earmarked += earmarked
        self._unsecured += hold.unsecured
        self._money(Code.HOLD_PARTS, subject, earmarked + hold.unsecured, hold.amount)
        for raised in hold.raised:
            key = (raised.scope, raised.rule, raised.start)
            if key in self._window_raised:
                self._window_raised[key] += raised.amount
        amounts = Amounts(hold.amount, hold.tokens)
        for scope in hold.scopes:
            for key in self._windows_of.get(scope, ()):
                window = self._windows[key]
                inside = window.start <= hold.admitted_at < window.end
                if inside and window.rule.counts(hold.model):
                    self._window_holds[key] += amounts.of(window.rule.measure)
        if hold.closed_too:
            self._note(Code.HOLD_CLOSED, subject, "open or closed", "both")
        if hold.latest_end + HOLD_OVERDUE_AFTER < now:
            wanted = f"lapsed by {(hold.latest_end + HOLD_OVERDUE_AFTER).isoformat()}"
            self._note(Code.HOLD_OVERDUE, subject, wanted, f"open at {now.isoformat()}")

    def range(self, covered: RangeFacts) -> None:
        """Check a posting of calls against the calls between its sequences."""
        if covered.posting_id is None:
            subject = f"sequence {covered.call_first}"
            self._note(Code.RANGE, subject, "a posting", f"{covered.calls} calls without one")
            return
        subject = f"posting {covered.posting_id}"
        if covered.range_before_ends >= covered.first_sequence:
            wanted = f"sequences after {covered.range_before_ends}"
            self._note(Code.RANGE, subject, wanted, str(covered.first_sequence))
        elif (covered.call_first, covered.call_last) != (
            covered.first_sequence,
            covered.last_sequence,
        ):
            wanted = f"calls {covered.first_sequence} to {covered.last_sequence}"
            self._note(Code.RANGE, subject, wanted, f"{covered.call_first} to {covered.call_last}")
        for name, counted, posted in (
            ("customer_credit", covered.charge - covered.owed, covered.customer_credit),
            ("receivable", covered.owed, covered.receivable),
            ("absorbed", covered.call_absorbed, covered.absorbed),
            ("revenue", -covered.charge - covered.call_absorbed, covered.revenue),
        ):
            if counted != posted:
                wanted = f"{name} {_amount(counted)}"
                self._note(Code.RANGE_SUM, subject, wanted, _amount(posted))

    def rollup(self, rollup: RollupFacts) -> None:
        """Check a row of the hourly rollup."""
        nothing = [0] * len(ROLLUP_MEASURES)
        counted, stored = rollup.counted or nothing, rollup.stored or nothing
        subject = f"{rollup.hour.isoformat()} {rollup.model}"
        for name, wanted, has in zip(ROLLUP_MEASURES, counted, stored, strict=True):
            if wanted != has:
                show = _amount if name in {"charge", "absorbed", "cost"} else str
                self._note(Code.ROLLUP, subject, f"{name} {show(wanted)}", show(has))

    # The organisation, at last.

    def close(self, org: OrganizationFacts, calls: CallSums, journal: JournalSums) -> None:
        """Check the totals; every grant, window and hold must have been told before."""
        for key, window in self._windows.items():
            self._counted(Code.WINDOW_HELD, window, self._window_holds[key], window.held)
            self._counted(Code.WINDOW_HELD, window, self._window_raised[key], window.held)
        self.checked.dropped_calls += calls.dropped
        self._totals(org, calls, journal)
        self._journal(org, journal)
        subject = format_id("org", org.id)
        numbers = (calls.numbered, calls.numbers, calls.number_max)
        if numbers != (org.sequence,) * 3:
            wanted = f"{org.sequence} rows numbered 1 to {org.sequence}"
            has = f"{calls.numbered} rows, {calls.numbers} numbers, up to {calls.number_max}"
            self._note(Code.SEQUENCE, subject, wanted, has)

    def _totals(self, org: OrganizationFacts, calls: CallSums, journal: JournalSums) -> None:
        subject = format_id("org", org.id)
        grants = self._grants
        unreserved = grants["remaining"] - grants["reserved"] - grants["frozen"]
        owed_otherwise = journal.of(Account.RECEIVABLE, *_DEBT_KINDS)
        for code, counted, stored in (
            (Code.GRANTED, grants["amount"], org.granted),
            (Code.SPENT, calls.charge, org.spent),
            (Code.RESERVED, self._earmarked, org.reserved),
            (Code.UNSECURED_HELD, self._unsecured, org.unsecured_held),
            (Code.UNRESERVED, unreserved, org.unreserved),
            (Code.FROZEN, grants["frozen"], org.frozen),
            (Code.EXPIRED, grants["expired"], org.expired),
            (Code.REFUNDED, grants["refunded"] + owed_otherwise, org.refunded),
            (Code.OWED, calls.owed + owed_otherwise - grants["repaid"], org.owed),
            (Code.ABSORBED, calls.absorbed, org.absorbed),
        ):
            self._money(code, subject, counted, stored)
        used = org.spent + org.reserved + org.unreserved + org.frozen + org.expired + org.refunded
        self._money(Code.TOTALS_DISAGREE, subject, used, org.granted + org.owed)
        for name in _TOTALS:
            if (total := getattr(org, name)) < 0:
                self._note(Code.TOTAL_NEGATIVE, subject, f"{name} above zero", _amount(total))

    def _journal(self, org: OrganizationFacts, journal: JournalSums) -> None:
        subject = format_id("org", org.id)
        funded = journal.of(Account.CLEARING) + journal.of(Account.PROMOTION_EXPENSE)
        for code, counted, posted in (
            (Code.CUSTOMER_CREDIT, -self._grants["remaining"], journal.of(Account.CUSTOMER_CREDIT)),
            (Code.RECEIVABLE, org.owed, journal.of(Account.RECEIVABLE)),
            (Code.REVENUE, -org.spent - org.absorbed, journal.of(Account.REVENUE)),
            (Code.ABSORBED_ACCOUNT, org.absorbed, journal.of(Account.ABSORBED)),
            (Code.BREAKAGE, -org.expired, journal.of(Account.BREAKAGE)),
            (Code.REFUNDS, -org.refunded, journal.of(Account.REFUNDS)),
            (Code.FUNDING, org.granted, funded),
        ):
            self._money(code, subject, counted, posted)

    # Notes.

    def _counted(self, code: Code, window: WindowFacts, expected: int, found: int) -> None:
        if window.rule.measure is Measure.MONEY:
            self._money(code, _window_name(window), expected, found)
        elif expected != found:
            self._note(code, _window_name(window), str(expected), str(found))

    def _money(self, code: Code, subject: str, expected: int, found: int) -> None:
        if expected != found:
            self._note(code, subject, _amount(expected), _amount(found))

    def _note(self, code: Code, subject: str, expected: str, found: str) -> None:
        known = self._findings.get(code)
        if known is not None:
            self._findings[code] = structs.replace(known, times=known.times + 1)
            return
        self._findings[code] = Finding(
            code=code,
            organization_id=self.organization_id,
            subject=subject,
            expected=expected,
            found=found,
            message=f"{subject}: {code.sentence} (expected {expected}, found {found}).",
            warning=code in WARNINGS,
        )


_ACCOUNTS: Final = frozenset(account.value for account in Account)
_KINDS: Final = frozenset(kind.value for kind in PostingKind)
_TOTALS: Final = OrganizationFacts.__struct_fields__[2:]
_DEBT_KINDS: Final = (PostingKind.DISPUTE_LOST, PostingKind.CORRECTION)
"""What makes debt besides calls; repayments take it away."""

_amount = format_amount


def _priced(call: CallFacts, tables: PriceTables) -> bool:
    """Tell whether one table of the price version explains every line.

    What an answer leaves open is charged at the dearest price of the version and marked estimated
    (ENGINE.md, "Ceilings"); such a line may have any of its prices.
    """
    if call.estimated:
        known = {price for table in tables for price in table.values()}
        return known.issuperset(call.prices)
    lines = list(zip(call.units, call.prices, strict=True))
    return any(all(table.get(unit) == price for unit, price in lines) for table in tables)


def _table(units: list[str], prices: Mapping[str, int]) -> str:
    return ", ".join(
        f"{unit} {_amount(prices[unit]) if unit in prices else 'unpriced'}" for unit in units
    )


def _window_name(window: WindowFacts) -> str:
    rule = window.rule
    what = "" if rule.measure is Measure.MONEY else f" {rule.measure}"
    models = f" for {rule.models}" if rule.models else ""
    if rule.origin is Origin.TIER:
        models += " of the usage tier"
    whose = window.scope_kind
    if window.scope_kind not in ID_KINDS:
        whose = f"{window.scope_kind} {window.scope_ref}"
    return f"{whose} {rule.period}{what}{models} from {window.start.isoformat()}"


_WindowKey = tuple[int, int, int]
"""Scope, rule and start."""
