"""Settlement: how a hold ends and what its call is charged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.commands import Admitted, Closed, Done, Refused, Usage
from farebox.ledger.holds import CallState
from farebox.ledger.journal import Account, PostingKind
from farebox.ledger.organizations import OnLapse, OnOverrun
from tests.support.ledger_scenes import HOUR, MICRO, NOON, Scene

# --- settle ------------------------------------------------------------------------------------


def test_a_call_is_charged_as_it_is_priced() -> None:
    """DED-01, DED-16: each call's charge is in spent, in the journal and in the rollup at once."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 7)
    usage = Usage(input_tokens=3, cached_tokens=1, output_tokens=2, reasoning_tokens=1)
    scene.run(scene.settle("call", 5, usage=usage, cost=2))
    assert (scene.org.spent, scene.available) == (5, 5)
    assert scene.posted(PostingKind.CALLS) == [{Account.CUSTOMER_CREDIT: 5, Account.REVENUE: -5}]
    ((key, delta),) = scene.ledger.rollups.items()
    assert key.hour == NOON
    assert (delta.calls, delta.charge, delta.cost, delta.output_tokens) == (1, 5, 2, 2)
    assert (delta.cached_tokens, delta.reasoning_tokens, delta.cache_write_tokens) == (1, 1, 0)


def test_the_lane_of_the_answer_is_the_lane_of_the_row() -> None:
    """DED-13: the mode that answered is the dimension, even where another was held for."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 7)
    scene.run(scene.settle("call", 5, lane="flex"))
    assert [key.dimensions.lane for key in scene.ledger.rollups] == ["flex"]
    assert scene.call("call").dimensions.lane == "flex"


def test_a_call_belongs_to_the_hour_it_was_admitted_in() -> None:
    """DED-01: a call that ends in a later hour is counted where it began."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.later(HOUR - MICRO)
    scene.hold("call", 7)
    scene.later(HOUR)
    scene.charge("call", 5)
    assert [key.hour for key in scene.ledger.rollups] == [NOON]


OVERRUN = """
# credit floor limit | hold metered policy | charge absorbed owed
    10     0     -       6       6   absorb       6        0    0
    10     0     -       6       8   absorb       8        0    0
    10     0     -       6      10   absorb      10        0    0
    10     0     -       6      11   absorb      10        1    0
    10     0     -      10      15   absorb      10        5    0
    10     3     -      10      12   absorb      12        0    2
    10     3     -      10      15   absorb      13        2    3
    10     0    12       6       9   absorb       9        0    0
    10     0     8       6       9   absorb       8        1    0
    10     0     6       6       9   absorb       6        3    0
    10     3     8       6      20   absorb       8       12    0
    10     0     -       6      11      owe      11        0    1
    10     0     8       6      11      owe      11        0    3
    10     3     -      10      15      owe      15        0    5
    10     0     6       6      20      owe      20        0   14
"""


@pytest.mark.parametrize("row", [r for r in OVERRUN.strip().splitlines() if "#" not in r])
def test_usage_beyond_the_hold_is_charged_where_it_fits(row: str) -> None:
    """NEG-03: what fits balance, floor and limits is charged; the rest is absorbed, or owed."""
    credit, floor, limit, held, metered, policy, *expected = row.split()
    scene = Scene(floor=int(floor), on_overrun=OnOverrun(policy))
    scene.give("paid", int(credit), "purchased")
    scene.set_limit(None if limit == "-" else int(limit))
    scene.hold("call", int(held))
    closed = scene.charge("call", int(metered))
    assert [closed.charge, closed.absorbed, closed.owed] == [int(x) for x in expected]
    assert closed.charge + closed.absorbed == int(metered)
    assert scene.org.absorbed == closed.absorbed
    assert len(scene.told("overrun")) == (int(metered) > int(held))


