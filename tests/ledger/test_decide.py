"""Deciding a batch: order, several organisations, replays, and rows left alone."""

from __future__ import annotations

from copy import deepcopy
from itertools import permutations
from uuid import UUID

from msgspec import structs

from farebox.ledger.commands import Admitted, AnyCommand, Closed, Done, Granted, Refused
from farebox.ledger.decide import decide
from farebox.ledger.state import Changes
from tests.support.ledger_scenes import HOUR, NOON, Scene


def test_results_come_in_the_order_of_the_commands() -> None:
    """NEG-12: a batch decides what gives before what takes, and answers in the order asked."""
    scene = Scene()
    results = scene.run(scene.admit("call", 5), scene.floor_command(1), scene.grant("lot", 4))
    assert [type(result) for result in results] == [Admitted, Done, Granted]


def test_an_unknown_organization_is_refused_alone() -> None:
    """CRD-18: the rest of the batch goes on."""
    scene = Scene()
    stranger = structs.replace(scene.grant("lot", 5), organization_id=UUID(int=99))
    refused, granted = scene.run(stranger, scene.grant("lot", 5))
    assert isinstance(refused, Refused)
    assert refused.code == "organization_not_found"
    assert isinstance(granted, Granted)


def test_organizations_of_one_batch_do_not_see_each_other() -> None:
    """CRD-18: deciding two together is deciding each alone."""
    one = Scene()
    two = Scene(ledger=one.ledger)
    commands: list[AnyCommand] = [
        one.grant("lot", 5),
        two.grant("lot", 7, "purchased"),
        one.admit("call", 5),
        two.admit("call", 7),
    ]
    alone = deepcopy(one.ledger)
    together = one.run(*commands)
    assert together == [alone.run([command], NOON)[0] for command in commands]
    assert alone.grants == one.ledger.grants
    assert alone.organizations == one.ledger.organizations


def test_nothing_in_nothing_out() -> None:
    """DED-16: an empty batch, and one that is refused, write nothing."""
    scene = Scene()
    assert scene.ledger.decide([], NOON).changes == Changes()
    assert scene.ledger.decide([scene.admit("call", 1)], NOON).changes == Changes()


def test_the_rows_that_come_in_are_left_alone() -> None:
    """DED-16: deciding twice from the same rows gives the same answer; nothing was written."""
    scene = Scene()
    scene.give("paid", 10, "purchased", ends=NOON + HOUR)
    scene.set_limit(20)
    scene.hold("one", 4)
    batch: list[AnyCommand] = [
        scene.settle("one", 6),
        scene.admit("two", 4),
        scene.dispute_command("paid", "opened"),
    ]
    state = scene.ledger.load(batch, NOON)
    before = deepcopy(state)
    first = decide(state, batch, NOON)
    assert state == before
    assert decide(state, batch, NOON) == first


def test_retries_in_any_order_give_the_same_books() -> None:
    """DED-17: replayed in every order, together or one by one, each command has its one effect."""
    scene = Scene()
    scene.give("paid", 20, "purchased")
    commands: list[AnyCommand] = [
        scene.grant("gift", 5),
        scene.admit("call", 6),
        scene.settle("call", 4),
        scene.correct("fix", 1),
        scene.refund("back", "paid", 2),
    ]
    for command in commands:
        scene.run(command)
    before = deepcopy(scene.ledger)
    for order in permutations(commands):
        scene.run(*order)
    for order in list(permutations(commands))[::17]:
        for command in order:
            (answer,) = scene.run(command)
            assert isinstance(answer, Refused) or answer.exists
    assert scene.ledger.organizations == before.organizations
    assert scene.ledger.grants == before.grants
    assert scene.ledger.calls == before.calls
    assert scene.ledger.postings == before.postings


def test_a_hold_changed_and_closed_in_one_batch_is_only_closed() -> None:
    """DED-17: a row that goes away is not written again."""
    scene = Scene()
    scene.give("paid", 20, "purchased")
    scene.hold("call", 6)
    decision = scene.ledger.decide(
        [scene.report("call", 3), scene.settle("call", 4), scene.limit(50)], NOON
    )
    assert decision.changes.holds == []
    assert [closing.call.charge for closing in decision.changes.closings] == [4]
    assert isinstance(decision.results[1], Closed)


def test_a_lapse_and_its_late_answer_may_meet_in_one_batch() -> None:
    """DED-15: the call is closed and corrected at once, and its figures are the answer's."""
    scene = Scene()
    scene.give("paid", 20, "purchased")
    scene.hold("stream", 8)
    scene.run(scene.report("stream", 5))
    scene.fence()
    lapsed, late = scene.run(scene.lapse("stream"), scene.settle("stream", 7))
    assert isinstance(lapsed, Closed)
    assert isinstance(late, Closed)
    assert (lapsed.charge, late.charge, scene.call("stream").late_charge) == (5, 7, 2)
    assert scene.org.spent == 7
