"""Admission: what may leave, with how much held, and why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec import structs

from farebox.ledger.commands import Admitted, Refused
from tests.support.ledger_scenes import DAY, HOUR, MICRO, NOON, Scene

# --- balance -----------------------------------------------------------------------------------


def test_at_zero_available_a_call_is_refused_until_credit_comes() -> None:
    """NEG-01, NEG-12: the very next call after a top-up is admitted, with the same key."""
    scene = Scene()
    assert scene.refuse("early", 1).code == "credit_balance_exhausted"
    scene.give("paid", 1, "purchased")
    assert scene.hold("later", 1).held == 1


def test_a_dollar_buys_a_dollar() -> None:
    """CRD-16: $100 of credit holds and pays exactly $100, and not a nanodollar more."""
    dollars = 100 * 10**9
    scene = Scene()
    scene.give("paid", dollars, "purchased")
    scene.hold("most", dollars - 1)
    assert scene.refuse("over", 2).code == "balance_held"
    scene.hold("last", 1)
    scene.charge("most", dollars - 1)
    scene.charge("last", 1)
    assert (scene.org.spent, scene.available) == (dollars, 0)


def test_a_refusal_for_lack_of_money_says_what_there_is() -> None:
    """NEG-01: the refusal carries the figures of its decision, in money that people read."""
    scene = Scene()
    scene.give("paid", 3_000_000_000, "purchased")
    refused = scene.refuse("call", 5_000_000_000)
    assert refused.code == "credit_balance_exhausted"
    assert (refused.needed, refused.available, refused.held) == (5_000_000_000, 3_000_000_000, 0)
    assert not refused.blocked_by_holds
    assert "3.00 available" in refused.message
    assert "up to 5.00" in refused.message


def test_what_only_open_holds_block_is_told_apart() -> None:
    """NEG-06: a call that posted money could pay is told to wait, one that it cannot is not."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("first", 7)
    waits = scene.refuse("second", 10)
    assert (waits.code, waits.blocked_by_holds, waits.held) == ("balance_held", True, 7)
    assert "while open calls hold 0.000000007" in waits.message
    final = scene.refuse("third", 11)
    assert (final.code, final.blocked_by_holds) == ("credit_balance_exhausted", False)


def test_an_earmark_on_an_ended_grant_does_not_come_back() -> None:
    """CRD-10: nobody is told to wait for a hold whose credit will be breakage."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.hold("first", 10)
    assert scene.refuse("second", 10).code == "balance_held"
    scene.later(HOUR)
    assert scene.refuse("second", 10).code == "credit_balance_exhausted"


def test_holds_on_the_floor_come_back() -> None:
    """NEG-07: the floor that an open call stands on is not gone, only held."""
    scene = Scene(floor=10)
    assert scene.hold("first", 10).available == -10
    assert scene.refuse("second", 10).code == "balance_held"
    assert scene.refuse("second", 11).code == "credit_balance_exhausted"


def test_what_is_held_is_on_grants_and_on_the_floor() -> None:
    """NEG-07: a refusal tells all that open calls hold."""
    scene = Scene(floor=5)
    scene.give("paid", 10, "purchased")
    scene.hold("call", 13)
    assert scene.refuse("new", 3).held == 13


def test_the_floor_is_exact() -> None:
    """NEG-07: a call that would pass the floor is refused before it leaves, by one nano."""
    scene = Scene(floor=5)
    scene.give("paid", 10, "purchased")
    assert scene.refuse("over", 16).code == "credit_balance_exhausted"
    scene.hold("call", 15)
    assert (scene.marks("call"), scene.open("call").unsecured) == ({"paid": 10}, 5)
    assert scene.refuse("one", 1).code == "balance_held"


def test_a_new_organization_is_strictly_prepaid() -> None:
    """DED-19, NEG-06: without a floor holds reserve before dispatch: no lag, no nano below zero."""
    scene = Scene()
    assert (scene.org.floor, scene.org.owed) == (0, 0)
    assert scene.refuse("call", 1).code == "credit_balance_exhausted"


def test_a_lowered_floor_leaves_open_holds_alone() -> None:
    """NEG-02, NEG-07: what runs on the old floor finishes and is owed; new calls are refused."""
    scene = Scene(floor=5)
    scene.hold("call", 5)
    scene.set_floor(0)
    assert scene.refuse("new", 1).code == "credit_balance_exhausted"
    assert scene.charge("call", 5).owed == 5


def test_what_is_owed_stands_before_new_calls() -> None:
    """NEG-04, ERR-02: usable credit is what live grants hold less what is owed; its code tells."""
    scene = Scene()
    scene.owe(4)
    refused = scene.refuse("call", 1)
    assert refused.code == "credit_balance_negative"
    assert "repay what is owed" in refused.message
    scene.give("gift", 10, "free")
    assert scene.available == 6
    assert scene.refuse("call", 7).code == "credit_balance_exhausted"
    scene.hold("call", 6)


def test_many_calls_at_once_never_share_credit() -> None:
    """NEG-06: of a hundred calls in one batch exactly those that fit are admitted, in order."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    results = scene.run(*(scene.admit(f"call {i}", 1) for i in range(100)))
    assert [isinstance(r, Admitted) for r in results] == [True] * 10 + [False] * 90


