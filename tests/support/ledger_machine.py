"""Random traffic for the engine, checked against the plain model and the invariants.

Commands are wished for in the abstract ("settle the third open call at a little over its hold") and
made concrete when their batch is formed, so that examples shrink well and stay near the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis import target
from hypothesis.stateful import (
    RuleBasedStateMachine,
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
    Extend,
    GrantCredit,
    Lapse,
    LineItem,
    Refund,
    Refused,
    Release,
    Report,
    SetFloor,
    SetLimit,
    Settle,
    Usage,
)
from farebox.ledger.grants import BURN_CLASS, GrantState, Source
from farebox.ledger.holds import CallState, Dimensions
from farebox.ledger.journal import Account
from farebox.ledger.limits import Period
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.ledger.state import KeyFacts
from tests.support.ledger_memory import MemoryLedger, audit
from tests.support.ledger_model import FAR, Answer, Call, Lot, ModelOrg, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from farebox.ledger.commands import Result
    from farebox.ledger.state import Decision

START = datetime(2027, 10, 30, 12, tzinfo=UTC)
ZONES = ("America/New_York", "Asia/Kolkata", "Pacific/Apia", "UTC")
PRICES = (1_000_000, 300_000, 2_500_000, 0)
DEBTS = {"dispute", "correct", "floor"}
KINDS = (
    *("admit",) * 8,
    *("settle",) * 6,
    *("grant",) * 4,
    *("extend", "late") * 2,
    *("release", "lapse", "report", "expire", "refund", "dispute", "correct", "limit", "floor"),
)


@dataclass(frozen=True)
class Wish:
    """A command in the abstract."""

    kind: str
    org: int
    pick: int
    mode: int
    n: int
    when: int
    time: int = 0


MODES = st.integers(0, 3)
SMALL = st.integers(0, 40)
WISHES = st.builds(
    Wish,
    kind=st.sampled_from(KINDS),
    org=st.integers(0, 1),
    pick=st.integers(0, 7),
    mode=MODES,
    n=SMALL,
    when=st.integers(0, 7),
    time=st.sampled_from([0] * 12 + [2, 3, 5, 6, 7, 8, 9, 10]),
)


def uuid(number: int) -> UUID:
    """A small, readable id."""
    return UUID(int=number)


def near(mode: int, n: int, *places: int) -> int:
    """A small number, or one that lies on or beside a place where something changes."""
    if mode == 0 or mode > len(places):
        return n
    return max(0, places[mode - 1] + n % 3 - 1)


class LedgerMachine(RuleBasedStateMachine):
    """Engine and model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = START
        self.latest = START
        self.count = 100
        self.ledger = MemoryLedger()
        self.world = World(START)
        self.done: list[AnyCommand] = []
        self.over: dict[tuple[UUID, int], int] = {}
        self.closest = 10**6
        self.debts: set[UUID] = set()
        """Organisations where something has happened that may make debt."""
        self.floors: dict[UUID, int] = {}

    def next_id(self) -> UUID:
        self.count += 1
        return uuid(self.count)

    @initialize(
        zones=st.tuples(st.sampled_from(ZONES), st.sampled_from(ZONES)),
        overruns=st.tuples(st.sampled_from(OnOverrun), st.just(OnOverrun.ABSORB)),
        lapses=st.tuples(st.sampled_from(OnLapse), st.sampled_from(OnLapse)),
        without=st.sets(st.sampled_from(sorted({*DEBTS, "limit", "lapse"}))),
        money=st.booleans(),
    )
    def begin(
        self,
        zones: tuple[str, str],
        overruns: tuple[OnOverrun, OnOverrun],
        lapses: tuple[OnLapse, OnLapse],
        without: set[str],
        money: bool,
    ) -> None:
        """Two organisations with other zones and policies, two nodes, a key each."""
        self.without = without
        for i in range(2):
            org_id = uuid(i + 1)
            self.ledger.add_organization(
                org_id, START, zone=zones[i], on_overrun=overruns[i], on_lapse=lapses[i]
            )
            model = self.world.orgs[org_id] = ModelOrg(org_id, zones[i], START)
            model.on_overrun, model.on_lapse = overruns[i].value, lapses[i].value
            if overruns[i] is OnOverrun.OWE:
                self.debts.add(org_id)
            self.put_key(KeyFacts(uuid(10 + i), org_id, uuid(20 + i), None, None, None))
            self.ledger.epochs[uuid(30 + i)] = self.world.epochs[uuid(30 + i)] = 1
        if money:
            wishes = [Wish("grant", i, 0, 0, 40, when) for i in range(2) for when in (0, 1)]
            self.batch(wishes, when=0)

    def put_key(self, key: KeyFacts) -> None:
        self.ledger.add_key(key)
        self.world.keys[key.id] = key

    # --- what happens -------------------------------------------------------------------------

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6), when=st.integers(0))
    def batch(self, wishes: list[Wish], when: int) -> None:
        """Some commands at once, as one batch."""
        self.pass_time(when)
        made = [self.make(wish) for wish in wishes if wish.kind not in self.without]
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
        self.fence()
        for call in list(self.world.orgs[uuid(org + 1)].open_calls())[:4]:
            self.run(
                [
                    Lapse(
                        organization_id=uuid(org + 1),
                        call_id=call.asked.call_id,
                        node_id=call.asked.node_id,
                        epoch=call.asked.epoch,
                        reason="unseen",
                    )
                ]
            )
        for wish in between:
            self.try_run(replace(wish, org=org))
        for kind, mode, n in answers:
            self.try_run(Wish(kind, org, -1, mode, n, 0))

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
        mode=MODES,
        n=SMALL,
        after=st.lists(WISHES, max_size=4),
        anew=st.booleans(),
    )
    def limit_is_set(self, org: int, mode: int, n: int, after: list[Wish], anew: bool) -> None:
        """A limit near what is used begins, anew or not, amid traffic, and the month turns."""
        if anew:
            self.try_run(Wish("limit", org, 0, 0, 40, 1))
            self.try_run(Wish("admit", org, 0, 0, n, 0))
            self.try_run(Wish("limit", org, 0, 0, 0, 0))
        wishes = (Wish("settle", org, n, n % 4, n, 0), Wish("limit", org, 0, mode, n, n % 4))
        made = [self.make(wish) for wish in wishes]
        self.run([command for command in made if command is not None])
        for wish in after:
            self.try_run(replace(wish, org=org))
        self.wait_until(month_end(self.world.orgs[uuid(org + 1)]))
        for i, wish in enumerate(after):
            self.try_run(replace(wish, org=org, kind=("extend", "settle", "admit")[i % 3], time=0))

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
        command_id = self.next_id()
        self.run([Correct(organization_id=org_id, command_id=command_id, amount=amount, note="")])
        for source, n, hours in grants:
            begins = self.latest + timedelta(hours=hours)
            credit = GrantCredit(
                organization_id=org_id,
                grant_id=self.next_id(),
                source=source,
                amount=Nanos(1 + n),
                effective_at=None if hours <= 0 else begins,
                expires_at=max(begins, self.latest) + timedelta(hours=1 + n),
            )
            self.run([credit])
        self.wait_until(self.latest + timedelta(hours=debt))
        for wish in between:
            self.try_run(replace(wish, org=org))

    def wait_until(self, instant: datetime) -> None:
        self.clock = max(self.clock, instant)
        self.latest = max(self.latest, self.clock)

    def try_run(self, wish: Wish) -> None:
        """One wish as a batch of its own, if it can be made and is not left out."""
        self.pass_time(wish.time)
        command = None if wish.kind in self.without else self.make(wish)
        if command is not None:
            self.run([command])

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
            self.try_run(replace(wish, org=org, kind="admit"))
        self.put_key(key)
        self.let_admit(org, active=True, revision=1)

    def let_admit(self, org: int, *, active: bool, revision: int) -> None:
        model, row = self.world.orgs[uuid(org + 1)], self.ledger.organizations[uuid(org + 1)]
        model.active = row.active = active
        self.world.revision = revision
        # The caller rated with the book it knew: the first one.
        self.ledger.catalogue_revision = revision

    def fence(self) -> None:
        """Both nodes come back with a new epoch."""
        for node in (uuid(30), uuid(31)):
            self.world.epochs[node] += 1
            self.ledger.epochs[node] += 1

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

    # --- making commands ----------------------------------------------------------------------

    def pass_time(self, when: int) -> None:
        """Stand still, go on a little or a lot, go back, or to just before or at an edge."""
        edges = sorted(
            edge
            for org in self.world.orgs.values()
            for edge in [
                *(lot.end for lot in org.lots.values() if lot.end < FAR),
                *(lot.start for lot in org.lots.values()),
                *(c.at + c.asked.latest_end_after for c in org.open_calls()),
                month_end(org),
            ]
            if edge > self.latest
        )
        micro = timedelta(microseconds=1)
        steps = [
            self.clock,
            self.clock,
            self.clock + timedelta(seconds=when % 1000),
            self.clock + timedelta(hours=when % 50),
            self.clock - timedelta(hours=when % 50),
            self.clock + timedelta(days=when % 40),
            *(
                [edges[0], edges[0] - micro, edges[0], edges[-1] - micro, edges[-1]]
                if edges
                else []
            ),
        ]
        self.clock = steps[when % len(steps)]
        self.latest = max(self.latest, self.clock)

    def make(self, wish: Wish) -> AnyCommand | None:
        """The concrete command."""
        org = self.world.orgs[uuid(wish.org + 1)]
        makers: dict[str, Callable[[ModelOrg, Wish], AnyCommand]] = {
            "admit": self.make_admit,
            "expire": lambda org, _: ExpireGrants(organization_id=org.id),
            "grant": self.make_grant,
            "limit": self.make_limit,
            "floor": lambda org, wish: SetFloor(organization_id=org.id, floor=Nanos(wish.n // 2)),
            "correct": lambda org, wish: Correct(
                organization_id=org.id,
                command_id=self.next_id(),
                amount=Nanos(1 + near(wish.mode, wish.n, max(0, org.spendable() - 1))),
                note="",
            ),
        }
        if wish.kind in makers:
            return makers[wish.kind](org, wish)
        if wish.kind in {"refund", "dispute"}:
            lots = list(org.lots.values())
            return self.make_about_grant(org, wish, lots[wish.pick % len(lots)]) if lots else None
        late = wish.kind == "late"
        calls = [
            (call_id, call)
            for call_id, call in org.calls.items()
            if call.state == ("lapsed" if late else "open")
        ]
        calls = calls or list(org.calls.items())
        if not calls:
            return None
        call_id, call = calls[wish.pick % len(calls)]
        return self.make_about_call(org, wish, call_id, call)

    def make_admit(self, org: ModelOrg, wish: Wish) -> Admit:
        room = org.limit_room(self.world.now)
        fixed = near(wish.mode, wish.n, org.spendable(), room or 0, org.posted())
        low = wish.n % 5 if wish.when & 1 else 0
        named = wish.when & 2
        node = uuid(30 + wish.pick % 2)
        return Admit(
            organization_id=org.id,
            call_id=self.next_id(),
            node_id=node,
            epoch=self.world.epochs[node] - (wish.pick == 6),
            catalogue_revision=1,
            fixed=Nanos(0 if wish.when == 5 else max(0, fixed)),
            output_price=PRICES[wish.n % 4],
            output_min=low,
            output_max=low if named else low + wish.n * 3,
            latest_end_after=timedelta(hours=1 + wish.when * 3),
            dimensions=Dimensions(
                project_id=uuid(19 + wish.org + (wish.pick != 4 or wish.n % 8 != 0)),
                key_id=uuid(10 + (wish.org + (wish.pick == 3 and wish.n % 8 == 0)) % 3),
                feature="",
                environment="",
                model=f"model-{wish.n % 2}",
                lane="standard",
                endpoint="chat",
            ),
            price_id=uuid(7),
            upstream_account_id=uuid(8),
        )

    def make_grant(self, org: ModelOrg, wish: Wish) -> GrantCredit:
        effective = [None, None, None, timedelta(hours=5), timedelta(days=2), timedelta(days=-3)]
        lasts = [None, timedelta(hours=3), timedelta(days=1), timedelta(days=33)]
        start = effective[wish.when % len(effective)]
        begins = None if start is None else self.clock + start
        length = lasts[wish.mode]
        return GrantCredit(
            organization_id=org.id,
            grant_id=self.next_id(),
            source=list(Source)[wish.pick % 7],
            amount=Nanos(1 + wish.n),
            effective_at=begins,
            expires_at=None if length is None else (begins or self.clock) + length,
            default_expiry=bool(wish.n % 2),
        )

    def make_limit(self, org: ModelOrg, wish: Wish) -> SetLimit:
        month = org.month(max(self.clock, org.now))
        maximum = near(wish.mode, wish.n * 2, org.used(month) + org.held(month), org.posted())
        return SetLimit(
            organization_id=org.id,
            period=Period.MONTH,
            maximum=None if wish.when == 0 else Nanos(max(0, maximum)),
        )

    def make_about_grant(self, org: ModelOrg, wish: Wish, lot: Lot) -> AnyCommand:
        if wish.kind == "refund":
            return Refund(
                organization_id=org.id,
                command_id=self.next_id(),
                grant_id=lot.id,
                amount=Nanos(1 + near(wish.mode, wish.n, org.unheld(lot) - 1)),
                note="",
            )
        step = list(DisputeStep)[wish.n % 3]
        return Dispute(organization_id=org.id, grant_id=lot.id, step=step)

    def make_about_call(
        self, org: ModelOrg, wish: Wish, call_id: UUID, call: Call
    ) -> AnyCommand | None:
        asked, room = call.asked, max(0, org.spendable())
        who: dict[str, Any] = {"organization_id": org.id, "call_id": call_id}
        node: dict[str, Any] = {"node_id": asked.node_id, "epoch": asked.epoch}
        match wish.kind:
            case "extend":
                step = call.steps + 1 - (wish.pick == 7)
                amount = Nanos(1 + near(wish.mode, wish.n, room - 1, org.posted() - 1))
                return Extend(**who, **node, amount=amount, step=max(1, step))
            case "settle" | "late":
                base = call.held if call.state == "open" else call.charge
                metered = near(wish.mode, wish.n, base, base + room)
                return Settle(
                    **who,
                    metered=Nanos(metered),
                    cost=Nanos(metered // 2),
                    lines=(LineItem("token", metered, 1_000_000, Nanos(metered)),),
                    usage=Usage(output_tokens=metered, input_tokens=wish.n),
                    lane="flex" if wish.when == 1 else "",
                )
            case "release":
                return Release(**who, reason="nothing")
            case "report":
                metered = near(wish.mode, wish.n, call.held, call.held + room)
                return Report(
                    **who,
                    **node,
                    metered=Nanos(metered),
                    cost=Nanos(metered),
                    input_tokens=1,
                    output_tokens=metered,
                )
            case _:
                return Lapse(**who, **node, reason="unseen")

    # --- checking -----------------------------------------------------------------------------

    def run(self, commands: list[AnyCommand]) -> Decision:
        """One batch on both sides, compared."""
        spendable = {org_id: org.spendable() for org_id, org in self.world.orgs.items()}
        times = {org_id: org.now for org_id, org in self.world.orgs.items()}
        decision = self.ledger.decide(commands, self.clock)
        answers = self.world.apply(commands, self.clock)
        for command, result, answer in zip(commands, decision.results, answers, strict=True):
            compare_answer(command, result, answer)
            if not isinstance(result, Refused) and not result.exists:
                self.note(command)
        for org_id, model in self.world.orgs.items():
            # A batch that changes nothing of an organisation does not move its time either.
            written = any(org.id == org_id for org in decision.changes.organizations)
            model.now = model.now if written else times[org_id]
            assert self.ledger.organizations[org_id].last_time == model.now
            compare_organization(self.ledger, model)
            self.closest = min(self.closest, abs(model.spendable()))
            touched = [c for c in commands if c.organization_id == org_id]
            self.check_limits(org_id, touched)
        audit(self.ledger)
        check_earmarks(self.ledger, decision)
        if len(commands) == 1:
            self.check_settle(decision, spendable)
        return decision

    def note(self, command: AnyCommand) -> None:
        """Remember what may be replayed, and what may make debt."""
        match command:
            case Dispute(step=DisputeStep.LOST) | Correct():
                self.debts.add(command.organization_id)
            case SetFloor(organization_id=org_id, floor=floor):
                if floor < self.floors.get(org_id, 0):
                    self.debts.add(org_id)
                self.floors[org_id] = floor
            case _:
                pass
        # These say how things shall be from now on; an old one is no replay but a change.
        if not isinstance(command, Dispute | SetLimit | SetFloor | Report | ExpireGrants | Lapse):
            self.done.append(command)

    def check_limits(self, org_id: UUID, commands: list[AnyCommand]) -> None:
        """Used and held never pass a hard limit, unless it was lowered or usage is owed."""
        org = self.ledger.organizations[org_id]
        lowered = any(isinstance(c, SetLimit) for c in commands)
        for limits in self.ledger.limits.values():
            for rule_ in limits.rules if limits.organization_id == org_id else ():
                for window in limits.windows[rule_.number]:
                    key = (org_id, window.start)
                    over = max(0, window.used + window.held - rule_.maximum)
                    if not lowered and org.on_overrun is OnOverrun.ABSORB:
                        assert over <= self.over.get(key, 0), (window, rule_)
                    self.over[key] = over

    def check_settle(self, decision: Decision, spendable: dict[UUID, int]) -> None:
        """A call that ends within its hold takes nothing from others and spends free credit first.

        The order can be looked at only after a batch of one: another command may bring free credit.
        """
        for closing in decision.changes.closings:
            call, org = closing.call, self.world.orgs[closing.call.organization_id]
            draws = [self.ledger.grants[draw.grant_id] for draw in call.draws]
            if closing.ending.metered <= call.held and all(
                grant.state is not GrantState.LOST for grant in draws
            ):
                # Time may have taken credit away in the same batch, so compare with live figures.
                before = min(spendable[org.id], org.spendable() + call.charge - call.held)
                assert org.spendable() >= min(0, before)
            free = any(
                BURN_CLASS[lot.asked.source] == 1 and org.unheld(lot) > 0 for lot in org.live()
            )
            purchased = any(grant.source is Source.PURCHASED for grant in draws)
            assert not (free and purchased) or org.id in self.debts, call

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
        """Steer towards histories in which money runs out exactly."""
        if self.done:
            target(-self.closest, label="distance from the boundary")
            target(len(self.ledger.calls), label="calls closed")

    def dump(self) -> object:
        """All money, without the time of the last look."""
        ledger = self.ledger
        return (
            {i: structs.replace(o, last_time=START) for i, o in ledger.organizations.items()},
            # A grant that was refunded whole before its beginning is first looked at when named.
            {i: structs.replace(g, repays=False) for i, g in ledger.grants.items()},
            {key: (v.rules, v.windows) for key, v in ledger.limits.items()},
            dict(ledger.holds),
            dict(ledger.calls),
            list(ledger.postings),
            list(ledger.events),
            set(ledger.commands),
        )


def month_end(org: ModelOrg) -> datetime:
    """When the organisation's current month ends."""
    return org.month(org.month(org.now) + timedelta(days=40))


def compare_answer(command: AnyCommand, result: Result, answer: Answer) -> None:
    """The engine's result is what the model answers."""
    if isinstance(result, Refused) or "refused" in answer:
        assert isinstance(result, Refused), (command, result, answer)
        assert "refused" in answer, (command, result, answer)
        assert result.code.startswith(str(answer["refused"])), (command, result, answer)
        return
    for name, value in answer.items():
        if not (isinstance(command, ExpireGrants) and name == "amount"):
            assert getattr(result, name) == value, (name, command, result, answer)


def compare_organization(ledger: MemoryLedger, model: ModelOrg) -> None:
    """Every row is what the model's facts add up to."""
    org = ledger.organizations[model.id]
    assert org.owed == model.owed
    assert org.spent == sum(call.charge for call in model.calls.values())
    assert org.absorbed == sum(call.absorbed for call in model.calls.values())
    assert org.refunded == model.owed_and_taken + sum(lot.taken for lot in model.lots.values())
    assert org.unsecured_held == model.floor_held()
    assert org.floor == model.floor
    grants = {g.id: g for g in ledger.grants.values() if g.organization_id == model.id}
    assert grants.keys() == model.lots.keys()
    for grant_id, lot in model.lots.items():
        grant = grants[grant_id]
        frozen = model.unheld(lot) if lot.state == "frozen" else 0
        assert (grant.remaining, grant.reserved) == (lot.remaining, model.reserved(lot)), lot
        assert (grant.frozen, grant.repaid) == (frozen, lot.repaid), lot
        assert (grant.expired, grant.refunded) == (sum(lot.broken.values()), lot.taken), lot
        assert grant.state == lot.state
        assert grant.is_live(model.now) == model.is_live(lot)
    compare_calls(ledger, model)
    compare_breakage(ledger, model)


def compare_calls(ledger: MemoryLedger, model: ModelOrg) -> None:
    """Holds and closed calls agree one by one."""
    for call_id, call in model.calls.items():
        if call.state == "open":
            hold = ledger.holds[call_id]
            marks: dict[UUID, int] = {}
            for mark in hold.earmarks:
                marks[mark.grant_id] = marks.get(mark.grant_id, 0) + mark.amount
            assert (hold.amount, hold.unsecured, hold.steps, marks) == (
                call.held,
                call.floor_part,
                call.steps,
                call.earmarks,
            )
            continue
        closed = ledger.calls[call_id]
        draws: dict[UUID, int] = {}
        for draw in closed.draws:
            draws[draw.grant_id] = draws.get(draw.grant_id, 0) + draw.amount
        expected = {i: lot.drawn[call_id] for i, lot in model.lots.items() if call_id in lot.drawn}
        assert (closed.state, closed.charge, closed.absorbed, closed.owed, draws) == (
            CallState(call.state),
            call.charge,
            call.absorbed,
            call.owed,
            {grant_id: amount for grant_id, amount in expected.items() if amount},
        )


def compare_breakage(ledger: MemoryLedger, model: ModelOrg) -> None:
    """Breakage is booked for the grant and the call that it comes from."""
    booked: dict[tuple[UUID | None, UUID | None], int] = {}
    for posting in ledger.postings:
        if posting.organization_id == model.id and Account.BREAKAGE in posting.accounts:
            key = (posting.grant_id, posting.call_id)
            booked[key] = booked.get(key, 0) + abs(posting.amounts[0])
    assert booked == {
        (lot.id, call_id): amount
        for lot in model.lots.values()
        for call_id, amount in lot.broken.items()
    }


def check_earmarks(ledger: MemoryLedger, decision: Decision) -> None:
    """No new call earmarks a grant outside its time or under dispute."""
    for new in decision.changes.new_holds:
        for mark in new.hold.earmarks:
            assert ledger.grants[mark.grant_id].is_live(new.hold.admitted_at), new
