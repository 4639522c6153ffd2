"""Random traffic for the engine, checked against the plain model and the invariants.

Commands are wished for in the abstract ("settle the third open call at a little over its hold") and
made concrete when their batch is formed, so that examples shrink well and stay near the boundary.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis import target
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import structs
from typing_extensions import override

from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    DisputeStep,
    ExpireGrants,
    GrantCredit,
    Lapse,
    Refund,
    Refused,
    SetLimit,
    Settle,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Effect, Period
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.ledger.state import KeyFacts
from tests.support.ledger_model import ModelOrg
from tests.support.ledger_model_facts import FAR
from tests.support.ledger_model_limits import bounds
from tests.support.ledger_sides import START, Sides
from tests.support.ledger_wishes import (
    EFFECTS,
    EVERYBODY,
    FIRST_KEY,
    LIMIT_BASES,
    MODES,
    PERIODS,
    SMALL,
    WHO,
    WISHES,
    ZONES,
    Wish,
    choices,
    limit_number,
    uuid,
)

DEBTS = {"dispute", "correct", "floor"}
ZONE_PAIRS = st.tuples(st.sampled_from(ZONES), st.sampled_from(ZONES))
OVERRUNS = st.tuples(st.sampled_from(OnOverrun), st.just(OnOverrun.ABSORB))
LAPSES = st.tuples(st.sampled_from(OnLapse), st.sampled_from(OnLapse))
TRAFFIC = st.tuples(st.sampled_from(("admit", "admit", "end", "end", "turn")), MODES, SMALL)


class LedgerMachine(Sides):
    """Random histories."""

    @initialize(
        zones=ZONE_PAIRS,
        overruns=OVERRUNS,
        lapses=LAPSES,
        without=st.sets(st.sampled_from(sorted({*DEBTS, "limit", "lapse"}))),
        money=st.sampled_from((0, 41, 41, 10_001)),
    )
    def begin(
        self,
        zones: tuple[str, str],
        overruns: tuple[OnOverrun, OnOverrun],
        lapses: tuple[OnLapse, OnLapse],
        without: set[str],
        money: int,
    ) -> None:
        """Histories of little money, with some kinds of commands left out."""
        self.without = without
        self.open_books(zones, overruns, lapses)
        wishes = [Wish("grant", i, 0, 0, money - 1, when) for i in range(2) for when in (0, 1)]
        self.batch(wishes if money else [], when=0)

    def open_books(
        self,
        zones: tuple[str, str],
        overruns: tuple[OnOverrun, OnOverrun],
        lapses: tuple[OnLapse, OnLapse],
    ) -> None:
        """Two organisations with other zones and policies, two nodes, three keys each."""
        for i in range(2):
            org_id = uuid(i + 1)
            self.ledger.add_organization(
                org_id, START, zone=zones[i], on_overrun=overruns[i], on_lapse=lapses[i]
            )
            model = self.world.orgs[org_id] = ModelOrg(org_id, zones[i], START)
            model.on_overrun, model.on_lapse = overruns[i].value, lapses[i].value
            if overruns[i] is OnOverrun.OWE:
                self.debts.add(org_id)
            for key, project in ((10, 20), (40, 20), (50, 60)):
                self.put_key(KeyFacts(uuid(key + i), org_id, uuid(project + i), None, None, None))
            self.ledger.epochs[uuid(30 + i)] = self.world.epochs[uuid(30 + i)] = 1

    # --- what happens -------------------------------------------------------------------------

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6), when=st.integers(0))
    def batch(self, wishes: list[Wish], when: int) -> None:
        """Some commands at once, as one batch."""
        self.pass_time(when)
        made = [self.make(wish) for wish in wishes]
        self.run([command for command in made if command is not None])

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6), when=st.integers(0))
    def batches(self, wishes: list[Wish], when: int) -> None:
        """The same, each a batch of its own."""
        self.pass_time(when)
        for wish in wishes:
            self.try_run(wish)

    @rule(org=st.integers(0, 1), ends=st.lists(st.tuples(MODES, SMALL), min_size=1, max_size=5))
    def drain(self, org: int, ends: list[tuple[int, int]]) -> None:
        """A run of settles, so that money comes back and is spent again."""
        for mode, n in ends:
            self.try_run(Wish("settle", org, 0, mode, n, 0))

    @rule(
        org=st.integers(0, 1),
        reports=st.lists(st.tuples(MODES, SMALL), max_size=2),
        between=st.lists(WISHES, max_size=4),
        answers=st.lists(st.tuples(st.sampled_from(["late", "release"]), MODES, SMALL), max_size=3),
    )
    def node_dies(
        self,
        org: int,
        reports: list[tuple[int, int]],
        between: list[Wish],
        answers: list[tuple[str, int, int]],
    ) -> None:
        """Calls report their progress, their node is fenced, they lapse, and some answer late."""
        for mode, n in reports:
            self.try_run(Wish("report", org, n, mode, n, 0))
        self.lapse_calls(org)
        for wish in between:
            self.try_run(replace(wish, org=org))
        for kind, mode, n in answers:
            self.try_run(Wish(kind, org, -1, mode, n, 0))

    def lapse_calls(self, org: int) -> None:
        """The nodes come back with new epochs, and their calls lapse."""
        self.fence()
        for call in list(self.world.orgs[uuid(org + 1)].open_calls())[:4]:
            lapse = Lapse(
                organization_id=uuid(org + 1),
                call_id=call.asked.call_id,
                node_id=call.asked.node_id,
                epoch=call.asked.epoch,
                reason="unseen",
            )
            self.run([lapse])

    @precondition(lambda self: "dispute" not in self.without)
    @rule(
        org=st.integers(0, 1),
        pick=st.integers(0, 3),
        steps=st.lists(st.sampled_from(DisputeStep), min_size=1, max_size=3),
        between=st.lists(WISHES, max_size=4),
        outlast=st.booleans(),
    )
    def payment_is_disputed(
        self, org: int, pick: int, steps: list[DisputeStep], between: list[Wish], outlast: bool
    ) -> None:
        """The grant that is used most is disputed while its calls go on, perhaps past its end."""
        model = self.world.orgs[uuid(org + 1)]
        lots = sorted(model.lots.values(), key=lambda lot: (-model.reserved(lot), lot.number))
        for i, step in enumerate(steps if lots else []):
            lot = lots[pick % len(lots)]
            if outlast and i > 0 and lot.end < FAR:
                self.wait_until(lot.end)
            self.run([Dispute(organization_id=model.id, grant_id=lot.id, step=step)])
            for wish in between[i * 2 : i * 2 + 2]:
                self.try_run(replace(wish, org=org))

    @precondition(lambda self: "limit" not in self.without)
    @rule(
        org=st.integers(0, 1),
        who=WHO,
        mode=MODES,
        n=SMALL,
        after=st.lists(WISHES, max_size=4),
        anew=st.booleans(),
    )
    def limit_is_set(
        self, org: int, who: int, mode: int, n: int, after: list[Wish], anew: bool
    ) -> None:
        """A limit near what is used begins, anew or not, amid traffic, and its window turns."""
        limit = Wish("limit", org, 4, mode, n, 1 + n % 3, who=who)
        if anew:
            self.try_run(replace(limit, mode=0, n=40))
            self.try_run(Wish("admit", org, 0, 0, n, 0, who=n))
            self.try_run(replace(limit, when=0))
        made = [self.make(wish) for wish in (Wish("settle", org, n, n % 4, n, 0), limit)]
        self.run([command for command in made if command is not None])
        for wish in after:
            self.try_run(replace(wish, org=org))
        self.wait_until(self.end_of(made[-1]))
        for i, wish in enumerate(after):
            self.try_run(replace(wish, org=org, kind=("extend", "settle", "admit")[i % 3], time=0))

    def end_of(self, command: AnyCommand | None) -> datetime:
        """When the window of a limit that was just set ends; where it does not, the month."""
        assert isinstance(command, SetLimit)
        org = self.world.orgs[command.organization_id]
        period = Period.MONTH if command.period is Period.TOTAL else command.period
        return bounds(period, org.now, org.caps.zone)[1]

    @precondition(lambda self: "limit" not in self.without)
    @rule(
        org=st.integers(0, 1),
        who=WHO,
        first=st.sampled_from(("default", "own")),
        goes=st.sampled_from(("default", "own")),
        changes=st.lists(st.tuples(MODES, SMALL), min_size=4, max_size=4),
        traffic=st.lists(st.lists(TRAFFIC, max_size=3), min_size=4, max_size=4),
    )
    def default_and_own(
        self,
        org: int,
        who: int,
        first: str,
        goes: str,
        changes: list[tuple[int, int]],
        traffic: list[list[tuple[str, int, int]]],
    ) -> None:
        """A default and a scope's own limit take each other's place while its calls go on."""
        kind, _, *rest = choices(who, *LIMIT_BASES)
        second = "own" if first == "default" else "default"
        script = ((first, 1), (second, 1), (goes, 0), (goes, 1))
        for (which, when), (mode, n), calls in zip(script, changes, traffic, strict=True):
            # Enough for calls to get in, or near what is counted already.
            limit = limit_number([kind, int(which == "default"), *rest])
            self.try_run(Wish("limit", org, 4, mode, n, when, who=limit))
            for what, mode_of_call, n_of_call in calls:
                kinds = ("settle", "extend", "lapse", "late", "report", "release")
                self.try_run(
                    {
                        "admit": Wish(
                            "admit", org, 0, mode_of_call, n_of_call, n_of_call % 8, who=EVERYBODY
                        ),
                        "end": Wish(
                            kinds[n_of_call % 6], org, n_of_call, mode_of_call, n_of_call, 0
                        ),
                        "turn": Wish("expire", org, 0, 0, 0, 0, time=11),
                    }[what]
                )

    @precondition(lambda self: "limit" not in self.without)
    @rule(
        org=st.integers(0, 1),
        who=WHO,
        maximum=st.tuples(MODES, SMALL),
        calls=st.lists(SMALL, min_size=1, max_size=2),
        anew=st.sampled_from(("zone", "own")),
        n=SMALL,
        answers=st.lists(st.tuples(MODES, SMALL), min_size=1, max_size=2),
    )
    def counted_anew_before_answers(
        self,
        org: int,
        who: int,
        maximum: tuple[int, int],
        calls: list[int],
        anew: str,
        n: int,
        answers: list[tuple[int, int]],
    ) -> None:
        """Calls lapse, a default's window is counted anew, and then they answer within it."""
        kind, _, *rest = choices(who, *LIMIT_BASES)
        limits = [Wish("limit", org, 4, *maximum, 1, who=limit_number([kind, 1, *rest]))]
        if anew == "own":
            limits.append(replace(limits[0], who=limit_number([kind, 0, *rest])))
        for limit in limits:
            self.try_run(limit)
        for call in calls:
            self.try_run(Wish("admit", org, 0, 0, call, 0, who=EVERYBODY))
        self.lapse_calls(org)
        self.try_run(
            replace(limits[-1], when=0) if anew == "own" else Wish("zone", org, 0, 0, n, 0)
        )
        for mode, n_of_answer in answers:
            self.try_run(Wish("late", org, -1, mode, n_of_answer, 0))

    @precondition(lambda self: "limit" not in self.without)
    @rule(
        org=st.integers(0, 1),
        shares=st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, len(PERIODS) - 1), MODES, SMALL),
            min_size=1,
            max_size=4,
        ),
        calls=st.lists(WISHES, min_size=2, max_size=6),
        answers=st.lists(st.tuples(MODES, SMALL), max_size=2),
    )
    def money_is_set_aside(
        self,
        org: int,
        shares: list[tuple[int, int, int, int]],
        calls: list[Wish],
        answers: list[tuple[int, int]],
    ) -> None:
        """Parts of the balance are set aside for projects, and at once calls of both ask for it."""
        for project, period, mode, n in shares:
            share = limit_number([0, project, 0, period, EFFECTS.index(Effect.ALLOCATION), 0])
            limit = Wish("limit", org, 4, mode, n, n % 6, who=share)
            made = [self.make(wish) for wish in (limit, *calls[:2])]
            self.run([command for command in made if command is not None])
            for wish in calls[2:]:
                self.try_run(replace(wish, org=org, kind="admit" if wish.n % 3 else wish.kind))
        if answers:
            self.lapse_calls(org)
        for mode, n in answers:
            self.try_run(Wish("late", org, -1, mode, n, 0))

    @precondition(lambda self: "correct" not in self.without)
    @rule(
        org=st.integers(0, 1),
        debt=SMALL,
        grants=st.lists(st.tuples(st.sampled_from(Source), SMALL, st.integers(-3, 9)), max_size=3),
        between=st.lists(WISHES, max_size=3),
    )
    def debt_is_repaid(
        self, org: int, debt: int, grants: list[tuple[Source, int, int]], between: list[Wish]
    ) -> None:
        """Debt arises, credit comes now or later, some of it ends before anybody looks."""
        org_id = uuid(org + 1)
        amount = Nanos(1 + debt + max(0, self.world.orgs[org_id].spendable()))
        command_id = self.maker.next_id()
        self.run([Correct(organization_id=org_id, command_id=command_id, amount=amount, note="")])
        for source, n, hours in grants:
            begins = self.latest + timedelta(hours=hours)
            credit = GrantCredit(
                organization_id=org_id,
                grant_id=self.maker.next_id(),
                source=source,
                amount=Nanos(1 + n),
                effective_at=None if hours <= 0 else begins,
                expires_at=max(begins, self.latest) + timedelta(hours=1 + n),
            )
            self.run([credit])
        self.wait_until(self.latest + timedelta(hours=debt))
        for wish in between:
            self.try_run(replace(wish, org=org))

    @rule(what=st.integers(0, 5), org=st.integers(0, 1), wishes=st.lists(WISHES, max_size=3))
    def admission_is_barred(self, what: int, org: int, wishes: list[Wish]) -> None:
        """For a while a node is fenced, prices are newer, or the key, project or org is barred."""
        key = self.world.keys[uuid(10 + org)]
        soon = self.latest + timedelta(hours=1)
        changes: dict[int, dict[str, datetime]] = {
            0: {"revoked_at": soon},
            1: {"expires_at": soon},
            2: {"project_archived_at": soon},
        }
        self.put_key(structs.replace(key, **changes.get(what, {})))
        self.let_admit(org, active=what != 3, revision=1 + (what == 4))
        if what == 5:
            self.fence()
        for wish in wishes:
            self.try_run(replace(wish, org=org, kind="admit", who=wish.who % FIRST_KEY))
        self.put_key(key)
        self.let_admit(org, active=True, revision=1)

    @rule(data=st.data(), split=st.booleans())
    def replay(self, data: st.DataObject, split: bool) -> None:
        """Any earlier commands once more, in any order: same money, and the answer says so."""
        if not self.done:
            return
        again = data.draw(st.lists(st.sampled_from(self.done), min_size=1, max_size=6))
        # Time does its own part first, so that whatever changes afterwards is the replays' doing.
        self.run([ExpireGrants(organization_id=uuid(i + 1)) for i in range(2)])
        before = self.dump()
        for part in [[c] for c in again] if split else [again]:
            for answer in self.run(part).results:
                assert isinstance(answer, Refused) or answer.exists
        assert self.dump() == before

    @rule(pick=st.integers(0, 50), what=st.integers(0, 2))
    def forge(self, pick: int, what: int) -> None:
        """An earlier command with another content is refused and changes nothing."""
        kinds = Admit | Settle | GrantCredit | Refund | Correct
        known = [c for c in self.done if isinstance(c, kinds)]
        if not known:
            return
        command = known[pick % len(known)]
        self.run([ExpireGrants(organization_id=command.organization_id)])
        before = self.dump()
        forged = self.forged(command, what)
        (answer,) = self.run([forged]).results
        assert isinstance(answer, Refused)
        assert answer.code.startswith("exists_with_different")
        assert self.dump() == before

    def forged(
        self, command: Admit | Settle | GrantCredit | Refund | Correct, what: int
    ) -> AnyCommand:
        """The command with one field changed."""
        changes: list[dict[str, Any]]
        match command:
            case Admit():
                changes = [
                    {"fixed": command.fixed + 1},
                    {"output_price": command.output_price + 1},
                    {"streamed": not command.streamed},
                ]
            case Settle():
                changes = [
                    {"cost": command.cost + 1},
                    {"usage": Usage(output_tokens=command.usage.output_tokens + 1)},
                    {"reason": command.reason + "!"},
                ]
            case GrantCredit():
                later = self.latest + timedelta(days=4000, microseconds=what)
                changes = [
                    {"amount": command.amount + 1},
                    {"reference": "another"},
                    {"expires_at": later},
                ]
            case _:
                changes = [{"amount": command.amount + 1}, {"note": "another"}, {"note": "third"}]
        return structs.replace(command, **changes[what])

    @invariant()
    def promise(self) -> None:
        """Charges and open holds never pass credit and floor while nothing made debt."""
        for org_id, org in self.ledger.organizations.items():
            if org_id in self.debts:
                continue
            assert org.owed + org.unsecured_held <= org.floor
            assert self.world.orgs[org_id].spendable() >= 0
            credit = org.granted - org.expired - org.refunded
            assert org.spent + org.reserved + org.unsecured_held <= credit + org.floor

    @override
    def teardown(self) -> None:
        """Steer towards histories in which money runs out exactly, and limits decide."""
        if self.done:
            target(-self.closest, label="distance from the boundary")
            target(len(self.ledger.calls), label="calls closed")
            target(len(self.limited), label="kinds of limits that refused")


class LimitsMachine(LedgerMachine):
    """Histories in which limits decide: of money there is plenty."""

    @initialize(
        zones=ZONE_PAIRS,
        overruns=OVERRUNS,
        lapses=LAPSES,
        limits=st.lists(
            st.tuples(st.integers(0, 1), WHO, MODES, SMALL, st.integers(1, 7)),
            min_size=2,
            max_size=8,
        ),
    )
    @override
    def begin(
        self,
        zones: tuple[str, str],
        overruns: tuple[OnOverrun, OnOverrun],
        lapses: tuple[OnLapse, OnLapse],
        limits: list[tuple[int, int, int, int, int]],
    ) -> None:
        """Some limits from the start, on anything; no disputes, corrections and floors."""
        self.without = set(DEBTS)
        self.open_books(zones, overruns, lapses)
        self.batch([Wish("grant", i, 0, 0, 1_000_000, 0) for i in range(2)], when=0)
        for org, who, mode, n, when in limits:
            self.try_run(Wish("limit", org, 4, mode, n, when, who=who))
