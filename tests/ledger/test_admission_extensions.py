"""Extensions: more held for a call that is under way."""

from __future__ import annotations

from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.commands import Closed, Done, Refused
from farebox.ledger.holds import CallState
from tests.support.ledger_scenes import NOON, Scene


def test_an_extension_holds_more_on_the_same_call() -> None:
    """NEG-02: a running call may take more, earmarked like the first part."""
    scene = Scene(floor=2)
    scene.give("gift", 5)
    scene.give("paid", 5, "purchased")
    scene.hold("call", 4)
    assert scene.one(scene.extend("call", 3), Done) == Done(available=Nanos(3), amount=Nanos(7))
    assert scene.marks("call") == {"gift": 5, "paid": 2}
    assert scene.one(scene.extend("call", 5, step=2), Done).available == -2
    assert (scene.open("call").unsecured, scene.open("call").steps) == (2, 2)
    assert scene.charge("call", 12) == Closed(
        state=CallState.SETTLED,
        charge=Nanos(12),
        absorbed=Nanos(0),
        owed=Nanos(2),
        available=Nanos(-2),
    )


def test_an_extension_sent_again_holds_once() -> None:
    """DED-17: steps are counted, so that a replay is known."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 4)
    scene.one(scene.extend("call", 3), Done)
    again = scene.one(scene.extend("call", 3), Done)
    assert (again.exists, again.amount, again.available) == (True, 7, 3)


def test_an_extension_cannot_wait_for_its_own_hold() -> None:
    """NEG-07: a call whose hold and extension posted money cannot pay together is told at once."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 6)
    final = scene.one(scene.extend("call", 5), Refused)
    assert (final.code, final.blocked_by_holds) == ("credit_balance_exhausted", False)
    scene.hold("other", 4)
    waits = scene.one(scene.extend("call", 4), Refused)
    assert (waits.code, waits.blocked_by_holds) == ("balance_held", True)
    assert scene.open("call").amount == 6


def test_only_the_owner_extends() -> None:
    """NEG-06: an old epoch, another node, an unknown or ended call extend nothing."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 1)
    extend = scene.extend("call", 1)
    scene.ledger.epochs[scene.named("other node")] = 1
    other = structs.replace(extend, node_id=scene.named("other node"))
    assert scene.one(other, Refused).code == "stale_epoch"
    scene.fence()
    assert scene.one(extend, Refused).code == "stale_epoch"
    scene.charge("call", 1)
    assert scene.one(extend, Refused).code == "hold_not_found"
    assert scene.org.spent == 1


def test_a_running_call_extends_though_its_key_was_revoked() -> None:
    """NEG-02: what runs finishes; only new calls are refused."""
    scene = Scene()
    scene.give("paid", 10, "purchased")
    scene.hold("call", 1)
    scene.put_key(revoked_at=NOON)
    assert scene.one(scene.extend("call", 2), Done).amount == 3
    assert scene.refuse("new", 1).code == "key_revoked"