def test_absorbed_usage_is_shown() -> None:
    """NEG-03: what the operator bears is in the journal, in the rollup and in the alert."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 10)
    scene.charge("call", 14)
    (posted,) = scene.posted(PostingKind.CALLS)
    assert posted == {Account.CUSTOMER_CREDIT: 10, Account.ABSORBED: 4, Account.REVENUE: -14}
    (facts,) = scene.told("overrun")
    assert (facts["held_nanos"], facts["metered_nanos"], facts["absorbed_nanos"]) == (
        "10",
        "14",
        "4",
    )
    assert [delta.absorbed for delta in scene.ledger.rollups.values()] == [4]


def test_an_overrun_never_takes_what_another_call_holds() -> None:
    """NEG-03: room is what nobody holds; the rest is absorbed though another call holds plenty."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("other", 4)
    scene.hold("call", 5)
    closed = scene.charge("call", 9)
    assert (closed.charge, closed.absorbed) == (6, 3)
    assert scene.charge("other", 4).charge == 4


def test_calls_in_flight_complete_at_zero() -> None:
    """NEG-02: at a balance of zero what runs is paid by its hold; only new calls are refused."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 6)
    scene.hold("call", 4)
    scene.charge("call", 4)
    assert scene.refuse("new", 1).code == "balance_held"
    assert scene.charge("stream", 6).charge == 6
    assert scene.refuse("new", 1).code == "credit_balance_exhausted"


def test_in_delayed_cutoff_usage_makes_the_balance_negative() -> None:
    """NEG-03: what is settled on the floor is owed, and no free credit appears anywhere."""
    scene = Scene(floor=10)
    scene.give("gift", 4)
    scene.hold("call", 9)
    closed = scene.charge("call", 9)
    assert (closed.owed, closed.available) == (5, -5)
    assert (scene.org.owed, scene.org.granted) == (5, 4)


def test_a_settle_is_charged_once() -> None:
    """DED-17: sent again it answers as before; with other usage it is refused."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 7)
    first = scene.charge("call", 5)
    assert scene.charge("call", 5) == structs.replace(first, exists=True)
    refused = scene.one(scene.settle("call", 6), Refused)
    assert refused.code == "exists_with_different_fields"
    assert "settled already" in refused.message
    assert scene.org.spent == 5


def test_a_settle_without_a_hold_charges_nothing() -> None:
    """DED-17: usage of a call that was never admitted is refused, not guessed at."""
    scene = Scene()
    assert scene.one(scene.settle("ghost", 5), Refused).code == "hold_not_found"
    assert scene.ledger.calls == {}


def test_in_a_batch_what_ends_comes_before_what_begins() -> None:
    """NEG-12: money that comes back in a batch is there for its admissions, in any order."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("old", 10)
    admitted, extended, closed = scene.run(
        scene.admit("new", 5), scene.extend("old", 5), scene.settle("old", 5)
    )
    assert isinstance(closed, Closed)
    assert isinstance(admitted, Admitted)
    assert isinstance(extended, Refused)


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 200), st.booleans())
def test_the_sum_of_the_charges_is_what_is_spent(
    metered: list[int], credit: int, together: bool
) -> None:
    """DED-16: whatever is settled, in one batch or many, spent is the sum of the charges."""
    scene = Scene()
    if credit:
        scene.give("paid", credit, "purchased")
    admitted = scene.run(*(scene.admit(f"call {i}", 20) for i in range(len(metered))))
    settles = [
        scene.settle(f"call {i}", amount)
        for i, amount in enumerate(metered)
        if isinstance(admitted[i], Admitted)
    ]
    batches = [settles] if together else [[settle] for settle in settles]
    closed = [result for batch in batches for result in scene.run(*batch)]
    charges = sum(c.charge for c in closed if isinstance(c, Closed))
    assert scene.org.spent == charges == sum(call.charge for call in scene.ledger.calls.values())
    assert scene.org.spent <= credit
    assert scene.org.spent + scene.org.absorbed == sum(settle.metered for settle in settles)


# --- release -----------------------------------------------------------------------------------


def test_a_call_that_produced_nothing_is_charged_zero() -> None:
    """DED-14: a release gives the hold back whole and records the call at zero."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 7)
    released = scene.one(scene.release("call"), Closed)
    assert (released.state, released.charge, released.available) == (CallState.RELEASED, 0, 10)
    assert (scene.org.spent, scene.org.reserved) == (0, 0)


