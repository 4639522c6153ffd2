"""Hard limits: beginning, changing and ending them in the middle of traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from farebox.ledger.commands import Admitted, Closed, Done, Refused
from farebox.ledger.limits import WINDOW_KEPT, instant
from tests.support.ledger_scenes import DAY, MICRO, Scene


def rich(**settings: object) -> Scene:
    """A scene in which money is no matter."""
    scene = Scene(**settings)  # type: ignore[arg-type]
    scene.give("paid", 1_000, "purchased")
    return scene


def test_at_the_limit_calls_are_refused_with_its_figures() -> None:
    """BUD-02: used and held never pass the maximum; the refusal names the limit and its figures."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 4)
    scene.charge("one", 4)
    scene.hold("two", 5)
    refused = scene.refuse("three", 7)
    assert (refused.code, refused.blocked_by_holds) == ("organization_spend_limit_exceeded", False)
    assert refused.limit is not None
    assert (refused.limit.used, refused.limit.held, refused.limit.maximum) == (4, 5, 10)
    assert refused.limit.resets_at == datetime(2027, 4, 1, tzinfo=UTC)
    assert (refused.needed, refused.held) == (7, 5)
    for words in (
        "monthly limit is 0.00000001",
        "0.000000004 used",
        "0.000000005 held",
        "2027-04-01",
    ):
        assert words in refused.message
    assert scene.hold("four", 1).held == 1


def test_a_limit_that_only_holds_reach_may_be_waited_for() -> None:
    """BUD-02: a call that fits once open calls end is told to wait."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 8)
    waits = scene.refuse("two", 10)
    assert (waits.code, waits.blocked_by_holds) == ("balance_held", True)
    assert scene.refuse("three", 11).code == "organization_spend_limit_exceeded"


def test_what_waiting_cannot_mend_is_said_first() -> None:
    """BUD-02: money or a limit that is used up comes before what open calls block."""
    scene = Scene()
    scene.give("paid", 20, "purchased")
    scene.set_limit(16)
    scene.hold("one", 8)
    assert scene.refuse("two", 17).code == "organization_spend_limit_exceeded"
    assert scene.refuse("two", 16).code == "balance_held"
    scene.set_limit(100)
    assert scene.refuse("two", 21).code == "credit_balance_exhausted"
    scene.set_limit(21)
    scene.hold("three", 12)
    both = scene.refuse("four", 12)
    assert (both.code, both.limit) == ("balance_held", None)


def test_a_limit_set_in_the_middle_counts_what_has_been_and_what_runs() -> None:
    """BUD-02: charges of this month, also of this very batch, and the holds of open calls."""
    scene = rich()
    scene.hold("ended", 4)
    scene.charge("ended", 3)
    scene.hold("ending", 5)
    scene.hold("running", 6)
    done = scene.run(scene.settle("ending", 2), scene.limit(12))[1]
    assert isinstance(done, Done)
    assert (scene.window().used, scene.window().held) == (5, 6)
    assert scene.refuse("new", 2).code == "balance_held"
    scene.charge("running", 6)
    assert (scene.window().used, scene.window().held) == (11, 0)
    assert scene.refuse("new", 2).code == "organization_spend_limit_exceeded"


def test_a_limit_set_after_a_late_answer_in_the_same_batch_counts_it() -> None:
    """BUD-02: a correction that the batch has just made is part of what was charged."""
    scene = rich()
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 5))
    scene.vanish("stream")
    scene.run(scene.settle("stream", 7), scene.limit(10))
    assert (scene.window().used, scene.window().held) == (7, 0)


def test_a_call_of_last_month_is_not_counted_in_this_one() -> None:
    """BUD-01: a call belongs wholly to the month it was admitted in."""
    scene = rich(now=datetime(2027, 3, 31, 23, tzinfo=UTC))
    scene.hold("old", 6)
    scene.hold("gone", 6)
    scene.charge("gone", 5)
    scene.later(timedelta(hours=1))
    scene.set_limit(10)
    assert (scene.window().used, scene.window().held) == (0, 0)
    scene.hold("new", 10)
    scene.charge("old", 6)
    assert (scene.window().used, scene.window().held) == (0, 10)
    # Of the batch that begins the limit, too.
    scene.set_limit(None)
    scene.hold("old too", 1)
    scene.later(31 * DAY)
    scene.run(scene.settle("old too", 1), scene.limit(10))
    assert scene.window().used == 0


def test_a_call_admitted_at_the_first_instant_belongs_to_the_month() -> None:
    """BUD-01: its hold, its charge and its correction, also where the limit comes later."""
    scene = rich(now=datetime(2027, 4, 1, tzinfo=UTC))
    for name in ("open", "settled", "stream"):
        scene.hold(name, 8)
    scene.run(scene.report("stream", 4))
    scene.vanish("stream")
    scene.later(DAY)
    scene.run(scene.settle("settled", 2), scene.settle("stream", 3), scene.limit(20))
    assert scene.org.last_time == scene.now
    assert (scene.window().used, scene.window().held) == (5, 8)
    assert scene.one(scene.settle("open", 30), Closed).absorbed == 15
    assert scene.window().used == 20


def test_an_extension_is_bound_by_the_month_of_its_admission() -> None:
    """BUD-01: past midnight it takes from the old month's limit, and leaves the new one alone."""
    scene = rich(now=datetime(2027, 3, 31, 23, tzinfo=UTC))
    scene.set_limit(10)
    scene.hold("old", 6)
    scene.later(timedelta(hours=1))
    scene.hold("new", 10)
    assert scene.one(scene.extend("old", 5), Refused).code == "organization_spend_limit_exceeded"
    assert scene.one(scene.extend("old", 4), Done).amount == 10
    assert scene.one(scene.settle("old", 12), Closed).absorbed == 2
    assert [(w.used, w.held) for w in scene.windows()] == [(10, 0), (0, 10)]


