"""Counting under limits: every kind of scope, every measure, every window, every effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.ledger.commands import Admitted, Done, Refused
from farebox.ledger.limits import Effect, Measure, Period, instant
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, HOUR, MICRO, NOON, TOKEN, Scene


def rich(**settings: Any) -> Scene:
    """A scene in which money is no matter, and a second project with a key."""
    scene = Scene(**settings)
    scene.give("paid", 1_000_000, "purchased")
    scene.put_other_key("other key", "other project")
    return scene


ADA = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}
TOKENS = {"measure": Measure.TOKENS, "period": Period.DAY}
CALLS = {"measure": Measure.CALLS, "period": Period.DAY}
PARALLEL = {"measure": Measure.PARALLEL}

SCOPES: dict[str, tuple[ScopeKind, str, dict[str, Any], dict[str, Any]]] = {
    # name: kind, reference (a name for an id), what is counted, what is not
    "project": (ScopeKind.PROJECT, "project", {}, {"project": "other project", "key": "other key"}),
    "key": (ScopeKind.KEY, "key", {}, {"project": "other project", "key": "other key"}),
    "user": (ScopeKind.USER, "ada", {"user": "ada"}, {"user": "bob"}),
    "feature": (ScopeKind.FEATURE, "search", {"feature": "search"}, {}),
    "environment": (ScopeKind.ENVIRONMENT, "live", {"environment": "live"}, {"environment": "x"}),
    "tag": (ScopeKind.TAG, "team=blue", {"tags": {"a": "b", "team": "blue"}}, {"tags": {"a": "b"}}),
    "run": (ScopeKind.RUN, "r-1", {"run": "r-1"}, {"run": "r-11"}),
}


def on(scene: Scene, name: str) -> dict[str, Any]:
    """The scope of that name, as a limit is set on it."""
    kind, ref, _, _ = SCOPES[name]
    return {
        "scope_kind": kind,
        "scope_ref": scene.named(ref).hex if name in {"project", "key"} else ref,
    }


@pytest.mark.parametrize("name", SCOPES)
def test_a_limit_counts_the_calls_of_its_scope_and_no_others(name: str) -> None:
    """BUD-05, BUD-12..14, LIM-08: money under a project, key, user, feature, tag or run."""
    _, _, mine, others = SCOPES[name]
    scene = rich()
    scene.set_limit(10, **on(scene, name))
    scene.hold("mine", 8, **mine)
    scene.hold("other", 500, **others)
    refused = scene.refuse("more", 3, **mine)
    assert (refused.code, refused.blocked_by_holds) == ("balance_held", True)
    scene.charge("mine", 7)
    scene.charge("other", 400)
    assert scene.counted(**on(scene, name)) == (7, 0)
    assert scene.refuse("more", 4, **mine).code == f"{name}_spend_limit_exceeded"
    scene.hold("fits", 3, **mine)
    assert scene.counted(**on(scene, name)) == (7, 3)


def test_a_call_is_held_to_every_limit_that_it_falls_under() -> None:
    """BUD-02, BUD-05, BUD-10: all of them count it or none does; each refuses by its own name."""
    scene = rich()
    project, key = on(scene, "project"), on(scene, "key")
    scene.set_limit(100)
    scene.set_limit(50, **project)
    scene.set_limit(20, **key)
    scene.set_limit(9, **ADA)
    assert scene.refuse("one", 10, user="ada").code == "user_spend_limit_exceeded"
    assert scene.counted(**ADA) == (0, 0)
    scene.hold("two", 20)
    scene.charge("two", 20)
    assert scene.refuse("three", 1).code == "key_spend_limit_exceeded"
    scene.set_limit(200, **key)
    assert scene.refuse("four", 31).code == "project_spend_limit_exceeded"
    scene.put_other_key("second key", "project")
    scene.set_limit(200, **project)
    assert scene.refuse("five", 81, key="second key").code == "organization_spend_limit_exceeded"
    assert [scene.counted(), scene.counted(**project), scene.counted(**key)] == [(20, 0)] * 3


def test_one_scope_has_limits_of_every_measure_and_window() -> None:
    """BUD-12, BUD-16, LIM-01: money a month and a day, tokens in all, calls a minute, parallel."""
    scene = rich()
    which: list[tuple[int, dict[str, Any]]] = [
        (50, {"period": Period.MONTH}),
        (20, {"period": Period.DAY}),
        (100, {"measure": Measure.TOKENS, "period": Period.TOTAL}),
        (3, {"measure": Measure.CALLS, "period": Period.MINUTE}),
        (2, PARALLEL),
    ]
    for maximum, what in which:
        scene.set_limit(maximum, **ADA, **what)
    call = scene.admit("one", 5, tokens=(7, 7), input_tokens=20, user="ada")
    scene.one(call, Admitted)
    assert [scene.counted(**ADA, **what) for _, what in which] == [
        (0, 5),
        (0, 5),
        (0, 27),
        (0, 1),
        (0, 1),
    ]
    scene.charge("one", 3, tokens=9)
    assert [scene.counted(**ADA, **what) for _, what in which] == [
        (3, 0),
        (3, 0),
        (9, 0),
        (1, 0),
        (0, 0),
    ]


def test_tokens_are_held_for_the_most_and_counted_as_used() -> None:
    """BUD-12: input at its bound plus granted output are reserved; what was used stays."""
    scene = rich()
    limit = ADA | {"measure": Measure.TOKENS, "period": Period.TOTAL}
    scene.set_limit(100, **limit)
    scene.one(scene.admit("one", 0, tokens=(30, 30), input_tokens=40, user="ada"), Admitted)
    assert scene.counted(**limit) == (0, 70)
    waits = scene.one(scene.admit("two", 0, tokens=(31, 31), user="ada"), Refused)
    assert (waits.code, waits.blocked_by_holds) == ("balance_held", True)
    scene.charge("one", 0, tokens=80)
    assert scene.counted(**limit) == (80, 0)
    refused = scene.one(scene.admit("two", 0, tokens=(21, 21), user="ada"), Refused)
    assert refused.code == "user_token_limit_exceeded"
    scene.one(scene.admit("two", 0, tokens=(12, 12), input_tokens=8, user="ada"), Admitted)


def test_output_without_a_limit_of_its_own_is_cut_to_the_tokens_left() -> None:
    """BUD-12: near its cap a run's answers get shorter before its calls are refused."""
    scene = rich()
    limit = {"scope_kind": ScopeKind.RUN, "scope_ref": "r", "measure": Measure.TOKENS}
    scene.set_limit(100, **limit, period=Period.TOTAL)
    for name, granted in (("one", 70), ("two", 0)):
        call = scene.admit(name, 0, price=TOKEN, tokens=(0, 9_000), input_tokens=30, run="r")
        if granted:
            assert scene.one(call, Admitted).output_limit == granted
        else:
            assert scene.one(call, Refused).code == "balance_held"


