"""Books in which everything agrees, as an audit is told of them; a test changes one fact."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import structs

from farebox.ledger.audit import Audit
from farebox.ledger.audit_facts import (
    CallFacts,
    CallSums,
    GrantFacts,
    HoldFacts,
    JournalSums,
    OrganizationFacts,
    PostingFacts,
    RaisedFacts,
    RangeFacts,
    RollupFacts,
    WindowFacts,
)
from farebox.ledger.limits import Rule, micros
from farebox.ledger.scopes import scope_number

NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)
MONTH = datetime(2026, 5, 1, tzinfo=UTC)
ORG, GRANT, CALL, PRICE = (UUID(int=number) for number in range(1, 5))
PRICES = ({"input": 2_500_000, "output": 5_000_000}, {"input": 5_000_000, "output": 9_000_000})

# One grant of 1000, of which one late call drew 60 (50 in time and 10 late), owing 5 more and 3 of
# it absorbed, an open call holds 200 and 7 on the floor, 100 expired, 90 were refunded and 30
# repaid a correction; a limit counts the month.
ORGANIZATION = OrganizationFacts(
    id=ORG,
    sequence=2,
    granted=1000,
    owed=5,
    spent=65,
    reserved=200,
    unreserved=520,
    frozen=0,
    expired=100,
    refunded=120,
    unsecured_held=7,
    absorbed=3,
)
SUMS = CallSums(charge=65, absorbed=3, owed=5, numbered=2, numbers=2, number_max=2)
GRANT_FACTS = GrantFacts(
    id=GRANT,
    source="purchased",
    state="open",
    amount=1000,
    remaining=720,
    reserved=200,
    frozen=0,
    repaid=30,
    expired=100,
    refunded=90,
    drawn=60,
    earmarked=200,
    posted_paid=1000,
    posted_free=0,
    posted_repaid=30,
    posted_expired=100,
    posted_refunded=40,
)
RULE = Rule(maximum=500)
WINDOW = WindowFacts(
    scope_kind="organization",
    scope_ref=ORG.hex,
    scope=scope_number("organization", ORG.hex),
    rule=RULE,
    start=MONTH,
    end=MONTH + timedelta(days=31),
    start_micros=micros(MONTH),
    used=65,
    held=207,
    counted=65,
)
RAISED = RaisedFacts(WINDOW.scope, RULE.number, micros(MONTH), 207)
HOLD = HoldFacts(
    call_id=UUID(int=9),
    amount=207,
    unsecured=7,
    earmarks=[150, 50],
    raised=(RAISED,),
    admitted_at=NOW - timedelta(hours=1),
    latest_end=NOW + timedelta(hours=1),
    closed_too=False,
    scopes=(("organization", ORG.hex), ("user", "ada")),
    model="gpt-5.4",
    tokens=40,
)
CALL_FACTS = CallFacts(
    id=CALL,
    state="late",
    held=70,
    charge=65,
    absorbed=3,
    owed=5,
    late_charge=10,
    late_absorbed=3,
    estimated=False,
    price_id=PRICE,
    units=["input", "output"],
    quantities=[7, 10],
    prices=[2_500_000, 5_000_000],
    amounts=[18, 50],
    draws=[50, 10],
)
RANGE = RangeFacts(
    posting_id=8,
    first_sequence=2,
    last_sequence=2,
    range_before_ends=0,
    customer_credit=50,
    receivable=5,
    absorbed=0,
    revenue=-55,
    calls=1,
    call_first=2,
    call_last=2,
    charge=55,
    owed=5,
    call_absorbed=0,
)
ROLLUP = RollupFacts(
    hour=NOW, model="gpt-5.4", stored=[1, 65, 3, 60, 7, 0, 0, 10, 0], counted=[1, 65, 3, 60, 7]
)
ROLLUP = structs.replace(ROLLUP, counted=list(ROLLUP.stored or ()))


def posting(kind: str, accounts: dict[str, int], **changes: Any) -> PostingFacts:
    """A posting of no grant and no call, but for the changes."""
    plain = PostingFacts(
        id=8,
        kind=kind,
        at=NOW,
        accounts=list(accounts),
        amounts=list(accounts.values()),
        grant_id=None,
        call_id=None,
        grant_expires_at=None,
        call_state=None,
        call_late_charge=0,
        call_late_absorbed=0,
    )
    return structs.replace(plain, **changes)


FUNDED = posting("grant", {"clearing": 1000, "customer_credit": -1000}, grant_id=GRANT)
LATE = posting(
    "late",
    {"customer_credit": 10, "absorbed": 3, "revenue": -13},
    call_id=CALL,
    call_state="late",
    call_late_charge=10,
    call_late_absorbed=3,
)
ENDED = posting(
    "breakage", {"customer_credit": 100, "breakage": -100}, grant_id=GRANT, grant_expires_at=NOW
)
RETURNED = structs.replace(ENDED, at=NOW + timedelta(minutes=3), call_id=CALL, call_state="settled")
JOURNAL = JournalSums(
    {
        "grant": {"clearing": 1000, "customer_credit": -1000},
        "calls": {"customer_credit": 50, "receivable": 5, "revenue": -55},
        "late": {"customer_credit": 10, "absorbed": 3, "revenue": -13},
        "breakage": {"customer_credit": 100, "breakage": -100},
        "refund": {"customer_credit": 40, "refunds": -40},
        "correction": {"customer_credit": 50, "receivable": 30, "refunds": -80},
        "repayment": {"customer_credit": 30, "receivable": -30},
    }
)

FACTS: dict[str, Any] = {
    "call": CALL_FACTS,
    "prices": PRICES,
    "overrun_told": False,
    "postings": (FUNDED, LATE, ENDED, RETURNED),
    "grants": (GRANT_FACTS,),
    "windows": (WINDOW,),
    "hold": HOLD,
    "range": RANGE,
    "rollup": ROLLUP,
    "organization": ORGANIZATION,
    "sums": SUMS,
    "journal": JOURNAL,
}


def audit(**changes: Any) -> Audit:
    """Tell an audit all the facts above, but for the changes."""
    facts = {**FACTS, **changes}
    told = Audit(ORG)
    told.call(facts["call"], facts["prices"], overrun_told=facts["overrun_told"])
    for each in facts["postings"]:
        told.posting(each)
    for grant in facts["grants"]:
        told.grant(grant)
    for window in facts["windows"]:
        told.window(window)
    told.hold(facts["hold"], NOW)
    told.range(facts["range"])
    told.rollup(facts["rollup"])
    told.close(facts["organization"], facts["sums"], facts["journal"])
    return told
