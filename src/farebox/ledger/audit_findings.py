"""What an audit can find: every kind of difference has a code and a sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.ids import format_id


class Code(StrEnum):
    """Every kind of difference, and what it says."""

    TOTALS_DISAGREE = "totals_disagree", "granted + owed is not what the other totals add up to"
    TOTAL_NEGATIVE = "total_negative", "a total of the organisation is less than zero"
    GRANTED = "granted", "granted is not the sum of the grants' amounts"
    SPENT = "spent", "spent is not the sum of the calls' charges"
    RESERVED = "reserved", "reserved is not the sum of the open holds' earmarks"
    UNSECURED_HELD = "unsecured_held", "unsecured_held is not the sum over the open holds"
    UNRESERVED = "unreserved", "unreserved is not the sum over the grants"
    FROZEN = "frozen", "frozen is not the sum over the grants"
    EXPIRED = "expired", "expired is not the sum over the grants"
    REFUNDED = "refunded", "refunded is not what the journal took back"
    OWED = "owed", "owed is not what calls, disputes and corrections left unpaid"
    ABSORBED = "absorbed", "absorbed is not the sum over the calls"
    SEQUENCE = "sequence", "calls and grants do not carry each number once, without a gap"

    CUSTOMER_CREDIT = "customer_credit", "the account is not the credit that grants have left"
    RECEIVABLE = "receivable", "the account is not what the organisation owes"
    REVENUE = "revenue", "the account is not what calls were charged and the operator absorbed"
    ABSORBED_ACCOUNT = "absorbed_account", "the account is not what the operator absorbed"
    BREAKAGE = "breakage", "the account is not what expired"
    REFUNDS = "refunds", "the account is not what was taken back from grants, or owed instead"
    FUNDING = "funding", "clearing and promotion have not paid for what was granted"

    GRANT_UNKNOWN = "grant_unknown", "a grant that does not exist was drawn, earmarked or posted"
    GRANT_PARTS = "grant_parts", "the amount is not remaining + drawn + repaid + expired + refunded"
    GRANT_BOUNDS = "grant_bounds", "reserved and frozen do not fit into what remains"
    GRANT_STATE = "grant_state", "the money does not lie where the grant's state puts it"
    GRANT_RESERVED = "grant_reserved", "reserved is not the sum of the open holds' earmarks"
    GRANT_POSTED = "grant_posted", "the journal did not book the grant at its amount"
    GRANT_REPAID = "grant_repaid", "repaid is not what the journal repaid from it"
    GRANT_EXPIRED = "grant_expired", "expired is not the breakage that the journal has of it"
    GRANT_REFUNDED = "grant_refunded", "less was taken back than the journal says"

    HOLD_PARTS = "hold_parts", "the hold is not the sum of its earmarks and its unsecured part"
    HOLD_CLOSED = "hold_closed", "the hold is open although its call has ended"
    HOLD_OVERDUE = "hold_overdue", "the hold should have lapsed; is a worker running?"

    CALL_LINES = "call_lines", "the line items do not add up to charge + absorbed"
    CALL_LINE_AMOUNT = "call_line_amount", "a line item is not its quantity times its price"
    CALL_LINE_PRICE = "call_line_price", "a line item has a price that its price version has not"
    CALL_DRAWS = "call_draws", "draws and what is owed do not add up to the charge"
    CALL_RELEASED = "call_released", "a released call has moved money"
    CALL_BEYOND_HOLD = "call_beyond_hold", "the charge passes the hold and no overrun was told"
    CALL_LATE = "call_late", "a call that was not late carries a late change"

    POSTING_UNBALANCED = "posting_unbalanced", "the posting's entries do not sum to zero"
    POSTING_UNKNOWN = "posting_unknown", "the posting has a kind or an account that does not exist"
    POSTING_CALL = "posting_call", "the posting names a call that is not there"
    POSTING_LATE = "posting_late", "the posting is not the late change of its call"
    BREAKAGE_DATE = "breakage_date", "breakage is not dated at the grant's end"
    RANGE = "range", "postings of calls do not cover each call once"
    RANGE_SUM = "range_sum", "the posting is not the sum of the calls that it covers"

    ROLLUP = "rollup", "an hour is not the sum of its calls, or a day of its hours"
    WINDOW_USED = "window_used", "the limit's used is not what calls of its window used"
    WINDOW_HELD = "window_held", "the limit's held is not what open calls of its window hold"
    ORPHANS = "orphans", "rows belong to an organisation that does not exist"
    QUARANTINED = "quarantined", "a command was rejected by the database and waits for a ruling"

    def __new__(cls, value: str, sentence: str) -> Code:  # noqa: PYI034 - an enum has no subclass
        """Make a member that knows its sentence."""
        code = str.__new__(cls, value)
        code._value_ = value
        code.sentence = sentence
        return code

    sentence: str


WARNINGS: Final = frozenset({Code.HOLD_OVERDUE, Code.QUARANTINED})
"""Somebody has something to do, but the books are right."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference of one kind in one organisation."""

    code: Code
    organization_id: UUID
    subject: str
    """The id of the row."""
    expected: str
    """What the other rows make of it; amounts in the major unit."""
    found: str
    message: str
    warning: bool = False
    times: int = 1
    """How many differences of this kind there are."""


def orphaned(table: str, organization_id: UUID) -> Finding:
    """The finding that rows of a table belong to an organisation that does not exist."""
    return Finding(
        code=Code.ORPHANS,
        organization_id=organization_id,
        subject=table,
        expected="an organisation",
        found="none",
        message=f"{table}: {Code.ORPHANS.sentence} ({format_id('org', organization_id)}).",
    )
