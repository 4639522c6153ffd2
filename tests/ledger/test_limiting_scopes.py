"""Limits of every scope and measure that begin, end and change in the middle of traffic."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from farebox.ledger.commands import Admitted, AnyCommand, Refused
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, HOUR, Scene

TAG = {"scope_kind": ScopeKind.TAG, "scope_ref": "team=blue"}
MEASURES: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, int]]] = {
    # name: the limit, what is counted at its beginning, and when every call has ended
    "money": ({}, (9 + 4 + 2, 20), (9 + 4 + 2 + 13, 0)),
    "tokens": ({"measure": Measure.TOKENS}, (90 + 40 + 2, 35), (90 + 40 + 2 + 17, 0)),
    "calls": ({"measure": Measure.CALLS}, (4, 1), (5, 0)),
    "parallel": ({"measure": Measure.PARALLEL}, (0, 1), (0, 0)),
    "one model": ({"models": "gpt-5"}, (9, 0), (9, 0)),
    "a family": ({"models": "gpt*", "period": Period.DAY}, (9 + 4 + 2, 20), (9 + 4 + 2 + 13, 0)),
    "a minute": ({"period": Period.MINUTE}, (4, 20), (4 + 13, 0)),
    "in all": ({"period": Period.TOTAL}, (9 + 4 + 2, 20), (9 + 4 + 2 + 13, 0)),
}
SCOPES: dict[str, dict[str, Any]] = {
    "organization": {},
    "project": {"scope_kind": ScopeKind.PROJECT, "scope_ref": "project"},
    "key": {"scope_kind": ScopeKind.KEY, "scope_ref": "key"},
    "user": {"scope_kind": ScopeKind.USER, "scope_ref": "ada"},
    "feature": {"scope_kind": ScopeKind.FEATURE, "scope_ref": "search"},
    "environment": {"scope_kind": ScopeKind.ENVIRONMENT, "scope_ref": "live"},
    "tag": TAG,
    "run": {"scope_kind": ScopeKind.RUN, "scope_ref": "r"},
}
MINE: dict[str, Any] = {
    "user": "ada",
    "run": "r",
    "tags": {"team": "blue"},
    "feature": "search",
    "environment": "live",
}
OTHERS: dict[str, Any] = {"user": "bob", "project": "other project", "key": "other key"}


def rich(**settings: Any) -> Scene:
    """A scene in which money is no matter, and a second project with a key."""
    scene = Scene(**settings)
    scene.give("paid", 1_000_000, "purchased")
    scene.put_other_key("other key", "other project")
    return scene


def of(scene: Scene, scope: dict[str, Any]) -> dict[str, Any]:
    """A scope, with the id behind a name where it is known by one."""
    if scope.get("scope_kind") in {ScopeKind.PROJECT, ScopeKind.KEY}:
        return scope | {"scope_ref": scene.named(scope["scope_ref"]).hex}
    return scope


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", SCOPES)
def test_a_limit_begins_exactly_in_the_middle(name: str, measure: str) -> None:
    """BUD-02, BUD-12..14, LIM-08: rows, open holds and what its own batch settles, each once.

    In the batch of the limit, before and after it: a settlement, a release and a late answer.
    """
    what, begun, ended = MEASURES[measure]
    scene = rich()
    others = {} if name == "organization" else OTHERS
    limit = of(scene, SCOPES[name]) | what
    scene.hold("closed", 10, **MINE, model="gpt-5")
    scene.charge("closed", 9, tokens=90)
    scene.hold("late", 10, **MINE, model="gpt-4o")
    scene.run(scene.report("late", 6))
    scene.fence()
    scene.run(scene.lapse("late"))
    scene.later(timedelta(minutes=1))
    for call in ("settled", "released", "open"):
        about = scene.admit(call, 20, tokens=(15, 15), input_tokens=20, **MINE, model="gpt-4o")
        scene.one(about, Admitted)
    if others:
        scene.hold("other", 500, **others)
        scene.hold("other open", 500, **others)
    before: list[AnyCommand] = [scene.settle("settled", 4, tokens=40), scene.release("released")]
    after: list[AnyCommand] = [scene.settle("late", 2, tokens=2)]
    if others:
        after.append(scene.settle("other", 400, tokens=4_000))
    scene.run(*before, scene.limit(1_000, **limit), *after)
    assert scene.counted(**limit) == begun
    scene.charge("open", 13, tokens=17)
    assert scene.counted(**limit) == ended


@pytest.mark.parametrize("name", SCOPES)
def test_a_limit_that_ends_leaves_other_limits_alone(name: str) -> None:
    """BUD-02: its counters come off the holds, the others' stay and are undone in the end."""
    scene = rich()
    limit = of(scene, SCOPES[name])
    scene.set_limit(100, **limit)
    scene.set_limit(100, **limit, measure=Measure.TOKENS)
    scene.set_limit(100, **limit, measure=Measure.PARALLEL)
    scene.one(scene.admit("one", 20, tokens=(7, 7), **MINE), Admitted)
    scene.set_limit(None, **limit)
    assert len(scene.open("one").raised) == 2
    assert scene.windows(**limit) == []
    scene.charge("one", 12, tokens=6)
    assert scene.counted(**limit, measure=Measure.TOKENS) == (6, 0)
    assert scene.counted(**limit, measure=Measure.PARALLEL) == (0, 0)