def test_a_call_that_failed_after_tokens_is_charged_for_them() -> None:
    """DED-14: settled at what it produced, whatever its status."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 7)
    failed = structs.replace(scene.settle("call", 2), http_status=502)
    assert scene.one(failed, Closed).charge == 2


def test_a_release_of_an_ended_call_changes_nothing() -> None:
    """DED-17: a release is once-only, and undoes no charge."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    assert scene.one(scene.release("ghost"), Refused).code == "hold_not_found"
    scene.hold("call", 7)
    scene.charge("call", 5)
    again = scene.one(scene.release("call"), Closed)
    assert (again.state, again.charge, again.exists) == (CallState.SETTLED, 5, True)
    scene.hold("other", 2)
    scene.run(scene.release("other"))
    assert scene.one(scene.release("other"), Closed).exists
    assert scene.one(scene.settle("other", 1), Refused).code == "exists_with_different_fields"


# --- lapse -------------------------------------------------------------------------------------


def test_a_disconnected_stream_is_charged_for_its_tokens_once() -> None:
    """DED-15: a lapse charges the last reported progress, marked estimated, once."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 2, cost=1))
    scene.run(scene.report("stream", 5, cost=3))
    lapsed = scene.vanish("stream")
    assert (lapsed.state, lapsed.charge, lapsed.available) == (CallState.LAPSED, 5, 5)
    assert scene.one(scene.lapse("stream"), Refused).code == "hold_not_found"
    assert (scene.call("stream").cost, scene.call("stream").usage.output_tokens) == (3, 5)
    assert [facts["reason"] for facts in scene.told("hold_lapsed")] == ["unseen"]
    assert scene.org.spent == 5


def test_progress_never_goes_back() -> None:
    """DED-15: a report that comes late does not undo a later one."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 8)
    first, second = scene.run(scene.report("stream", 5), scene.report("stream", 2))
    assert first == second == Done(available=Nanos(2), amount=Nanos(8))
    assert scene.vanish("stream").charge == 5


def test_progress_that_costs_more_for_the_same_use_is_taken() -> None:
    """DED-15: the last word counts where usage is the same."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 5, cost=1), scene.report("stream", 5, cost=2))
    scene.vanish("stream")
    assert scene.call("stream").cost == 2


def test_progress_of_somebody_elses_or_an_ended_call_is_not_taken() -> None:
    """DED-15: a report counts only for the owner's open hold."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 8)
    report = scene.report("stream", 5)
    older = structs.replace(report, epoch=0)
    assert scene.one(older, Refused).code == "hold_not_found"
    scene.run(scene.release("stream"))
    assert scene.one(report, Refused).code == "hold_not_found"


@pytest.mark.parametrize(
    ("policy", "reported", "charge", "absorbed"),
    [
        (OnLapse.METERED, 5, 5, 0),
        (OnLapse.METERED, None, 0, 0),
        (OnLapse.METERED, 13, 10, 3),
        (OnLapse.NOTHING, 5, 0, 0),
        (OnLapse.CEILING, 5, 8, 0),
        (OnLapse.CEILING, None, 8, 0),
    ],
)
def test_what_a_lapse_charges_is_a_setting(
    policy: OnLapse, reported: int | None, charge: int, absorbed: int
) -> None:
    """DED-15: the metered progress (decided like any overrun), nothing, or the ceiling."""
    scene = Scene(on_lapse=policy)
    scene.give("paid", 10, "purchased")
    scene.hold("stream", 8)
    if reported is not None:
        scene.run(scene.report("stream", reported))
    lapsed = scene.vanish("stream")
    assert (lapsed.charge, lapsed.absorbed) == (charge, absorbed)


