"""Admission: how much output is held for where a caller names no limit of its own."""

from __future__ import annotations

from uuid import UUID

import pytest

from farebox.ledger.admission import affordable_output
from farebox.ledger.commands import Admitted, Refused
from farebox.ledger.counters import Standing
from farebox.ledger.limits import Measure, Micros, Rule, ScopeLimits, Window
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import TOKEN, Scene

OUTPUT = """
# spendable  price     min  max   granted
      1000   1000000     0  9999      250
      1003   1000000     0  9999      250
      1004   1000000     0  9999      251
      1000   1000000   300  9999      300
      1000   1000000     0   100      100
      1000   1000000  9999  9999     9999
      1000    300000     0  9999      833
      1000   2500000     0  9999      100
         0   1000000     0  9999        0
         0   1000000     7  9999        7
        -9   1000000     7  9999        7
         3   1000000     0  9999        0
         0         0     0  9999     9999
"""


@pytest.mark.parametrize("row", [r for r in OUTPUT.strip().splitlines() if "#" not in r])
def test_without_a_client_limit_output_takes_a_quarter(row: str) -> None:
    """NEG-07: the least of the maximum and a quarter of what is spendable, never under the floor.

    A limit that the client named (minimum and maximum alike) is taken as it is.
    """
    spendable, price, low, high, granted = map(int, row.split())
    command = Scene().admit("call", 0, price=price, tokens=(low, high))
    assert affordable_output(command, spendable, []) == granted


def leaving(room: int, measure: Measure = Measure.MONEY) -> Standing:
    """A hard limit of which some is used, some held, and so much left."""
    rule = Rule(measure=measure, maximum=30 + room)
    scope = ScopeLimits(UUID(int=1), ScopeKind.PROJECT, "p", (rule,), {})
    window = Window(Micros(0), Micros(1), 20, 10)
    return Standing(scope, scope.number, rule, rule.number, window, rule.maximum)


ROOM = """
# spendable  room  fixed  price     min  max   granted
       1000    50      0  1000000     0  999       50
       1000    50     20  1000000     0  999       30
       1000    50     20  2500000     0  999       12
       1000    50     50  1000000     0  999        0
       1000    50     60  1000000     0  999        0
       1000    50     20  1000000    40  999       40
       1000   400     20  1000000     0  999      250
"""


@pytest.mark.parametrize("row", [r for r in ROOM.strip().splitlines() if "#" not in r])
def test_output_takes_no_more_than_every_limit_leaves(row: str) -> None:
    """BUD-02: a call without a limit of its own is cut to fit beside its fixed part."""
    spendable, room, fixed, price, low, high, granted = map(int, row.split())
    command = Scene().admit("call", fixed, price=price, tokens=(low, high))
    assert affordable_output(command, spendable, [leaving(room)]) == granted


def test_output_is_cut_to_what_a_spend_limit_leaves() -> None:
    """BUD-02: near its limit an organisation's calls get shorter before they are refused."""
    scene = Scene()
    scene.give("paid", 1000, "purchased")
    scene.set_limit(100)
    for name, granted in (("one", 90), ("two", 0)):
        call = scene.admit(name, 10 if name == "one" else 0, price=TOKEN, tokens=(0, 9999))
        assert scene.one(call, Admitted).output_limit == granted


def test_the_granted_limit_is_what_is_held_for() -> None:
    """NEG-07: the hold is the fixed part plus the granted output, rounded up."""
    scene = Scene()
    scene.give("paid", 1000, "purchased")
    admit = scene.admit("call", 10, price=2_500_001, tokens=(0, 9999))
    admitted = scene.one(admit, Admitted)
    assert (admitted.output_limit, admitted.held) == (99, 10 + 248)
    assert admitted.available == 1000 - 258
    assert scene.open("call").output_limit == 99


def test_the_quarter_shrinks_as_calls_hold() -> None:
    """NEG-07: each call without a limit takes a quarter of what the others left."""
    scene = Scene(floor=24)
    scene.give("paid", 1000, "purchased")
    granted = [
        scene.one(scene.admit(f"call {i}", 0, price=TOKEN, tokens=(0, 9999)), Admitted).held
        for i in range(3)
    ]
    assert granted == [256, 192, 144]


def test_output_under_the_floor_is_refused_not_cut() -> None:
    """NEG-07: where not even the least useful output fits, the call is refused."""
    scene = Scene()
    scene.give("paid", 99, "purchased")
    refused = scene.one(scene.admit("call", 0, price=TOKEN, tokens=(100, 999)), Refused)
    assert (refused.code, refused.needed) == ("credit_balance_exhausted", 100)
