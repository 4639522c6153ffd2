"""Which grants pay, in text tables."""

from __future__ import annotations

import pytest

from farebox.ledger.commands import Admitted
from tests.support.ledger_scenes import HOUR, NOON, Scene


def scene_of(grants: str) -> Scene:
    """Read grants: ``name source amount [from <hours>] [to <hours>]``, one a line."""
    scene = Scene()
    for line in grants.strip().splitlines():
        name, source, amount, *rest = line.split()
        times = dict(zip(rest[::2], rest[1::2], strict=True))
        scene.give(
            name,
            int(amount),
            source,
            starts=NOON + int(times["from"]) * HOUR if "from" in times else None,
            ends=NOON + int(times["to"]) * HOUR if "to" in times else None,
        )
    return scene


def shares(text: str) -> dict[str, int]:
    """Read ``a 3, b 2``."""
    return {name: int(amount) for name, amount in (part.split() for part in text.split(", "))}


ORDERS = [
    pytest.param(
        """
        paid     purchased  10  to 1
        firm     contract   10  to 2
        gift     free       10
        """,
        25,
        "gift 10, firm 10, paid 5",
        id="class-before-end",
    ),
    pytest.param(
        """
        deal     business    5  to 9
        form     contract    5  to 8
        code     promo       5  to 7
        award    grant       5  to 6
        mend     adjustment  5  to 5
        gift     free        5  to 4
        """,
        27,
        "gift 5, mend 5, award 5, code 5, form 5, deal 2",
        id="every-source-has-its-class",
    ),
    pytest.param(
        """
        never    free        5
        late     free        5  to 48
        soon     free        5  to 24
        """,
        12,
        "soon 5, late 5, never 2",
        id="earliest-end-first-none-last",
    ),
    pytest.param(
        """
        newer    free        5  from -1 to 24
        older    free        5  from -2 to 24
        """,
        6,
        "older 5, newer 1",
        id="same-end-older-first",
    ),
    pytest.param(
        """
        newer    free        5  from -1
        older    free        5  from -2
        """,
        6,
        "older 5, newer 1",
        id="no-end-older-first",
    ),
    pytest.param(
        """
        first    purchased   5  from -1 to 24
        second   purchased   5  from -1 to 24
        """,
        6,
        "first 5, second 1",
        id="a-tie-goes-by-sequence",
    ),
    pytest.param(
        """
        coming   free        5  from 1
        paid     purchased   5
        """,
        5,
        "paid 5",
        id="not-before-its-beginning",
    ),
]


@pytest.mark.parametrize(("grants", "amount", "expected"), ORDERS)
def test_credit_burns_down_in_order(grants: str, amount: int, expected: str) -> None:
    """DED-02, DED-03, DED-04: class, then end, then beginning, then sequence; shares sum up."""
    scene = scene_of(grants)
    scene.hold("call", amount)
    assert scene.marks("call") == shares(expected)
    scene.charge("call", amount)
    assert scene.drawn("call") == shares(expected)
    assert sum(shares(expected).values()) == scene.call("call").charge == amount


def test_the_order_does_not_depend_on_arrival() -> None:
    """DED-03: the same lots in the other order of arrival burn down the same."""
    lines = ["a free 3 to 5", "b free 3 to 4", "c purchased 3 to 3", "d contract 3 to 9"]
    for order in (lines, lines[::-1]):
        scene = scene_of("\n".join(order))
        scene.hold("call", 10)
        assert scene.marks("call") == {"b": 3, "a": 3, "d": 3, "c": 1}


def test_a_hold_rounds_over_lots_and_gives_the_rest_back() -> None:
    """DED-04: a charge below its hold draws the first lots and returns the last earmark whole."""
    scene = scene_of("gift free 4\npaid purchased 10")
    scene.hold("call", 9)
    assert scene.marks("call") == {"gift": 4, "paid": 5}
    scene.charge("call", 3)
    assert scene.drawn("call") == {"gift": 3}
    assert scene.left("gift", "paid") == {"gift": 1, "paid": 10}
    assert scene.org.reserved == 0