def test_a_hold_lapses_when_its_node_is_fenced_or_its_time_is_up() -> None:
    """DED-15: not before, to the microsecond; and only for the owner it was seen with."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.one(scene.admit("call", 8, latest_end_after=HOUR), Admitted)
    assert scene.one(scene.lapse("call"), Refused).code == "hold_alive"
    scene.later(HOUR - MICRO)
    assert scene.one(scene.lapse("call"), Refused).code == "hold_alive"
    scene.later(MICRO)
    other = structs.replace(scene.lapse("call"), epoch=7)
    assert scene.one(other, Refused).code == "hold_not_found"
    assert scene.one(scene.lapse("call"), Closed).state is CallState.LAPSED


# --- late --------------------------------------------------------------------------------------


def lapsed_at(metered: int, *, held: int = 8, scene: Scene | None = None) -> Scene:
    """A scene whose call ``stream`` lapsed after it had used so much."""
    scene = scene or Scene()
    if not scene.grants():
        scene.give("gift", 4)
        scene.give("paid", 6, "purchased")
    scene.hold("stream", held)
    scene.run(scene.report("stream", metered))
    scene.vanish("stream")
    return scene


LATE = """
# lapsed  late  charge absorbed spendable
       5     5       5        0         5
       5     7       7        0         3
       5    10      10        0         0
       5    12      10        2         0
       5     3       3        0         7
       5     0       0        0        10
"""


@pytest.mark.parametrize("row", [r for r in LATE.strip().splitlines() if "#" not in r])
def test_a_late_answer_corrects_the_estimate(row: str) -> None:
    """DED-15, NEG-03: more is charged where it fits, less goes back to the grants it came from."""
    lapsed, late, charge, absorbed, spendable = map(int, row.split())
    scene = lapsed_at(lapsed)
    closed = scene.charge("stream", late)
    assert (closed.state, closed.charge, closed.absorbed) == (CallState.LATE, charge, absorbed)
    assert closed.available == spendable
    assert scene.call("stream").late_charge == charge - lapsed
    assert scene.org.spent == charge
    assert len(scene.posted(PostingKind.LATE)) == 1
    assert sum(delta.charge for delta in scene.ledger.rollups.values()) == charge
    again = scene.charge("stream", late)
    assert again == structs.replace(closed, exists=True)
    assert scene.one(scene.settle("stream", late + 1), Refused).code.startswith("exists_with")


def test_a_late_answer_of_another_lane_is_counted_under_it() -> None:
    """DED-07, DED-13: the row, its price version and its rollup are those of the answer."""
    scene = lapsed_at(5)
    late = structs.replace(scene.settle("stream", 7, lane="flex"), price_id=scene.named("flex"))
    (change,) = scene.ledger.decide([late], scene.now).changes.late
    assert (change.call.dimensions.lane, change.ending.price_id) == ("flex", scene.named("flex"))
    rows = {key.dimensions.lane: delta for key, delta in scene.ledger.rollups.items()}
    assert {lane: (row.calls, row.charge) for lane, row in rows.items()} == {
        "standard": (0, 0),
        "flex": (1, 7),
    }


def test_less_goes_back_to_the_last_lot_first() -> None:
    """DED-04: recorded draws are unwound in reverse, never by today's order."""
    scene = lapsed_at(7)
    assert scene.drawn("stream") == {"gift": 4, "paid": 3}
    scene.give("newer", 5)
    scene.charge("stream", 5)
    assert scene.drawn("stream") == {"gift": 4, "paid": 1}
    assert scene.left("gift", "paid", "newer") == {"gift": 0, "paid": 5, "newer": 5}


def test_a_late_release_takes_the_estimate_back() -> None:
    """DED-14: a lapsed call that turns out to have produced nothing is charged zero."""
    scene = lapsed_at(5)
    released = scene.one(scene.release("stream"), Closed)
    assert (released.state, released.charge, released.available) == (CallState.LATE, 0, 10)
    assert scene.one(scene.release("stream"), Closed).exists


