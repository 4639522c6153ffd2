"""Money in and out of grants: purchases, expiry, repayment, refunds, corrections, the floor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.commands import Admitted, Closed, Done, Granted, Refused
from farebox.ledger.funding import OPEN_GRANTS_MAX
from farebox.ledger.grants import PAID, Source
from farebox.ledger.holds import CallState
from farebox.ledger.journal import Account, PostingKind
from tests.support.ledger_scenes import DAY, HOUR, MICRO, NOON, Scene


def utc(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- credit ------------------------------------------------------------------------------------


def test_each_purchase_is_a_lot_of_its_own() -> None:
    """CRD-01, CRD-02: two top-ups on different days end a year after each, to the microsecond."""
    scene = Scene()
    first = scene.one(scene.grant("one", 5, "purchased", default_expiry=True), Granted)
    scene.later(DAY + MICRO)
    second = scene.one(scene.grant("two", 7, "purchased", default_expiry=True), Granted)
    assert first.expires_at == utc("2028-03-10T12:00")
    assert second.expires_at == utc("2028-03-11T12:00") + MICRO
    assert [(g.amount, g.remaining, g.source) for g in scene.grants()] == [
        (5, 5, Source.PURCHASED),
        (7, 7, Source.PURCHASED),
    ]
    assert (scene.org.granted, scene.available) == (12, 12)


@pytest.mark.parametrize(
    ("source", "bought", "ends"),
    [
        ("purchased", "2028-02-29T15:00", "2029-03-01T15:00"),
        ("business", "2028-02-29T15:00", "2029-03-01T15:00"),
        ("purchased", "2027-12-31T23:59:59.999999", "2028-12-31T23:59:59.999999"),
        ("free", "2027-08-31T10:00", "2028-02-29T10:00"),
        ("promo", "2027-03-10T12:00", "2027-09-10T12:00"),
        ("grant", "2027-03-10T12:00", "2027-09-10T12:00"),
        ("adjustment", "2027-03-10T12:00", "2027-09-10T12:00"),
    ],
)
def test_each_source_has_its_own_validity(source: str, bought: str, ends: str) -> None:
    """CRD-02, CRD-04, CRD-05: a year for what is paid, months of their own for the rest."""
    scene = Scene(now=utc(bought))
    granted = scene.one(scene.grant("lot", 5, source, default_expiry=True), Granted)
    assert granted.expires_at == utc(ends) == scene.lot("lot").expires_at


def test_validity_counts_from_the_beginning() -> None:
    """CRD-02: credit booked afterwards ends a year after its purchase, not after its booking."""
    scene = Scene()
    lot = scene.grant("lot", 5, "purchased", default_expiry=True, starts=NOON - 30 * DAY)
    assert scene.one(lot, Granted).expires_at == utc("2028-02-08T12:00")


def test_a_contract_takes_its_end_from_its_order_form() -> None:
    """CRD-05: never the self-serve default; the end and the reference are the form's."""
    scene = Scene()
    without = scene.grant("lot", 5, "contract", default_expiry=True, reference="OF-1")
    assert scene.one(without, Refused).code == "expiry_required"
    ends = utc("2029-06-30T00:00")
    granted = scene.one(structs.replace(without, expires_at=ends), Granted)
    assert (granted.expires_at, scene.lot("lot").reference) == (ends, "OF-1")


def test_credit_may_be_given_without_an_end() -> None:
    """CRD-04: an operator may say that a lot never ends."""
    scene = Scene()
    assert scene.give("lot", 5).expires_at is None
    scene.later(timedelta(days=40_000))
    scene.hold("call", 5)


@pytest.mark.parametrize(
    ("starts", "ends"), [(None, NOON), (None, NOON - DAY), (NOON - DAY, NOON), (None, NOON - MICRO)]
)
def test_credit_that_has_ended_already_is_refused(starts: datetime | None, ends: datetime) -> None:
    """CRD-10: a lot that could never be used is not booked."""
    scene = Scene()
    refused = scene.one(scene.grant("lot", 5, starts=starts, ends=ends), Refused)
    assert refused.code == "already_expired"
    assert scene.grants() == []


