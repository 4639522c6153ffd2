"""The audit, told facts that agree but for one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount
from farebox.ledger.audit import HOLD_OVERDUE_AFTER, Audit
from farebox.ledger.audit_facts import (
    JournalSums,
    PostingFacts,
    QuarantinedFacts,
    RaisedFacts,
    WindowFacts,
)
from farebox.ledger.audit_findings import WARNINGS, Code, orphaned
from farebox.ledger.limits import Measure, Origin, Period, Rule
from farebox.ledger.scopes import scope_number
from tests.support.audited_books import (
    CALL,
    CALL_FACTS,
    ENDED,
    FACTS,
    FUNDED,
    GRANT_FACTS,
    HOLD,
    JOURNAL,
    LATE,
    MONTH,
    NOW,
    ORG,
    ORGANIZATION,
    PRICES,
    RAISED,
    RETURNED,
    RULE,
    WINDOW,
    audit,
)


def codes(told: Audit) -> set[str]:
    """The kinds of difference that were found."""
    return {finding.code.value for finding in told.findings}


def changed(name: str, **changes: Any) -> Callable[[], Audit]:
    """An audit of the facts, with some fields of one fact changed."""
    return lambda: audit(**{name: structs.replace(FACTS[name], **changes)})


def journal(**changes: dict[str, int]) -> JournalSums:
    """The journal, with the accounts of some kinds changed."""
    by_kind = {kind: dict(accounts) for kind, accounts in JOURNAL.by_kind.items()}
    for kind, accounts in changes.items():
        by_kind.setdefault(kind, {}).update(accounts)
    return JournalSums(by_kind)


def other_grant(**changes: Any) -> Callable[[], Audit]:
    """An audit that is told of a changed grant."""
    return lambda: audit(grants=(structs.replace(GRANT_FACTS, **changes),))


def one_posting(facts: PostingFacts, **changes: Any) -> Callable[[], Audit]:
    """An audit that is told of one posting, changed."""
    return lambda: audit(postings=(structs.replace(facts, **changes),))


CASES: list[tuple[Callable[[], Audit], set[str]]] = [
    # Totals of the organisation; each that is wrong alone breaks the identity too.
    (changed("organization", granted=1001), {"granted", "totals_disagree", "funding"}),
    (changed("organization", spent=66), {"spent", "totals_disagree", "revenue"}),
    (changed("organization", reserved=201), {"reserved", "totals_disagree"}),
    (changed("organization", unreserved=521), {"unreserved", "totals_disagree"}),
    (changed("organization", frozen=1), {"frozen", "totals_disagree"}),
    (changed("organization", expired=101), {"expired", "totals_disagree", "breakage"}),
    (changed("organization", refunded=121), {"refunded", "totals_disagree", "refunds"}),
    (changed("organization", owed=6), {"owed", "totals_disagree", "receivable"}),
    (changed("organization", unsecured_held=8), {"unsecured_held"}),
    (changed("organization", absorbed=4), {"absorbed", "absorbed_account", "revenue"}),
    (
        changed("organization", frozen=-1, unreserved=521),
        {"frozen", "unreserved", "total_negative"},
    ),
    (changed("organization", sequence=3), {"sequence"}),
    (changed("sums", numbers=1), {"sequence"}),
    # The journal's accounts.
    (
        lambda: audit(journal=journal(refund={"customer_credit": 41})),
        {"customer_credit"},
    ),
    (lambda: audit(journal=journal(calls={"receivable": 6})), {"receivable"}),
    (lambda: audit(journal=journal(calls={"revenue": -56})), {"revenue"}),
    (lambda: audit(journal=journal(late={"absorbed": 4})), {"absorbed_account"}),
    (lambda: audit(journal=journal(breakage={"breakage": -99})), {"breakage"}),
    (lambda: audit(journal=journal(refund={"refunds": -41})), {"refunds"}),
    (lambda: audit(journal=journal(grant={"clearing": 999})), {"funding"}),
    (lambda: audit(journal=journal(grant={"promotion_expense": 1})), {"funding"}),
    # A grant against calls, holds and journal.
    (other_grant(drawn=61), {"grant_parts"}),
    (other_grant(earmarked=199), {"grant_reserved"}),
    (other_grant(posted_paid=999), {"grant_posted"}),
    (other_grant(posted_free=1), {"grant_posted"}),
    (other_grant(source="free"), {"grant_posted"}),
    (other_grant(source="free", posted_paid=0, posted_free=1000), set()),
    (other_grant(posted_repaid=31), {"grant_repaid"}),
    (other_grant(posted_expired=99), {"grant_expired"}),
    (other_grant(posted_refunded=91), {"grant_refunded"}),
    (other_grant(state="lost"), {"grant_state"}),
    (other_grant(state="frozen"), {"grant_state"}),
    (
        other_grant(frozen=521),
        {"grant_bounds", "grant_state", "frozen", "unreserved"},
    ),
    (
        lambda: audit(
            grants=(structs.replace(GRANT_FACTS, state="frozen", frozen=520),),
            organization=structs.replace(ORGANIZATION, frozen=520, unreserved=0),
        ),
        set(),
    ),
    (
        lambda: audit(grants=(GRANT_FACTS, structs.replace(GRANT_FACTS, source=None))),
        {"grant_unknown"},
    ),
    # An open hold.
    (changed("hold", amount=208), {"hold_parts", "window_held"}),
    (changed("hold", raised=()), {"window_held"}),
    (
        changed("hold", raised=(structs.replace(RAISED, start=RAISED.start + 1),)),
        {"window_held"},
    ),
    (changed("hold", admitted_at=MONTH - timedelta(days=1)), {"window_held"}),
    (changed("hold", admitted_at=MONTH + timedelta(days=31)), {"window_held"}),
    (changed("hold", closed_too=True), {"hold_closed"}),
    (changed("hold", latest_end=NOW - HOLD_OVERDUE_AFTER), set()),
    (
        changed("hold", latest_end=NOW - HOLD_OVERDUE_AFTER - timedelta(seconds=1)),
        {"hold_overdue"},
    ),
    # A closed call.
    (changed("call", absorbed=2), {"call_lines"}),
    (changed("call", units=["input"]), {"call_lines"}),
    (changed("call", amounts=[17, 51]), {"call_line_amount"}),
    (changed("call", quantities=[-7, 10]), {"call_line_amount"}),
    (changed("call", prices=[-1, 5_000_000]), {"call_line_amount", "call_line_price"}),
    (lambda: audit(prices=({"input": 2_500_000, "output": 1},)), {"call_line_price"}),
    (lambda: audit(prices=({"input": 2_500_000},)), {"call_line_price"}),
    (
        # Each line at a price of the version, but of two tables.
        lambda: audit(prices=({"input": 2_500_000, "output": 9}, {"output": 5_000_000})),
        {"call_line_price"},
    ),
    (
        lambda: audit(
            call=structs.replace(CALL_FACTS, estimated=True),
            prices=({"input": 2_500_000, "audio_output": 5_000_000},),
        ),
        set(),
    ),
    (
        lambda: audit(
            call=structs.replace(CALL_FACTS, estimated=True), prices=({"input": 2_500_000},)
        ),
        {"call_line_price"},
    ),
    (lambda: audit(prices=None), set()),
    (changed("call", draws=[50, 11]), {"call_draws"}),
    (changed("call", draws=[61, -1]), {"call_draws"}),
    (changed("call", held=64), {"call_beyond_hold"}),
    (
        lambda: audit(call=structs.replace(CALL_FACTS, held=64), overrun_told=True),
        set(),
    ),
    (changed("call", state="settled"), {"call_late"}),
    (changed("call", state="released", late_charge=0, late_absorbed=0), {"call_released"}),
    (
        # A lapse has no lines: what it charged was reported, not rated.
        changed(
            "call",
            state="lapsed",
            late_charge=0,
            late_absorbed=0,
            units=[],
            quantities=[],
            prices=[],
            amounts=[],
        ),
        set(),
    ),
    # Postings.
    (one_posting(FUNDED, amounts=[1000, -999]), {"posting_unbalanced"}),
    (one_posting(FUNDED, kind="gift"), {"posting_unknown"}),
    (one_posting(FUNDED, accounts=["clearing", "cash"]), {"posting_unknown"}),
    (
        one_posting(FUNDED, accounts=["clearing", "clearing"], amounts=[5, -5]),
        {"posting_unknown"},
    ),
    (one_posting(LATE, call_state=None), {"posting_call"}),
    (one_posting(LATE, call_state="lapsed"), {"posting_late"}),
    (one_posting(LATE, call_late_charge=9), {"posting_late"}),
    (one_posting(LATE, call_late_absorbed=2), {"posting_late"}),
    (one_posting(ENDED, at=NOW + timedelta(microseconds=1)), {"breakage_date"}),
    (one_posting(ENDED, grant_expires_at=None), {"breakage_date"}),
    (one_posting(RETURNED, at=NOW - timedelta(microseconds=1)), {"breakage_date"}),
    # What a late answer gives back to an ended grant is breakage of kind late.
    (one_posting(RETURNED, kind="late", call_state="late"), set()),
    # Postings of calls.
    (changed("range", range_before_ends=2), {"range"}),
    (changed("range", call_first=1), {"range"}),
    (changed("range", call_last=0), {"range"}),
    (changed("range", posting_id=None), {"range"}),
    (changed("range", customer_credit=49), {"range_sum"}),
    (changed("range", receivable=6), {"range_sum"}),
    (changed("range", absorbed=1), {"range_sum"}),
    (changed("range", revenue=-54), {"range_sum"}),
    # Rollups and limits.
    (changed("rollup", stored=[1, 65, 3, 60, 7, 0, 0, 11, 0]), {"rollup"}),
    (changed("rollup", stored=[1, 64, 3, 60, 7, 0, 0, 10, 0]), {"rollup"}),
    (changed("rollup", stored=None), {"rollup"}),
    (changed("rollup", counted=None), {"rollup"}),
    (lambda: audit(windows=(structs.replace(WINDOW, used=64),)), {"window_used"}),
    (lambda: audit(windows=(structs.replace(WINDOW, held=206),)), {"window_held"}),
]


def test_facts_that_agree_are_clean() -> None:
    """Books in which every sum and every part agrees have no finding, and all was counted."""
    told = audit()
    assert told.findings == []
    checked = told.checked
    assert (checked.organizations, checked.grants, checked.holds, checked.calls) == (1, 1, 1, 1)
    assert (checked.line_items, checked.draws, checked.postings, checked.windows) == (2, 2, 4, 1)


@pytest.mark.parametrize(("broken", "expected"), CASES)
def test_one_difference_is_named(broken: Callable[[], Audit], expected: set[str]) -> None:
    """DED-16, CRD-11: each fact that does not agree is found, and nothing else with it."""
    assert codes(broken()) == expected


def adas(rule: Rule, *, used: int, held: int) -> WindowFacts:
    """A window of a limit on the user whose call is open."""
    return structs.replace(
        WINDOW,
        scope_kind="user",
        scope_ref="ada",
        scope=scope_number("user", "ada"),
        rule=rule,
        used=used,
        held=held,
        counted=used,
    )


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (Rule(maximum=500), 207),
        (Rule(measure=Measure.TOKENS, maximum=500), 40),
        (Rule(measure=Measure.CALLS, maximum=500), 1),
        (Rule(measure=Measure.PARALLEL, period=Period.TOTAL, maximum=500), 1),
        (Rule(models="gpt-5*", maximum=500), 207),
        (Rule(models="o3", maximum=500), 0),
    ],
)
def test_every_kind_of_limit_is_checked_in_its_own_measure(rule: Rule, held: int) -> None:
    """BUD-12..14, DED-16: money, tokens and calls of the scope's calls to the rule's models."""
    window = adas(rule, used=30, held=held)
    raised = RaisedFacts(window.scope, rule.number, window.start_micros, held)
    hold = structs.replace(HOLD, raised=(RAISED, raised) if held else (RAISED,))
    assert audit(windows=(WINDOW, window), hold=hold).findings == []
    for wrong, code in (
        (structs.replace(window, used=31), Code.WINDOW_USED),
        (structs.replace(window, held=held + 1), Code.WINDOW_HELD),
    ):
        (finding,) = audit(windows=(WINDOW, wrong), hold=hold).findings
        assert finding.code is code
        what = "" if rule.measure is Measure.MONEY else f" {rule.measure}"
        models = f" for {rule.models}" if rule.models else ""
        begins = MONTH.isoformat()
        assert finding.subject == f"user ada {rule.period}{what}{models} from {begins}"
        number = 30 if code is Code.WINDOW_USED else held
        shown = format_amount(Nanos(number)) if rule.measure is Measure.MONEY else str(number)
        assert finding.expected == shown


def test_a_tiers_window_is_told_from_ones_own() -> None:
    """LIM-06, DED-16: two limits of the same kind may stand on one scope; the name says which."""
    rule = structs.replace(RULE, origin=Origin.TIER)
    window = structs.replace(WINDOW, rule=rule, used=66)
    raised = structs.replace(RAISED, rule=rule.number)
    hold = structs.replace(HOLD, raised=(RAISED, raised))
    (finding,) = audit(windows=(WINDOW, window), hold=hold).findings
    assert finding.subject == f"organization month of the usage tier from {MONTH.isoformat()}"


def test_a_limit_that_has_gone_is_no_difference() -> None:
    """BUD-14: an open call may still name the counter of a default that was removed."""
    gone = RaisedFacts(1, 2, 3, 207)
    assert audit(hold=structs.replace(HOLD, raised=(RAISED, gone))).findings == []


def test_a_finding_says_what_and_where() -> None:
    """A finding names the row, what the others make of it, and what it says itself."""
    (finding,) = changed("call", absorbed=2)().findings
    assert finding.code is Code.CALL_LINES
    assert finding.organization_id == ORG
    assert finding.subject == format_id("req", CALL)
    assert (finding.expected, finding.found) == ("0.000000068", "0.000000067")
    assert finding.message == (
        f"{format_id('req', CALL)}: the line items do not add up to charge + absorbed"
        " (expected 0.000000068, found 0.000000067)."
    )
    assert not finding.warning


def test_the_first_of_a_kind_stands_for_all() -> None:
    """A thousand wrong rows are one finding that counts them and names the first."""
    told = Audit(ORG)
    for number in range(1, 1001):
        told.call(structs.replace(CALL_FACTS, id=UUID(int=number), draws=[1]), PRICES)
    (finding,) = told.findings
    assert finding.subject == format_id("req", UUID(int=1))
    assert finding.times == 1000


def test_what_waits_for_a_person_is_a_warning() -> None:
    """A command in quarantine and an overdue hold are told, and do not make the books wrong."""
    told = Audit(ORG)
    told.quarantined(QuarantinedFacts(3, "settle", "22003: out of range"))
    told.hold(structs.replace(HOLD, raised=(), latest_end=MONTH), NOW)
    assert codes(told) == {code.value for code in WARNINGS}
    assert all(finding.warning for finding in told.findings)
    assert "settle: 22003: out of range" in told.findings[0].message


def test_rows_without_an_organisation_are_named() -> None:
    """Rows that no organisation's check would ever read are a finding of their own."""
    finding = orphaned("call", ORG)
    assert (finding.code, finding.subject, finding.warning) == (Code.ORPHANS, "call", False)
    assert format_id("org", ORG) in finding.message


def test_every_kind_of_difference_is_found_somewhere_above() -> None:
    """No rule of the audit is left without a case that breaks it."""
    provoked = set().union(*(expected for _, expected in CASES))
    assert {code.value for code in Code} - provoked == {"orphans", "quarantined"}