def test_calls_count_whatever_becomes_of_them() -> None:
    """LIM-03: settled, released, lapsed and late calls are one call each; open ones too."""
    scene = rich()
    scene.set_limit(4, **ADA, **CALLS)
    for name in ("settled", "released", "lapsed", "open"):
        scene.hold(name, 5, user="ada")
    scene.charge("settled", 5)
    scene.run(scene.release("released"))
    scene.vanish("lapsed")
    assert scene.counted(**ADA, **CALLS) == (3, 1)
    scene.charge("lapsed", 4)
    assert scene.counted(**ADA, **CALLS) == (3, 1)
    refused = scene.refuse("fifth", 5, user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("user_call_limit_exceeded", False)


def test_open_calls_give_no_call_back_to_wait_for() -> None:
    """LIM-03: an admitted call counts in any case, so waiting for it helps nobody."""
    scene = rich()
    scene.set_limit(1, **ADA, **CALLS)
    scene.hold("open", 5, user="ada")
    refused = scene.refuse("next", 5, user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("user_call_limit_exceeded", False)


def test_calls_in_parallel_end_and_make_room() -> None:
    """LIM-01: as many open calls as the limit says, and the next may wait for one to end."""
    scene = rich()
    scene.set_limit(2, **ADA, **PARALLEL)
    scene.hold("one", 5, user="ada")
    scene.hold("two", 5, user="ada")
    refused = scene.refuse("three", 5, user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("rate_limit_exceeded", True)
    scene.run(scene.release("two"))
    scene.hold("three", 5, user="ada")
    assert scene.counted(**ADA, **PARALLEL) == (0, 2)


def test_none_in_parallel_is_nothing_to_wait_for() -> None:
    """LIM-01: where no call may run, none ends and makes room."""
    scene = rich()
    scene.set_limit(0, **ADA, **PARALLEL)
    refused = scene.refuse("one", 5, user="ada")
    assert (refused.code, refused.blocked_by_holds) == ("rate_limit_exceeded", False)


WINDOWS = """
# period   now                          last instant of the window       zone
minute     2027-03-10T12:00:30+00:00    2027-03-10T12:00:59.999999+00:00  UTC
utc_day    2027-03-10T12:00:00+00:00    2027-03-10T23:59:59.999999+00:00  Asia/Kolkata
day        2027-03-10T12:00:00+00:00    2027-03-10T18:29:59.999999+00:00  Asia/Kolkata
week       2027-03-10T12:00:00+00:00    2027-03-14T18:29:59.999999+00:00  Asia/Kolkata
month      2027-03-10T12:00:00+00:00    2027-03-31T18:29:59.999999+00:00  Asia/Kolkata
day        2027-03-28T00:30:00+00:00    2027-03-28T21:59:59.999999+00:00  Europe/Berlin
"""


@pytest.mark.parametrize("row", [r for r in WINDOWS.strip().splitlines() if "#" not in r])
def test_a_window_turns_to_the_microsecond(row: str) -> None:
    """BUD-01, LIM-01: rates by UTC, budgets by the organisation's calendar; then all is free."""
    period, now, last, zone = row.split()
    scene = rich(now=datetime.fromisoformat(now), zone=zone)
    limit = ADA | {"period": Period(period)}
    scene.set_limit(10, **limit)
    scene.hold("one", 10, user="ada")
    scene.charge("one", 10)
    scene.now = datetime.fromisoformat(last)
    refused = scene.refuse("two", 1, user="ada")
    assert refused.limit is not None
    assert refused.limit.resets_at == scene.now + MICRO
    scene.later(MICRO)
    scene.hold("two", 10, user="ada")
    assert instant(scene.window(**limit).start) == scene.now


def test_a_total_never_turns() -> None:
    """BUD-12: a run's cap is a cap of the whole run."""
    scene = rich()
    limit = {"scope_kind": ScopeKind.RUN, "scope_ref": "r", "period": Period.TOTAL}
    scene.set_limit(10, **limit)
    scene.hold("one", 10, run="r")
    scene.charge("one", 10)
    scene.now = datetime(2090, 1, 1, tzinfo=UTC)
    refused = scene.refuse("two", 1, run="r")
    assert refused.limit is not None
    assert refused.limit.resets_at is None


def test_a_call_belongs_to_the_window_of_its_admission() -> None:
    """LIM-01, BUD-01: what it used counts there, also when it ends in a later window."""
    scene = rich()
    limit = ADA | {"measure": Measure.TOKENS, "period": Period.MINUTE}
    scene.set_limit(100, **limit)
    scene.one(scene.admit("one", 5, tokens=(60, 60), user="ada"), Admitted)
    scene.later(timedelta(minutes=1))
    scene.one(scene.admit("two", 5, tokens=(100, 100), user="ada"), Admitted)
    scene.charge("one", 5, tokens=44)
    assert [(w.used, w.held) for w in scene.windows(**limit)] == [(44, 0), (0, 100)]


@pytest.mark.parametrize("effect", [Effect.ALERT, Effect.SHADOW])
@pytest.mark.parametrize("what", [{}, TOKENS, CALLS, PARALLEL])
def test_alerts_and_shadows_count_and_never_refuse(effect: Effect, what: dict[str, Any]) -> None:
    """BUD-03, BUD-04: they see everything and stop nothing, not even an overrun's charge."""
    scene = rich()
    limit = ADA | what | {"effect": effect}
    scene.set_limit(0, **limit)
    for name in ("one", "two"):
        scene.one(scene.admit(name, 5, tokens=(3, 3), input_tokens=4, user="ada"), Admitted)
    held = {"tokens": 14, "calls": 2, "parallel": 2}.get(str(what.get("measure")), 10)
    assert scene.counted(**limit) == (0, held)
    scene.one(scene.extend("one", 5, tokens=1), Done)
    assert scene.charge("one", 20, tokens=30).charge == 20
    used = {"tokens": 30, "calls": 1, "parallel": 0}.get(str(what.get("measure")), 20)
    assert scene.counted(**limit)[0] == used
    ((figures,),) = (
        new.limits
        for new in scene.ledger.decide([scene.admit("four", 1, user="ada")], NOON).changes.new_holds
    )
    assert (figures.effect, figures.maximum) == (effect, 0)


def test_a_soft_and_a_hard_limit_stand_beside_each_other() -> None:
    """BUD-04: the same measure and window, two settings, two counters."""
    scene = rich()
    scene.set_limit(10, **ADA)
    scene.set_limit(4, **ADA, effect=Effect.ALERT)
    scene.hold("one", 6, user="ada")
    assert scene.refuse("two", 5, user="ada").code == "balance_held"
    scene.set_limit(None, **ADA)
    scene.hold("two", 5, user="ada")
    assert scene.counted(**ADA, effect=Effect.ALERT) == (0, 11)


MODELS = """
# filter    counted                     not counted
gpt-5.4     gpt-5.4                     gpt-5.4-mini gpt-5 GPT-5.4
gpt-5*      gpt-5,gpt-5.4,gpt-5-mini    gpt-4o o3
*           gpt-5,o3                    -
"""


@pytest.mark.parametrize("row", [r for r in MODELS.strip().splitlines() if "#" not in r])
def test_a_limit_on_models_counts_only_those(row: str) -> None:
    """BUD-13: an exact name, or the beginning of one."""
    models, yes, *no = row.split()
    counted, others = yes.split(","), [name for name in no if name != "-"]
    scene = rich()
    limit = ADA | {"models": models}
    scene.set_limit(len(counted), **limit)
    for name in others:
        scene.hold(f"other {name}", 500, user="ada", model=name)
    for name in counted:
        scene.hold(name, 1, user="ada", model=name)
        scene.charge(name, 1)
    for name in counted:
        assert scene.refuse(f"again {name}", 1, user="ada", model=name).limit is not None
    assert scene.counted(**limit) == (len(counted), 0)


def test_limits_on_models_and_on_all_of_them_are_counted_apart() -> None:
    """BUD-13: one scope may have both, and a call may fall under both."""
    scene = rich()
    scene.set_limit(10, **ADA)
    scene.set_limit(4, **ADA, models="gpt-5*")
    scene.hold("large", 4, user="ada", model="gpt-5.4")
    refused = scene.refuse("more", 1, user="ada", model="gpt-5")
    assert refused.limit is not None
    assert refused.limit.models == "gpt-5*"
    scene.hold("small", 6, user="ada", model="o3")
    assert [scene.counted(**ADA)[1], scene.counted(**ADA, models="gpt-5*")[1]] == [10, 4]


def test_an_extension_fits_under_every_limit_or_changes_nothing() -> None:
    """BUD-02, BUD-12: money and tokens of the windows of admission; no call is counted twice."""
    scene = rich()
    tokens, calls = ADA | TOKENS, ADA | CALLS
    scene.set_limit(20, **ADA)
    scene.set_limit(50, **tokens)
    scene.set_limit(1, **calls)
    scene.one(scene.admit("one", 10, tokens=(30, 30), user="ada"), Admitted)
    assert scene.one(scene.extend("one", 11, tokens=5), Refused).limit is not None
    refused = scene.one(scene.extend("one", 5, tokens=21), Refused)
    assert (refused.code, refused.blocked_by_holds) == ("user_token_limit_exceeded", False)
    assert [scene.counted(**limit) for limit in (ADA, tokens, calls)] == [(0, 10), (0, 30), (0, 1)]
    scene.later(DAY)
    scene.one(scene.extend("one", 5, tokens=20), Done)
    assert [scene.counted(**limit) for limit in (ADA, tokens, calls)] == [(0, 15), (0, 50), (0, 1)]
    scene.charge("one", 12, tokens=41)
    assert [scene.counted(**limit) for limit in (ADA, tokens, calls)] == [(12, 0), (41, 0), (1, 0)]


@pytest.mark.parametrize("what", [TOKENS, CALLS, PARALLEL])
def test_a_lowered_limit_stops_no_extension_that_asks_nothing_of_it(what: dict[str, Any]) -> None:
    """BUD-02: a running call goes on where it needs no more of what is short."""
    scene = rich()
    scene.set_limit(10, **ADA, **what)
    scene.one(scene.admit("one", 5, tokens=(6, 6), user="ada"), Admitted)
    scene.set_limit(0, **ADA, **what)
    assert scene.one(scene.extend("one", 5), Done).amount == 10
    assert isinstance(scene.run(scene.admit("two", 0, tokens=(1, 1), user="ada"))[0], Refused)


def test_a_call_of_no_price_does_not_pass_a_limit_that_is_over_its_maximum() -> None:
    """BUD-02: beyond the maximum nothing new leaves, be it free."""
    scene = rich()
    scene.set_limit(10, **ADA)
    scene.hold("one", 10, user="ada")
    scene.charge("one", 10)
    scene.hold("free", 0, user="ada")
    scene.set_limit(9, **ADA)
    assert scene.refuse("freer", 0, user="ada").code == "user_spend_limit_exceeded"


def test_an_overrun_is_charged_as_far_as_every_limit_of_the_call_allows() -> None:
    """BUD-02: what goes beyond the narrowest of them is absorbed; tokens are counted as used."""
    scene = rich()
    scene.set_limit(100)
    scene.set_limit(30, **on(scene, "project"))
    scene.set_limit(14, **ADA)
    scene.set_limit(20, **ADA, **TOKENS)
    scene.one(scene.admit("one", 10, tokens=(6, 6), user="ada"), Admitted)
    closed = scene.charge("one", 40, tokens=300)
    assert (closed.charge, closed.absorbed) == (14, 26)
    assert [scene.counted(), scene.counted(**ADA), scene.counted(**ADA, **TOKENS)] == [
        (14, 0),
        (14, 0),
        (300, 0),
    ]


def test_a_late_answer_counts_in_the_windows_of_its_admission() -> None:
    """BUD-02: money and tokens move by the difference; the call was counted when it lapsed."""
    scene = rich()
    tokens, calls, week = ADA | TOKENS, ADA | CALLS, ADA | {"period": Period.WEEK}
    for limit in (tokens, calls, week):
        scene.set_limit(1_000, **limit)
    for name in ("up", "down"):
        scene.hold(name, 10, user="ada")
        scene.run(scene.report(name, 6))
    scene.fence()
    scene.run(scene.lapse("up"), scene.lapse("down"))
    assert [scene.counted(**limit) for limit in (tokens, calls, week)] == [(14, 0), (2, 0), (12, 0)]
    scene.later(DAY)
    scene.hold("next day", 1, user="ada")
    scene.charge("up", 9, tokens=100)
    scene.charge("down", 1, tokens=2)
    assert [(w.used, w.held) for w in scene.windows(**tokens)] == [(102, 0), (0, 0)]
    assert [(w.used, w.held) for w in scene.windows(**calls)] == [(2, 0), (0, 1)]
    assert [(w.used, w.held) for w in scene.windows(**week)] == [(10, 1)]


def test_an_answer_later_than_its_rate_counts_nowhere() -> None:
    """LIM-01: a minute that has passed decides nothing any more."""
    scene = rich()
    limit = ADA | {"measure": Measure.TOKENS, "period": Period.MINUTE}
    scene.set_limit(1_000, **limit)
    scene.hold("one", 10, user="ada")
    scene.vanish("one")
    scene.later(HOUR)
    scene.hold("two", 1, user="ada")
    scene.charge("one", 9, tokens=100)
    assert [(w.used, w.held) for w in scene.windows(**limit)] == [(0, 0)]


def test_a_temporary_raise_ends_by_itself() -> None:
    """BUD-16: until its instant the raised maximum holds, and then the limit's own again."""
    scene = rich()
    scene.set_limit(10, **ADA, raised_to=30, raised_until=NOON + DAY)
    refused = scene.refuse("one", 31, user="ada")
    assert refused.limit is not None
    assert refused.limit.maximum == 30
    scene.hold("one", 25, user="ada")
    scene.charge("one", 25)
    scene.later(DAY - MICRO)
    scene.hold("two", 5, user="ada")
    scene.run(scene.release("two"))
    scene.later(MICRO)
    refused = scene.refuse("three", 1, user="ada")
    assert refused.limit is not None
    assert (refused.limit.maximum, refused.limit.used) == (10, 25)
    scene.set_limit(10, **ADA, raised_to=26)
    assert scene.hold("three", 1, user="ada").held == 1


def test_a_campaign_begins_and_ends_by_itself() -> None:
    """BUD-16: between its two instants, in a window that began before it."""
    scene = rich()
    scene.set_limit(10, **ADA, raised_to=30, raised_from=NOON + HOUR, raised_until=NOON + DAY)
    assert scene.refuse("early", 11, user="ada").code == "user_spend_limit_exceeded"
    scene.later(HOUR)
    scene.hold("within", 30, user="ada")
    scene.run(scene.release("within"))
    scene.later(DAY - HOUR)
    assert scene.refuse("late", 11, user="ada").code == "user_spend_limit_exceeded"


def test_a_raise_may_also_lower() -> None:
    """BUD-16: dated windows of less work the same way."""
    scene = rich()
    scene.set_limit(10, **ADA, raised_to=0, raised_until=NOON + HOUR)
    assert scene.refuse("one", 1, user="ada").code == "user_spend_limit_exceeded"
    scene.later(HOUR)
    scene.hold("one", 10, user="ada")