@pytest.mark.parametrize("source", list(Source))
def test_every_lot_carries_its_source(source: Source) -> None:
    """CRD-03: and the journal says whether it was paid for or given away."""
    scene = Scene()
    scene.give("lot", 5, source.value)
    assert scene.lot("lot").source is source
    funded_by = Account.CLEARING if source in PAID else Account.PROMOTION_EXPENSE
    assert scene.posted(PostingKind.GRANT) == [{funded_by: 5, Account.CUSTOMER_CREDIT: -5}]


def test_a_grant_is_made_once() -> None:
    """DED-17: a grant sent again answers as before, even in the batch that made it."""
    scene = Scene()
    lot = scene.grant("lot", 5, "purchased", default_expiry=True)
    first, second = scene.run(lot, lot)
    assert isinstance(first, Granted)
    assert second == structs.replace(first, exists=True)
    scene.later(HOUR)
    assert scene.one(lot, Granted) == structs.replace(first, exists=True)
    assert scene.org.granted == 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": Source.FREE}, "source"),
        ({"amount": Nanos(6)}, "amount"),
        ({"effective_at": NOON - DAY}, "effective_at"),
        ({"expires_at": NOON + DAY}, "expires_at"),
        ({"default_expiry": False}, "expires_at"),
        ({"reference": "another"}, "reference"),
    ],
)
def test_a_grant_with_other_fields_is_refused(changes: dict[str, object], field: str) -> None:
    """DED-17: the same id with another content names the field that differs."""
    scene = Scene()
    lot = scene.grant("lot", 5, "purchased", default_expiry=True)
    scene.run(lot)
    refused = scene.one(structs.replace(lot, **changes), Refused)
    assert refused.code == f"exists_with_different_{field}"
    assert scene.org.granted == 5


def test_the_same_end_in_another_zone_is_the_same_grant() -> None:
    """DED-17: instants are compared, not how they are written."""
    scene = Scene()
    lot = scene.grant("lot", 5, ends=NOON + DAY)
    scene.run(lot)
    abroad = (NOON + DAY).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert scene.one(structs.replace(lot, expires_at=abroad), Granted).exists


def test_there_is_a_bound_on_open_grants() -> None:
    """CRD-01: every batch reads all lots with money left, so their number is bounded."""
    scene = Scene()
    scene.run(*(scene.grant(f"lot {i}", 1) for i in range(OPEN_GRANTS_MAX)))
    refused = scene.one(scene.grant("one more", 1), Refused)
    assert refused.code == "too_many_grants"
    assert str(OPEN_GRANTS_MAX) in refused.message


# --- expiry ------------------------------------------------------------------------------------


def test_an_ended_lot_is_breakage_dated_at_its_end() -> None:
    """CRD-10, CRD-11, CRD-12: posted once however often anybody looks, apart from what was used."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.hold("call", 4)
    scene.charge("call", 4)
    scene.later(5 * DAY)
    assert scene.expire().amount == 6
    assert scene.expire().amount == 0
    assert (scene.org.expired, scene.org.spent, scene.org.unreserved) == (6, 4, 0)
    assert scene.posted(PostingKind.BREAKAGE) == [
        {Account.CUSTOMER_CREDIT: 6, Account.BREAKAGE: -6}
    ]
    assert [p.at for p in scene.ledger.postings if p.kind is PostingKind.BREAKAGE] == [NOON + HOUR]


def test_expiring_says_what_expired_and_nothing_else() -> None:
    """CRD-11: other postings of the same batch are not counted as breakage."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    _, done = scene.run(scene.grant("new", 7), scene.expire_command())
    assert isinstance(done, Done)
    assert done.amount == 10


def test_any_command_posts_what_time_has_done() -> None:
    """CRD-11: no job has to run first; a refused call posts the breakage it met."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.refuse("call", 1)
    assert scene.lot("ending").expired == 10


def test_a_running_call_keeps_what_it_earmarked() -> None:
    """CRD-10: the end takes the unheld part; what the call leaves over is breakage later."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.hold("call", 6)
    scene.later(HOUR)
    assert scene.expire().amount == 4
    assert scene.charge("call", 5).charge == 5
    assert (scene.lot("ending").expired, scene.org.expired) == (5, 5)
    postings = [p for p in scene.ledger.postings if p.kind is PostingKind.BREAKAGE]
    assert [(p.amounts[0], p.call_id) for p in postings] == [(4, None), (1, scene.named("call"))]


