"""Disputed payments: frozen while open, given back when won, taken or owed when lost."""

from __future__ import annotations

from farebox.ledger.commands import Refused
from farebox.ledger.grants import GrantState
from farebox.ledger.journal import Account, PostingKind
from tests.support.ledger_scenes import HOUR, NOON, Scene


def test_a_dispute_freezes_what_nobody_holds() -> None:
    """NEG-01: frozen credit is not available; what a running call holds stays its own."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 4)
    assert not scene.dispute("paid", "opened").exists
    assert (scene.lot("paid").frozen, scene.available) == (6, 0)
    assert scene.refuse("new", 1).code == "credit_balance_exhausted"
    scene.charge("call", 3)
    assert (scene.lot("paid").frozen, scene.org.frozen, scene.org.spent) == (7, 7, 3)
    assert scene.dispute("paid", "opened").exists


def test_a_won_dispute_gives_the_frozen_part_back() -> None:
    """NEG-12: what was frozen is spendable at once."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.dispute("paid", "opened")
    assert scene.dispute("paid", "won").available == 10
    assert scene.dispute("paid", "won").exists
    assert (scene.lot("paid").state, scene.lot("paid").frozen) == (GrantState.OPEN, 0)


def test_a_lost_dispute_takes_unspent_credit_and_makes_the_rest_debt() -> None:
    """NEG-04: what was spent of a payment that is gone is owed."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 4)
    scene.charge("call", 4)
    scene.dispute("paid", "opened")
    assert scene.dispute("paid", "lost").available == -4
    assert (scene.org.owed, scene.org.refunded, scene.lot("paid").refunded) == (4, 10, 6)
    assert scene.posted(PostingKind.DISPUTE_LOST) == [
        {Account.CUSTOMER_CREDIT: 6, Account.RECEIVABLE: 4, Account.REFUNDS: -10}
    ]
    for step in ("lost", "won", "opened"):
        assert scene.dispute("paid", step).exists
    assert scene.org.owed == 4


def test_a_lost_dispute_may_come_first() -> None:
    """NEG-04: notices come in any order; lost without opened is the same."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    assert scene.dispute("paid", "won").exists
    scene.dispute("paid", "lost")
    assert (scene.org.refunded, scene.available, scene.lot("paid").remaining) == (10, 0, 0)


def test_what_a_lost_payment_repaid_is_owed_again() -> None:
    """NEG-04: a debt that was paid with money that is gone was not paid."""
    scene = Scene()
    scene.owe(4)
    scene.give("paid", 10, "purchased")
    scene.dispute("paid", "lost")
    assert (scene.org.owed, scene.available) == (4, -4)


def test_an_open_hold_on_a_lost_payment_finishes_and_is_owed() -> None:
    """NEG-02: what the call draws is owed, what it leaves is taken back; it is never cut off."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 6)
    scene.dispute("paid", "lost")
    assert (scene.lot("paid").remaining, scene.org.owed) == (6, 0)
    closed = scene.charge("call", 4)
    assert (closed.charge, closed.owed, closed.available) == (4, 0, -4)
    assert (scene.org.owed, scene.org.refunded, scene.lot("paid").refunded) == (4, 10, 6)


def test_a_late_answer_on_a_lost_payment_owes_less() -> None:
    """NEG-03: what the call did not use after all is taken back from the grant, not owed."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 6)
    scene.run(scene.report("stream", 5))
    scene.vanish("stream")
    scene.dispute("paid", "lost")
    assert scene.org.owed == 5
    scene.charge("stream", 2)
    assert (scene.org.owed, scene.org.spent, scene.org.refunded) == (2, 2, 10)
    assert (scene.lot("paid").refunded, scene.lot("paid").remaining) == (8, 0)


def test_a_late_answer_on_a_lost_payment_whose_debt_was_repaid_gives_credit() -> None:
    """NEG-03, NEG-04: the grant that repaid too much gets it back."""
    scene = Scene()
    scene.give("lost", 10, "purchased")
    scene.hold("stream", 6)
    scene.run(scene.report("stream", 5))
    scene.vanish("stream")
    scene.dispute("lost", "lost")
    scene.give("paid", 5, "purchased")
    assert (scene.org.owed, scene.left("paid")) == (0, {"paid": 0})
    scene.charge("stream", 2)
    assert (scene.org.owed, scene.left("paid")) == (0, {"paid": 3})


def test_a_late_answer_on_a_frozen_payment_stays_frozen() -> None:
    """NEG-03: what returns to a disputed lot waits for the ruling."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 6)
    scene.run(scene.report("stream", 5))
    scene.vanish("stream")
    scene.dispute("paid", "opened")
    scene.charge("stream", 2)
    assert (scene.lot("paid").frozen, scene.org.spent, scene.available) == (8, 2, 0)


def test_a_dispute_that_outlasts_its_lot() -> None:
    """CRD-10, CRD-11: frozen past its end it waits; won, it is breakage, posted apart."""
    scene = Scene()
    scene.give("paid", 10, "purchased", ends=NOON + HOUR)
    scene.hold("call", 4)
    scene.dispute("paid", "opened")
    scene.later(2 * HOUR)
    assert scene.expire().amount == 0
    scene.charge("call", 1)
    assert scene.lot("paid").frozen == 9
    scene.dispute("paid", "won")
    assert (scene.lot("paid").expired, scene.lot("paid").frozen, scene.available) == (9, 0, 0)
    assert scene.posted(PostingKind.DISPUTE_WON) == [
        {Account.CUSTOMER_CREDIT: 9, Account.BREAKAGE: -9}
    ]


def test_a_lot_disputed_after_its_end_breaks_once_more_only_as_won() -> None:
    """CRD-11: its end is posted once; what came back while it was frozen is posted apart."""
    scene = Scene()
    scene.give("paid", 10, "purchased", ends=NOON + HOUR)
    scene.hold("call", 4)
    scene.later(HOUR)
    scene.expire()
    scene.dispute("paid", "opened")
    scene.charge("call", 1)
    scene.dispute("paid", "won")
    assert scene.lot("paid").expired == 9
    assert len(scene.posted(PostingKind.BREAKAGE)) == 1
    assert len(scene.posted(PostingKind.DISPUTE_WON)) == 1


def test_a_disputed_purchase_repays_when_the_dispute_is_won() -> None:
    """NEG-04: its first draw is still the repayment of what is owed."""
    scene = Scene()
    scene.owe(3)
    scene.give("paid", 10, "purchased", starts=NOON + HOUR)
    scene.dispute("paid", "opened")
    scene.later(HOUR)
    scene.expire()
    assert scene.org.owed == 3
    assert scene.dispute("paid", "won").available == 7
    assert scene.org.owed == 0


def test_a_disputed_purchase_that_has_not_begun_waits_for_its_beginning() -> None:
    """NEG-04: won before its beginning, it repays at its beginning."""
    scene = Scene()
    scene.owe(3)
    scene.give("paid", 10, "purchased", starts=NOON + HOUR)
    scene.dispute("paid", "opened")
    scene.dispute("paid", "won")
    assert (scene.org.owed, scene.lot("paid").remaining) == (3, 10)
    scene.later(HOUR)
    scene.expire()
    assert (scene.org.owed, scene.lot("paid").remaining) == (0, 7)


def test_a_dispute_over_an_unknown_lot_is_refused() -> None:
    """CRD-18: a notice about nothing of this organisation changes nothing."""
    scene = Scene()
    command = scene.dispute_command("ghost", "opened")
    assert scene.one(command, Refused).code == "grant_not_found"