def test_an_extension_waits_for_others_not_for_itself() -> None:
    """BUD-02: what the call holds already does not come back to it."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 6)
    scene.hold("two", 4)
    assert scene.one(scene.extend("one", 5), Refused).code == "organization_spend_limit_exceeded"
    assert scene.one(scene.extend("one", 4), Refused).code == "balance_held"


def test_a_limit_begins_anew_with_the_month() -> None:
    """BUD-01: to the microsecond, in the organisation's zone."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 10)
    scene.charge("one", 10)
    scene.now = datetime(2027, 4, 1, tzinfo=UTC) - MICRO
    scene.refuse("two", 1)
    scene.later(MICRO)
    scene.hold("two", 10)


@pytest.mark.parametrize(
    ("zone", "turns"),
    [
        ("America/New_York", "2027-04-01T04:00"),
        ("Asia/Kolkata", "2027-03-31T18:30"),
        ("Pacific/Apia", "2027-03-31T11:00"),
    ],
)
def test_the_month_turns_at_local_midnight(zone: str, turns: str) -> None:
    """BUD-01: zones with summer time, half hours, and thirteen hours ahead."""
    turn = datetime.fromisoformat(turns).replace(tzinfo=UTC)
    scene = rich(zone=zone, now=turn - MICRO)
    scene.set_limit(10)
    scene.hold("one", 10)
    assert scene.refuse("two", 1).limit is not None
    scene.later(MICRO)
    scene.hold("two", 10)
    assert instant(scene.window().start) == turn


def test_a_limit_may_be_changed_while_calls_run() -> None:
    """BUD-02: raised it admits more, lowered it refuses; what runs finishes, overruns absorbed."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 8)
    scene.set_limit(12)
    scene.hold("two", 4)
    scene.set_limit(5)
    assert scene.refuse("three", 6).code == "organization_spend_limit_exceeded"
    closed = scene.charge("one", 9)
    assert (closed.charge, closed.absorbed) == (8, 1)
    assert (scene.window().used, scene.window().held) == (8, 4)


def test_a_limit_may_be_removed_and_set_again_while_calls_run() -> None:
    """BUD-02: its counters come off the open holds and are counted anew."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 8)
    assert not scene.set_limit(None).exists
    assert scene.set_limit(None).exists
    assert scene.open("one").raised == ()
    scene.hold("two", 9)
    scene.set_limit(20)
    assert (scene.window().used, scene.window().held) == (0, 17)
    scene.charge("one", 7)
    scene.charge("two", 9)
    assert (scene.window().used, scene.window().held) == (16, 0)


