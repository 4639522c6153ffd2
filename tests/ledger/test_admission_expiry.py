"""Refusals where credit has expired: when that is said, and what comes before it (ERR-02)."""

from __future__ import annotations

from tests.support.ledger_scenes import HOUR, NOON, Scene


def test_expired_credit_has_its_code() -> None:
    """ERR-01, ERR-02, CRD-12: nothing is live, nothing owed, and what expired could have paid."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.hold("before", 4)
    scene.charge("before", 4)
    scene.later(HOUR)
    refused = scene.refuse("call", 6)
    assert (refused.code, refused.blocked_by_holds) == ("credit_balance_expired", False)
    assert "0.000000006 in all was not used by its end" in refused.message
    # More than had expired: nothing that ended would have paid it.
    assert scene.refuse("large", 7).code == "credit_balance_exhausted"
    assert scene.org.owed == 0


def test_that_credit_expired_is_read_off_the_organizations_row() -> None:
    """ERR-02: no further read: the ended grant is loaded no more, and its total says it."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.expire()
    state = scene.ledger.load([scene.admit("call", 6)], NOON + HOUR)
    assert state.organizations[scene.org.id].grants == []
    assert scene.refuse("call", 6).code == "credit_balance_expired"


def test_a_rest_that_is_live_is_not_expired_credit() -> None:
    """ERR-02: whoever spent the newest credit to a rest is told so, whatever expired before it."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.give("paid", 10, "purchased")
    scene.hold("call", 9)
    scene.charge("call", 9)
    assert scene.refuse("next", 2).code == "credit_balance_exhausted"


def test_debt_comes_before_expired_credit() -> None:
    """NEG-04, ERR-02: with both, what is owed is why there is nothing: it is repaid first."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.owe(4)
    assert scene.refuse("call", 1).code == "credit_balance_negative"


def test_what_a_call_holds_is_live_until_its_grant_ends() -> None:
    """ERR-02, DED-03: an earmark on an ended grant pays its own call and no other."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.hold("running", 4)
    assert scene.refuse("early", 7).code == "balance_held"
    scene.later(HOUR)
    assert scene.refuse("late", 6).code == "credit_balance_expired"