def test_one_organization_never_pays_for_another() -> None:
    """CRD-18: credit of one organisation is not seen by the next, even in one batch."""
    rich = Scene()
    rich.give("paid", 10, "purchased")
    poor = Scene(ledger=rich.ledger)
    ours, theirs = rich.run(rich.admit("call", 10), poor.admit("call", 1))
    assert isinstance(ours, Admitted)
    assert isinstance(theirs, Refused)
    assert theirs.code == "credit_balance_exhausted"


def test_the_balance_is_shared_by_all_models() -> None:
    """CRD-20: calls of any model draw on the same grants."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.one(scene.admit("one", 4, model="gpt"), Admitted)
    scene.one(scene.admit("two", 6, model="embedding"), Admitted)
    assert scene.refuse("three", 1).code == "balance_held"


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed", "seen"), [(HOUR - MICRO, True), (HOUR, False), (HOUR + MICRO, False)]
)
def test_credit_ends_at_its_instant(passed: timedelta, seen: bool) -> None:
    """CRD-10: usable one microsecond before its end, and unusable at it, with no job run."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(passed)
    answer = scene.run(scene.admit("call", 10))[0]
    assert isinstance(answer, Admitted) is seen
    assert scene.lot("ending").expired == (0 if seen else 10)


@pytest.mark.parametrize(("passed", "seen"), [(HOUR - MICRO, False), (HOUR, True)])
def test_credit_begins_at_its_instant(passed: timedelta, seen: bool) -> None:
    """CRD-10: active on [effective, expires): not a microsecond before, and at it."""
    scene = Scene()
    scene.give("coming", 10, starts=NOON + HOUR)
    scene.later(passed)
    assert isinstance(scene.run(scene.admit("call", 10))[0], Admitted) is seen


def test_engine_time_never_runs_backwards() -> None:
    """CRD-10: a clock set back does not bring ended credit back."""
    scene = Scene()
    scene.give("ending", 10, ends=NOON + HOUR)
    scene.later(HOUR)
    scene.expire()
    scene.later(-DAY)
    assert scene.refuse("call", 1).code == "credit_balance_expired"
    scene.give("paid", 1, "purchased")
    assert scene.hold("call", 1).admitted_at == NOON + HOUR
    assert scene.org.last_time == NOON + HOUR


def test_a_batch_that_changes_nothing_does_not_move_time() -> None:
    """CRD-10: a refusal leaves no trace, not even of its time."""
    scene = Scene()
    scene.later(HOUR)
    scene.refuse("call", 1)
    assert scene.org.last_time == NOON


# --- who may -----------------------------------------------------------------------------------