def test_removing_a_limit_that_never_was_changes_nothing() -> None:
    """BUD-02: it says so, and writes no counter."""
    scene = rich()
    scene.hold("one", 8)
    assert scene.set_limit(None).exists
    assert scene.open("one").raised == ()
    assert scene.ledger.limits == {}


def test_removing_a_limit_leaves_calls_alone_that_it_never_counted() -> None:
    """BUD-01: a call of the month before the limit was never in its counters."""
    scene = rich(now=datetime(2027, 3, 31, 23, tzinfo=UTC))
    scene.hold("march", 8)
    scene.later(timedelta(hours=1))
    scene.set_limit(10)
    scene.hold("april", 5)
    decision = scene.ledger.decide([scene.limit(None)], scene.now)
    assert [hold.call_id for hold in decision.changes.holds] == [scene.named("april")]


def test_a_late_answer_counts_in_the_month_of_its_call() -> None:
    """BUD-02: also where the limit began between the lapse and the answer; up, down and beyond."""
    scene = rich()
    for name in ("up", "down", "beyond"):
        scene.hold(name, 8)
        scene.run(scene.report(name, 5))
    scene.fence()
    scene.run(*(scene.lapse(name) for name in ("up", "down", "beyond")))
    scene.set_limit(20)
    assert scene.window().used == 15
    scene.later(25 * DAY)
    scene.hold("april", 20)
    assert scene.charge("up", 8).charge == 8
    assert scene.charge("down", 1).charge == 1
    assert [scene.charge("beyond", 20).absorbed, scene.window().used] == [9, 0]
    assert [(w.used, w.held) for w in scene.windows()] == [(20, 0), (0, 20)]


def test_old_months_are_dropped_when_nothing_can_reach_them() -> None:
    """BUD-01: kept as long as a late answer may come, or a hold is open."""
    scene = rich()
    scene.set_limit(100)
    scene.hold("forgotten", 1)
    scene.later(31 * DAY)
    scene.hold("april", 1)
    scene.charge("april", 1)
    scene.now = datetime(2027, 5, 1, tzinfo=UTC) + WINDOW_KEPT - MICRO
    scene.hold("june", 1)
    assert [instant(w.start).month for w in scene.windows()] == [3, 4, 6]
    scene.charge("june", 1)
    scene.now = datetime(2027, 8, 10, tzinfo=UTC)
    scene.hold("august", 1)
    assert [instant(w.start).month for w in scene.windows()] == [3, 8]
    scene.charge("forgotten", 1)


def test_an_unlimited_organization_has_no_counter() -> None:
    """BUD-01: rows that nobody needs are not written."""
    scene = rich()
    scene.hold("one", 8)
    scene.charge("one", 8)
    assert scene.ledger.limits == {}


def test_a_call_outlives_a_limit_that_vanished_under_it() -> None:
    """NEG-02: no missing counter can stop a charge."""
    scene = rich()
    scene.set_limit(10)
    scene.hold("one", 8)
    scene.ledger.limits.clear()
    assert scene.one(scene.extend("one", 50), Done).amount == 58
    assert scene.charge("one", 60).charge == 60


def test_limits_hold_for_calls_of_one_batch() -> None:
    """BUD-02: of many calls in one batch exactly those that fit are admitted."""
    scene = rich()
    scene.set_limit(10)
    results = scene.run(*(scene.admit(f"call {i}", 3) for i in range(9)))
    assert [isinstance(result, Admitted) for result in results] == [True] * 3 + [False] * 6
    assert scene.window().held == 9