def test_a_limit_may_come_and_go_within_one_batch() -> None:
    """BUD-02: each beginning counts anew, whatever happened before it in the batch."""
    scene = rich()
    scene.hold("one", 20, **MINE)
    scene.run(
        scene.limit(100, **TAG),
        scene.settle("one", 12),
        scene.limit(None, **TAG),
        scene.limit(50, **TAG),
        scene.admit("two", 38, **MINE),
    )
    assert scene.counted(**TAG) == (12, 38)


# --- defaults ----------------------------------------------------------------------------------

EVERYBODY = {"scope_kind": ScopeKind.USER, "scope_ref": ""}
ADA = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}
BOB = {"scope_kind": ScopeKind.USER, "scope_ref": "bob"}


def test_a_default_holds_for_scopes_not_seen_before() -> None:
    """BUD-14: each user by themselves, from their first call on; who names none has no limit."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    assert scene.refuse("too much", 11, user="ada").code == "user_spend_limit_exceeded"
    scene.hold("ada", 10, user="ada")
    scene.hold("bob", 9, user="bob")
    scene.hold("nobody", 500)
    assert scene.refuse("ada again", 1, user="ada").limit is not None
    scene.hold("bob again", 1, user="bob")
    assert [scene.counted(**ADA), scene.counted(**BOB)] == [(0, 10), (0, 10)]
    scene.charge("ada", 4)
    assert scene.counted(**ADA) == (4, 0)


def test_many_new_scopes_may_come_in_one_batch() -> None:
    """BUD-14: the first calls of a user in one batch share the user's limit."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    users = ("ada", "bob", "ada", "ada", "bob")
    results = scene.run(*(scene.admit(f"call {n}", 4, user=user) for n, user in enumerate(users)))
    assert [isinstance(each, Admitted) for each in results] == [True, True, True, False, True]
    assert [scene.counted(**ADA), scene.counted(**BOB)] == [(0, 8), (0, 8)]


def test_a_default_begins_when_it_is_set() -> None:
    """BUD-14: calls admitted before are not counted, be they open, settled or late."""
    scene = rich()
    for name in ("settled", "open", "lapsed"):
        scene.hold(name, 10, user="ada")
    scene.charge("settled", 10)
    scene.vanish("lapsed")
    scene.run(scene.admit("same batch", 10, user="ada"), scene.limit(10, **EVERYBODY))
    scene.run(scene.settle("open", 9), scene.settle("lapsed", 9))
    assert scene.counted(**ADA) == (0, 10)
    assert scene.refuse("over", 1, user="ada").limit is not None
    scene.charge("same batch", 7)
    assert scene.counted(**ADA) == (7, 0)


def test_an_own_limit_stands_in_place_of_the_default() -> None:
    """BUD-14: it counts the whole window; other limits of the default stay."""
    scene = rich()
    scene.hold("before", 7, user="ada")
    scene.charge("before", 7)
    scene.set_limit(10, **EVERYBODY)
    scene.set_limit(2, **EVERYBODY, measure=Measure.PARALLEL)
    scene.hold("one", 5, user="ada")
    scene.set_limit(100, **ADA)
    assert scene.counted(**ADA) == (7, 5)
    scene.hold("two", 50, user="ada")
    assert scene.refuse("three", 1, user="ada").code == "rate_limit_exceeded"
    assert scene.refuse("bob", 11, user="bob").code == "user_spend_limit_exceeded"