def test_a_fenced_node_admits_nothing() -> None:
    """NEG-06: a hold under an old epoch, or of an unknown node, is refused."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    old = scene.admit("call", 1)
    scene.fence()
    assert scene.one(old, Refused).code == "stale_epoch"
    stranger = structs.replace(old, node_id=scene.named("stranger"))
    assert scene.one(stranger, Refused).code == "stale_epoch"


def test_a_call_rated_with_another_book_is_refused() -> None:
    """DED-07: the price version is fixed at admission; an older book must rate again."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    assert scene.one(scene.admit("call", 1, revision=2), Refused).code == "stale_catalogue"


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"revoked_at": NOON}, "key_revoked"),
        ({"expires_at": NOON}, "key_expired"),
        ({"expires_at": NOON + MICRO}, None),
        ({"project_archived_at": NOON}, "project_archived"),
        ({}, None),
    ],
)
def test_keys_are_read_again_for_every_call(facts: dict[str, datetime], code: str | None) -> None:
    """NEG-01: revocation and expiry of a key and its project are exact for every charged call."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.put_key(**facts)
    (answer,) = scene.run(scene.admit("call", 1))
    assert (answer.code if isinstance(answer, Refused) else None) == code


def test_a_key_of_somebody_else_is_no_key() -> None:
    """CRD-18: a key counts only for its own organisation and project."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    other = Scene(ledger=scene.ledger)
    assert scene.one(scene.admit("call", 1, key="unknown"), Refused).code == "key_not_found"
    own = scene.admit("call", 1)
    theirs = structs.replace(own.dimensions, key_id=other.named("key"))
    assert scene.one(structs.replace(own, dimensions=theirs), Refused).code == "key_not_found"
    elsewhere = structs.replace(own.dimensions, project_id=other.named("project"))
    assert scene.one(structs.replace(own, dimensions=elsewhere), Refused).code == "key_not_found"


def test_a_suspended_organization_admits_nothing() -> None:
    """NEG-01: a suspended organisation's new calls are refused, whatever its balance."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("running", 4)
    scene.org.active = False
    assert scene.refuse("call", 1).code == "organization_suspended"
    assert scene.charge("running", 4).charge == 4


# --- once only ---------------------------------------------------------------------------------


def test_an_admission_sent_again_gives_the_same_answer() -> None:
    """DED-17: a replay answers as the first did, marked so, and holds nothing more."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    admit = scene.admit("call", 4)
    first = scene.one(admit, Admitted)
    scene.later(HOUR)
    scene.fence()
    assert scene.one(admit, Admitted) == structs.replace(first, exists=True)
    assert scene.org.reserved == 4


def test_an_admission_twice_in_one_batch_holds_once() -> None:
    """DED-17: also where the first has not been committed yet."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    first, second = scene.run(*[scene.admit("call", 4)] * 2)
    assert isinstance(first, Admitted)
    assert second == structs.replace(first, exists=True)


def test_an_admission_with_other_fields_is_refused() -> None:
    """DED-17: the same id with another content has no effect, open or ended."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 4)
    assert scene.refuse("call", 5).code == "exists_with_different_fields"
    scene.charge("call", 4)
    assert scene.refuse("call", 5).code == "exists_with_different_fields"
    assert scene.refuse("call", 4).code == "hold_closed"
    assert scene.org.spent == 4


def test_a_refused_admission_is_not_remembered() -> None:
    """DED-17: what had no effect may be asked again, and take effect then."""
    scene = Scene()
    scene.refuse("call", 4)
    scene.give("paid", 10, "purchased")
    assert not scene.hold("call", 4).exists


# --- what is written down ----------------------------------------------------------------------


def test_the_hold_records_how_it_was_decided() -> None:
    """NEG-07: owner, end, attribution and figures are kept with the hold."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.set_limit(20)
    decision = scene.ledger.decide([scene.admit("call", 4, latest_end_after=DAY)], scene.now)
    (new,) = decision.changes.new_holds
    assert (new.available_before, new.hold.latest_end) == (10, NOON + DAY)
    (figures,) = new.limits
    assert (figures.used, figures.held, figures.maximum) == (0, 0, 20)
    assert figures.resets_at == datetime(2027, 4, 1, tzinfo=UTC)
    assert [r.amount for r in new.hold.raised] == [4]


def test_a_call_that_was_rated_by_another_plan_is_rated_anew() -> None:
    """DESIGN 16: the plan is compared under the lock, whatever a node still keeps."""
    scene = Scene()
    scene.give("paid", 100, "purchased")
    scene.org.plan_id = UUID(int=7)
    assert scene.refuse("old", 1).code == "stale_catalogue"
    scene.org.plan_id = None
    scene.hold("new", 1)