def test_expiry_never_makes_debt() -> None:
    """CRD-10: the end of a lot takes credit away; it never makes anybody owe."""
    scene = Scene(floor=5)
    scene.hold("call", 5)
    scene.give("ending", 3, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.expire()
    assert (scene.org.owed, scene.available) == (0, -5)


# --- repayment ---------------------------------------------------------------------------------


def test_the_next_purchase_pays_what_is_owed_first() -> None:
    """NEG-04: usable balance after a top-up is the top-up less what was owed."""
    scene = Scene()
    scene.owe(3)
    granted = scene.give("paid", 10, "purchased")
    assert (granted.repaid, granted.available, scene.org.owed) == (3, 7, 0)
    assert (scene.lot("paid").remaining, scene.lot("paid").repaid) == (7, 3)
    assert scene.posted(PostingKind.REPAYMENT) == [
        {Account.CUSTOMER_CREDIT: 3, Account.RECEIVABLE: -3}
    ]


@pytest.mark.parametrize("source", list(Source))
def test_free_credit_never_vanishes_into_debt(source: Source) -> None:
    """NEG-04: only purchased, contract and adjustment credit repays."""
    scene = Scene()
    scene.owe(3)
    repays = source not in {Source.FREE, Source.PROMO, Source.GRANT}
    assert scene.give("lot", 10, source.value).repaid == (3 if repays else 0)
    assert scene.available == 7


def test_a_purchase_smaller_than_the_debt_is_used_up() -> None:
    """NEG-04: it repays what it can, and the rest is owed still."""
    scene = Scene()
    scene.owe(5)
    assert scene.give("paid", 3, "purchased").repaid == 3
    assert (scene.org.owed, scene.available) == (2, -2)


def test_a_purchase_repays_once() -> None:
    """NEG-04: debt that arises later waits for the next purchase, though credit is there."""
    scene = Scene()
    scene.give("lost", 4, "purchased")
    scene.hold("call", 4)
    scene.charge("call", 4)
    scene.give("paid", 10, "purchased")
    scene.dispute("lost", "lost")
    scene.later(HOUR)
    scene.expire()
    assert (scene.org.owed, scene.left("paid"), scene.available) == (4, {"paid": 10}, 6)
    assert scene.give("next", 5, "purchased").repaid == 4


def test_a_purchase_that_begins_later_repays_when_it_begins() -> None:
    """NEG-04: its first draw comes at its beginning, and only then."""
    scene = Scene()
    scene.owe(3)
    scene.give("paid", 10, "purchased", starts=NOON + HOUR)
    scene.later(HOUR - MICRO)
    scene.expire()
    assert scene.org.owed == 3
    scene.later(MICRO)
    scene.expire()
    assert (scene.org.owed, scene.lot("paid").repaid) == (0, 3)
    scene.run(scene.correct("more", 20))
    scene.later(HOUR)
    scene.expire()
    assert scene.lot("paid").repaid == 3


@pytest.mark.parametrize("looks", [(), (HOUR,), (2 * HOUR,), (HOUR, 2 * HOUR, 3 * HOUR)])
def test_what_time_does_does_not_depend_on_who_looks(looks: tuple[timedelta, ...]) -> None:
    """NEG-04, CRD-10: repayment and breakage are the same whether batches come in between."""
    scene = Scene()
    scene.owe(7)
    scene.give("second", 5, "purchased", starts=NOON + 2 * HOUR, ends=NOON + 3 * HOUR)
    scene.give("first", 5, "purchased", starts=NOON + HOUR)
    for look in looks:
        scene.now = NOON + look
        scene.expire()
    scene.now = NOON + 4 * HOUR
    scene.expire()
    assert (scene.org.owed, scene.org.expired) == (0, 3)
    assert (scene.lot("first").repaid, scene.lot("second").repaid) == (5, 2)


# --- refunds -----------------------------------------------------------------------------------


def test_a_refund_takes_only_what_nobody_holds() -> None:
    """CRD-07: unspent and unheld credit of that lot, once per command."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 4)
    refused = scene.one(scene.refund("back", "paid", 7), Refused)
    assert (refused.code, refused.available) == ("not_refundable", 6)
    assert "Only 0.000000006" in refused.message
    done = scene.one(scene.refund("back", "paid", 6), Done)
    assert (done.amount, done.available) == (6, 0)
    assert scene.one(scene.refund("back", "paid", 6), Done).exists
    assert (scene.lot("paid").refunded, scene.org.refunded) == (6, 6)
    assert scene.posted(PostingKind.REFUND) == [{Account.CUSTOMER_CREDIT: 6, Account.REFUNDS: -6}]
    assert scene.charge("call", 4).charge == 4


@pytest.mark.parametrize("changes", [{"amount": Nanos(1)}, {"note": "another reason"}])
def test_a_refund_or_correction_with_other_fields_is_refused(changes: dict[str, object]) -> None:
    """DED-17: the same id with another content has no effect and says so."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    refund, correct = scene.refund("back", "paid", 2), scene.correct("fix", 2)
    scene.run(refund, correct)
    for command in (refund, correct):
        refused = scene.one(structs.replace(command, **changes), Refused)
        assert refused.code == "exists_with_different_fields"
    crossed = structs.replace(correct, command_id=refund.command_id)
    assert scene.one(crossed, Refused).code == "exists_with_different_fields"
    assert (scene.org.refunded, scene.available) == (4, 6)


def test_a_refund_of_an_unknown_or_ended_lot_is_refused() -> None:
    """CRD-07: nothing of an ended lot is left to give back."""
    scene = Scene()
    assert scene.one(scene.refund("back", "ghost", 1), Refused).code == "grant_not_found"
    scene.give("ending", 10, "purchased", ends=NOON + HOUR)
    scene.later(HOUR)
    assert scene.one(scene.refund("back", "ending", 1), Refused).code == "not_refundable"


def test_a_refund_of_another_organizations_lot_is_refused() -> None:
    """CRD-18, CRD-19: nobody reaches another organisation's lot."""
    rich = Scene()
    rich.give("paid", 10, "purchased")
    poor = Scene(ledger=rich.ledger)
    theirs = structs.replace(poor.refund("back", "paid", 1), grant_id=rich.named("paid"))
    assert poor.one(theirs, Refused).code == "grant_not_found"
    assert rich.lot("paid").remaining == 10


# --- corrections -------------------------------------------------------------------------------


def test_a_correction_takes_credit_first_and_owes_the_rest() -> None:
    """NEG-04: live unheld credit in burn-down order, then debt; once per command."""
    scene = Scene()
    scene.give("paid", 6, "purchased")
    scene.give("gift", 4)
    scene.give("coming", 5, starts=NOON + DAY)
    scene.hold("call", 3)
    done = scene.one(scene.correct("fix", 9), Done)
    assert (done.amount, done.available) == (9, -2)
    assert scene.left("gift", "paid", "coming") == {"gift": 3, "paid": 0, "coming": 5}
    assert (scene.org.owed, scene.org.refunded) == (2, 9)
    assert scene.one(scene.correct("fix", 9), Done).exists
    assert scene.posted(PostingKind.CORRECTION) == [
        {Account.CUSTOMER_CREDIT: 7, Account.RECEIVABLE: 2, Account.REFUNDS: -9}
    ]
    assert scene.charge("call", 3).charge == 3


def test_a_correction_within_the_balance_makes_no_debt() -> None:
    """NEG-04: where credit covers it, nothing is owed."""
    scene = Scene()
    scene.give("paid", 6, "purchased")
    scene.run(scene.correct("fix", 6))
    assert (scene.org.owed, scene.available) == (0, 0)


# --- the floor ---------------------------------------------------------------------------------


def test_exposure_is_bounded_by_posted_credit_and_floor() -> None:
    """NEG-08: whatever is admitted, spent never passes what was there plus the floor."""
    scene = Scene()
    scene.set_floor(5)
    scene.give("paid", 10, "purchased")
    results = scene.run(*(scene.admit(f"call {i}", 2) for i in range(20)))
    admitted = [i for i, result in enumerate(results) if isinstance(result, Admitted)]
    for i in admitted:
        closed = scene.one(scene.settle(f"call {i}", 9), Closed)
        assert closed.state is CallState.SETTLED
    assert (scene.org.spent, scene.org.owed) == (15, 5)
    assert scene.org.absorbed == 9 * len(admitted) - 15