def test_without_its_own_limit_a_scope_falls_back_to_the_default() -> None:
    """BUD-14: with what its window has counted; open holds stay counted."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    scene.later(31 * DAY)
    scene.set_limit(100, **ADA)
    scene.hold("one", 40, user="ada")
    scene.charge("one", 40)
    scene.hold("two", 20, user="ada")
    scene.set_limit(None, **ADA)
    assert scene.counted(**ADA) == (40, 20)
    assert scene.refuse("three", 1, user="ada").code == "user_spend_limit_exceeded"
    scene.charge("two", 15)
    assert scene.counted(**ADA) == (55, 0)


def test_a_late_answer_is_counted_by_the_default_that_has_taken_over() -> None:
    """BUD-14: the call had lapsed at nothing when the scope's own limit was removed."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    scene.set_limit(100, **ADA)
    scene.hold("late", 10, user="ada")
    scene.vanish("late")
    scene.set_limit(None, **ADA)
    scene.charge("late", 10)
    assert scene.counted(**ADA) == (10, 0)
    assert scene.refuse("over", 1, user="ada").code == "user_spend_limit_exceeded"


def test_a_default_that_was_set_later_counts_what_came_since() -> None:
    """BUD-14: falling back, the scope has used what calls since the default's beginning used."""
    scene = rich()
    scene.set_limit(1_000, **ADA)
    scene.hold("before", 40, user="ada")
    scene.hold("open before", 70, user="ada")
    scene.charge("before", 40)
    scene.later(HOUR)
    scene.set_limit(100, **EVERYBODY)
    scene.hold("since", 30, user="ada")
    scene.charge("since", 30)
    scene.hold("open", 20, user="ada")
    assert scene.counted(**ADA) == (70, 90)
    scene.hold("same batch", 5, user="ada")
    scene.run(scene.settle("same batch", 5), scene.limit(None, **ADA))
    assert scene.counted(**ADA) == (35, 20)
    assert scene.refuse("more", 46, user="ada").limit is not None
    scene.charge("open before", 70)
    scene.charge("open", 11)
    assert scene.counted(**ADA) == (46, 0)
    scene.set_limit(1_000, **ADA)
    assert scene.counted(**ADA) == (40 + 70 + 30 + 5 + 11, 0)


def test_a_default_that_is_set_again_begins_anew() -> None:
    """BUD-14: what was counted before it was removed is forgotten, open holds included."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    scene.hold("one", 10, user="ada")
    scene.hold("two", 10, user="bob")
    scene.set_limit(None, **EVERYBODY)
    scene.hold("three", 500, user="ada")
    scene.later(HOUR)
    scene.set_limit(10, **EVERYBODY)
    scene.hold("four", 10, user="ada")
    scene.charge("one", 500)
    scene.charge("four", 6)
    assert (scene.counted(**ADA), len(scene.windows(**ADA))) == ((6, 0), 1)
    # Bob's old window limits nothing more, and is forgotten with his next call.
    assert scene.charge("two", 30).charge == 30
    scene.hold("five", 1, user="bob")
    assert [(w.used, w.held) for w in scene.windows(**BOB)] == [(0, 1)]


def test_a_default_may_change_its_maximum_and_keeps_its_counters() -> None:
    """BUD-14: changing is no new beginning."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    scene.hold("one", 8, user="ada")
    scene.set_limit(8, **EVERYBODY)
    scene.charge("one", 8)
    assert scene.refuse("two", 1, user="ada").code == "user_spend_limit_exceeded"
    scene.set_limit(9, **EVERYBODY)
    scene.hold("two", 1, user="ada")
    assert scene.counted(**ADA) == (8, 1)


def test_what_is_counted_by_default_is_undone_when_the_default_has_gone() -> None:
    """NEG-02: no missing limit can stop a charge, an extension or a late answer."""
    scene = rich()
    scene.set_limit(10, **EVERYBODY)
    for name in ("one", "lapsed"):
        scene.hold(name, 5, user="ada")
    scene.vanish("lapsed")
    scene.set_limit(None, **EVERYBODY)
    scene.run(scene.extend("one", 100))
    assert scene.charge("one", 200).charge == 200
    assert scene.charge("lapsed", 50).charge == 50