def test_free_credit_that_comes_back_is_spent_before_an_own_earmark_on_purchased() -> None:
    """DED-02: a settle draws free credit that nobody holds before purchased credit it holds."""
    scene = scene_of("gift free 5\npaid purchased 10")
    scene.hold("first", 5)
    scene.hold("second", 5)
    assert scene.marks("second") == {"paid": 5}
    scene.run(scene.release("first"))
    scene.charge("second", 5)
    assert scene.drawn("second") == {"gift": 5}
    assert scene.left("paid") == {"paid": 10}


def test_free_credit_that_another_call_holds_is_not_touched() -> None:
    """DED-02: another call's earmark is never drawn, not even to spare purchased credit."""
    scene = scene_of("gift free 5\npaid purchased 10")
    scene.hold("first", 5)
    scene.hold("second", 5)
    scene.charge("second", 5)
    assert scene.drawn("second") == {"paid": 5}
    assert scene.marks("first") == {"gift": 5}


def test_a_top_up_leaves_the_purchased_lot_alone_while_free_credit_remains() -> None:
    """DED-05: after a top-up the free credit is still spent first."""
    scene = scene_of("gift free 5")
    scene.give("paid", 10, "purchased")
    scene.hold("call", 5)
    scene.charge("call", 5)
    assert scene.left("gift", "paid") == {"gift": 0, "paid": 10}


def test_an_own_earmark_on_an_ended_grant_is_drawn_in_its_place_in_the_order() -> None:
    """CRD-10: a call keeps what it earmarked before the end, and draws it in burn-down order."""
    scene = scene_of("ending free 5 to 1\ngift free 5 to 9")
    scene.hold("call", 3)
    scene.later(2 * HOUR)
    scene.charge("call", 2)
    assert scene.drawn("call") == {"ending": 2}
    assert scene.left("ending", "gift") == {"ending": 0, "gift": 5}
    assert scene.lot("ending").expired == 3


def test_free_live_credit_comes_before_an_own_earmark_on_ended_purchased_credit() -> None:
    """DED-02, CRD-10: the class decides, even though the ended earmark becomes breakage."""
    scene = scene_of("paid purchased 5 to 1")
    scene.hold("call", 5)
    scene.give("gift", 5)
    scene.later(2 * HOUR)
    scene.charge("call", 4)
    assert scene.drawn("call") == {"gift": 4}
    assert scene.lot("paid").expired == 5


def test_in_debt_an_ended_earmark_is_drawn_before_live_credit_that_the_debt_stands_on() -> None:
    """CRD-10: where live credit cannot carry the charge, ended earmarks carry what it cannot.

    Otherwise a call that ends within its hold would push the organisation deeper below zero.
    """
    scene = scene_of("paid purchased 5 to 1")
    scene.hold("call", 5)
    scene.owe(3)
    scene.give("gift", 4)
    scene.later(2 * HOUR)
    assert scene.available == 1
    scene.charge("call", 4)
    assert scene.drawn("call") == {"gift": 1, "paid": 3}
    assert scene.available == 0


def test_an_ended_earmark_covers_what_debt_leaves_uncovered_lot_by_lot() -> None:
    """CRD-10: several ended earmarks are drawn in burn-down order, and live credit stays."""
    scene = scene_of("one purchased 2 to 1\ntwo purchased 2 to 1\nlast purchased 2")
    scene.hold("call", 6)
    scene.owe(9)
    scene.give("gift", 9)
    scene.later(2 * HOUR)
    assert scene.available == 0
    scene.charge("call", 5)
    assert scene.drawn("call") == {"gift": 2, "one": 2, "two": 1}
    assert scene.left("last") == {"last": 2}
    assert scene.available == 0


def test_credit_of_the_same_batch_takes_its_place_in_the_order() -> None:
    """DED-02: a grant that comes with a call burns before purchased credit that was there."""
    scene = scene_of("paid purchased 5")
    scene.run(scene.grant("gift", 3), scene.admit("call", 5))
    assert scene.marks("call") == {"gift": 3, "paid": 2}


def test_a_hold_of_nothing_earmarks_nothing() -> None:
    """DED-01: a call with a ceiling of zero is admitted without credit and charged zero."""
    scene = Scene()
    assert scene.one(scene.admit("call", 0), Admitted).held == 0
    assert scene.open("call").earmarks == ()
    assert scene.charge("call", 0).charge == 0