def test_what_was_absorbed_at_the_lapse_is_decided_again() -> None:
    """NEG-03: the answer's whole usage is decided when it comes: new credit pays, less is less."""
    scene = lapsed_at(13)
    assert (scene.org.spent, scene.org.absorbed) == (10, 3)
    scene.give("more", 2)
    closed = scene.charge("stream", 13)
    assert (closed.charge, closed.absorbed) == (12, 1)
    assert (scene.org.spent, scene.org.absorbed) == (12, 1)
    assert scene.posted(PostingKind.LATE) == [{Account.CUSTOMER_CREDIT: 2, Account.ABSORBED: -2}]


def test_a_lower_late_answer_is_absorbed_no_more() -> None:
    """NEG-03: below what was charged, nothing is absorbed."""
    scene = lapsed_at(13)
    closed = scene.charge("stream", 9)
    assert (closed.charge, closed.absorbed, scene.org.absorbed) == (9, 0, 0)


def test_a_late_answer_beyond_all_credit_is_owed_where_that_is_chosen() -> None:
    """NEG-03: with ``owe`` the rest of a late answer is debt, in limits and books too."""
    scene = Scene(on_overrun=OnOverrun.OWE)
    scene.set_limit(100)
    lapsed_at(5, scene=scene)
    closed = scene.charge("stream", 14)
    assert (closed.charge, closed.absorbed, closed.owed) == (14, 0, 4)
    assert (scene.org.owed, scene.window().used) == (4, 14)
    assert [facts["absorbed_nanos"] for facts in scene.told("overrun")] == ["0"]


def test_a_late_answer_on_the_floor_is_owed_and_forgiven_first() -> None:
    """NEG-03: what was charged on the floor is the first to be given back."""
    scene = lapsed_at(8, scene=Scene(floor=5))
    scene.hold("other", 2)
    scene.charge("other", 2)
    scene.hold("floored", 4)
    scene.run(scene.report("floored", 4))
    assert scene.vanish("floored").owed == 4
    closed = scene.charge("floored", 1)
    assert (closed.charge, closed.owed, scene.org.owed) == (1, 1, 1)


def test_less_goes_back_to_an_ended_grant_as_breakage() -> None:
    """CRD-10, CRD-11: returned credit of an ended grant is unusable; it is posted for that call."""
    scene = Scene()
    scene.give("gift", 4, ends=NOON + HOUR)
    scene.give("paid", 6, "purchased", ends=NOON + HOUR)
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 5))
    scene.later(HOUR)
    scene.vanish("stream")
    assert scene.lot("paid").expired == 5
    scene.charge("stream", 2)
    assert (scene.lot("gift").expired, scene.lot("paid").expired) == (2, 6)
    assert scene.org.expired == 8
    assert scene.org.spent == 2


def test_what_was_owed_and_repaid_meanwhile_goes_back_to_who_repaid_it() -> None:
    """NEG-03, NEG-04: charge + absorbed is the metered usage, even after the debt was repaid."""
    scene = Scene(floor=10)
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 8))
    assert scene.vanish("stream").owed == 8
    scene.give("first", 3, "purchased")
    scene.give("second", 4, "purchased")
    assert scene.org.owed == 1
    scene.hold("other", 5)
    closed = scene.charge("stream", 2)
    assert (closed.charge, closed.owed) == (2, 2)
    assert (scene.org.owed, scene.org.spent) == (0, 2)
    assert (scene.lot("first").repaid, scene.lot("second").repaid) == (2, 0)
    assert scene.left("first", "second") == {"first": 1, "second": 4}


def test_a_repayment_that_goes_back_to_an_ended_grant_is_breakage() -> None:
    """CRD-10, NEG-04: an ended grant cannot be spent again, whatever comes back to it."""
    scene = Scene(floor=10)
    scene.hold("stream", 5)
    scene.run(scene.report("stream", 5))
    scene.vanish("stream")
    scene.give("paid", 5, "purchased", ends=NOON + HOUR)
    scene.later(HOUR)
    scene.charge("stream", 0)
    assert (scene.lot("paid").expired, scene.org.owed, scene.available) == (5, 0, 0)