@pytest.mark.parametrize("what", [{"measure": Measure.PARALLEL}, {"measure": Measure.CALLS}])
def test_defaults_count_calls_too(what: dict[str, Any]) -> None:
    """BUD-14, LIM-01: each user so many calls, each run so many at a time."""
    scene = rich()
    scene.set_limit(1, **EVERYBODY, **what)
    scene.hold("one", 5, user="ada")
    assert scene.refuse("two", 5, user="ada").limit is not None
    scene.hold("bob", 5, user="bob")
    scene.set_limit(2, **ADA, **what)
    scene.hold("two", 5, user="ada")
    scene.set_limit(None, **ADA, **what)
    assert scene.refuse("three", 5, user="ada").limit is not None
    assert scene.counted(**ADA, **what) == (0, 2)


class Wishes:
    """Commands by chance, about a few users, a tag, and limits on them that come and go."""

    SCOPES = (
        EVERYBODY,
        EVERYBODY,
        ADA,
        BOB,
        TAG,
        {"scope_kind": ScopeKind.TAG, "scope_ref": ""},
    )

    MEASURES = (Measure.MONEY, Measure.TOKENS, Measure.CALLS, Measure.PARALLEL)

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene, self.chance = scene, chance
        self.names: list[str] = []

    def any(self) -> AnyCommand:
        """A limit, a call, or what becomes of one that is or was open."""
        if not self.names or self.chance.random() < 0.3:
            return self.admit()
        makers = (self.limit, self.extend, self.report, self.lapse, self.release, self.settle)
        return self.chance.choices(makers, (6, 1, 1, 2, 1, 5))[0]()

    def admit(self) -> AnyCommand:
        low = self.chance.randrange(20)
        self.names.append(f"call {len(self.names)}")
        return self.scene.admit(
            self.names[-1],
            self.chance.randrange(40),
            tokens=(low, low),
            user=self.chance.choice(("", "ada", "bob")),
            tags=self.chance.choice(({}, {"team": "blue"})),
            model=self.chance.choice(("gpt-5", "o3")),
        )

    def limit(self) -> AnyCommand:
        maximum = self.chance.choice((None, 20, 100, 300))
        which = {
            "measure": self.chance.choice(self.MEASURES),
            "period": self.chance.choice((Period.MINUTE, Period.DAY, Period.MONTH, Period.TOTAL)),
            "models": self.chance.choice(("", "gpt*")),
        }
        return self.scene.limit(maximum, **self.chance.choice(self.SCOPES), **which)

    def extend(self) -> AnyCommand:
        step, amount = self.chance.randint(1, 2), self.chance.randrange(1, 20)
        return self.scene.extend(self.chance.choice(self.names), amount, step=step, tokens=3)

    def report(self) -> AnyCommand:
        return self.scene.report(self.chance.choice(self.names), self.chance.randrange(30))

    def lapse(self) -> AnyCommand:
        return self.scene.lapse(self.chance.choice(self.names))

    def release(self) -> AnyCommand:
        return self.scene.release(self.chance.choice(self.names))

    def settle(self) -> AnyCommand:
        metered, tokens = self.chance.randrange(60), self.chance.randrange(50)
        return self.scene.settle(self.chance.choice(self.names), metered, tokens=tokens)


@pytest.mark.parametrize("seed", range(20))
def test_counters_stay_sound_whatever_is_set_in_between(seed: int) -> None:
    """BUD-14, ENGINE "Limits": after every batch each counter is what its own calls say.

    Scenes audit every batch: used and held of every window are recomputed from calls and holds.
    """
    chance = random.Random(seed)
    scene = rich(zone=chance.choice(("UTC", "Asia/Kolkata", "America/St_Johns")))
    wishes = Wishes(scene, chance)
    refused = 0
    for _ in range(60):
        scene.later(chance.choice((timedelta(0), timedelta(seconds=20), HOUR, 13 * HOUR)))
        if chance.random() < 0.1:
            scene.fence()
        results = scene.run(*(wishes.any() for _ in range(chance.randint(1, 4))))
        refused += sum(isinstance(each, Refused) and each.limit is not None for each in results)
    assert refused > 0
