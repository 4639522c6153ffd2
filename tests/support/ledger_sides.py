"""Engine and plain model side by side: how time passes for both, and what is checked after a batch.

:class:`Sides` runs commands; :mod:`tests.support.ledger_machine` says which.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis.stateful import RuleBasedStateMachine
from msgspec import structs

from farebox.ledger.commands import (
    AnyCommand,
    Correct,
    Dispute,
    DisputeStep,
    ExpireGrants,
    Forget,
    Lapse,
    Refused,
    Report,
    SetFloor,
    SetLimit,
    SetZone,
)
from farebox.ledger.grants import BURN_CLASS, GrantState, Source
from farebox.ledger.limits import Measure, Period, micros
from farebox.ledger.organizations import OnOverrun
from tests.support.ledger_comparison import (
    compare_answer,
    compare_decision,
    compare_organization,
)
from tests.support.ledger_memory import MemoryLedger, audit
from tests.support.ledger_model import World
from tests.support.ledger_model_facts import FAR
from tests.support.ledger_model_limits import EPOCH, KEEPS_OUT, bounds
from tests.support.ledger_wishes import Maker, Wish, uuid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from farebox.ledger.state import Decision, KeyFacts
    from tests.support.ledger_model import ModelOrg

START = datetime(2027, 10, 30, 12, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
SETTINGS = SetLimit | SetFloor | SetZone | Forget


class Sides(RuleBasedStateMachine):
    """Engine and model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = START
        self.latest = START
        self.ledger = MemoryLedger()
        self.world = World(START)
        self.maker = Maker(self.world, START)
        self.without: set[str] = set()
        """Kinds of commands that this history leaves out."""
        self.done: list[AnyCommand] = []
        self.counted: dict[tuple[UUID, int, int, int], int] = {}
        """Used and held of each window, when somebody last looked."""
        self.closest = 10**6
        self.limited: set[tuple[str, ...]] = set()
        """The kinds of limits that have refused a call."""
        self.debts: set[UUID] = set()
        """Organisations where something has happened that may make debt."""
        self.floors: dict[UUID, int] = {}

    # --- the world ----------------------------------------------------------------------------

    def put_key(self, key: KeyFacts) -> None:
        self.ledger.add_key(key)
        self.world.keys[key.id] = key

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

    # --- time ---------------------------------------------------------------------------------

    def pass_time(self, when: int) -> None:
        """Stand still, go on a little or a lot, go back, or to just before or at an edge."""
        orgs = self.world.orgs.values()
        edges = sorted(e for org in orgs for e in edges_of(org) if e > self.latest)
        turns = sorted(t for org in orgs for t in turns_of(org) if t > self.latest)
        edges, turns = edges or [self.clock], turns or [self.clock]
        steps = [
            self.clock,
            self.clock,
            self.clock + timedelta(seconds=when % 1000),
            self.clock + timedelta(hours=when % 50),
            self.clock - timedelta(hours=when % 50),
            self.clock + timedelta(days=when % 40),
            edges[0],
            edges[0] - MICRO,
            edges[0],
            edges[-1] - MICRO,
            edges[-1],
            turns[0],
            turns[0] - MICRO,
            turns[len(turns) // 2],
            turns[-1] - MICRO,
        ]
        self.clock = steps[when % len(steps)]
        self.latest = max(self.latest, self.clock)

    def wait_until(self, instant: datetime) -> None:
        self.clock = max(self.clock, instant)
        self.latest = max(self.latest, self.clock)

    def try_run(self, wish: Wish) -> None:
        """One wish as a batch of its own, if it can be made and is not left out."""
        self.pass_time(wish.time)
        command = self.make(wish)
        if command is not None:
            self.run([command])

    def make(self, wish: Wish) -> AnyCommand | None:
        """The command, if it can be made and is not left out."""
        self.maker.clock = self.clock
        return None if wish.kind in self.without else self.maker.make(wish)

    # --- checking -----------------------------------------------------------------------------

    def run(self, commands: list[AnyCommand]) -> Decision:
        """One batch on both sides, compared."""
        spendable = {org_id: org.spendable() for org_id, org in self.world.orgs.items()}
        times = {org_id: org.now for org_id, org in self.world.orgs.items()}
        decision = self.ledger.decide(commands, self.clock)
        self.world.gone = decision.changes.forgotten
        answers = self.world.apply(commands, self.clock)
        for command, result, answer in zip(commands, decision.results, answers, strict=True):
            compare_answer(command, result, answer)
            if not isinstance(result, Refused) and not result.exists:
                self.note(command)
        named = {command.organization_id for command in commands}
        check_owners(decision, named)
        for org_id in named:
            model = self.world.orgs[org_id]
            # A batch that changes nothing of an organisation does not move its time either.
            written = any(org.id == org_id for org in decision.changes.organizations)
            model.now = model.now if written else times[org_id]
            assert self.ledger.organizations[org_id].last_time == model.now
            compare_organization(self.ledger, model)
            self.closest = min(self.closest, abs(model.spendable()))
            if written:
                touched = [c for c in commands if c.organization_id == org_id]
                self.check_limits(org_id, touched, decision)
        compare_decision(decision, self.world)
        for result in decision.results:
            limit = result.limit if isinstance(result, Refused) else None
            if limit is not None:
                self.limited.add((limit.scope_kind, limit.measure, limit.period, limit.effect))
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
        if not isinstance(command, Dispute | SETTINGS | Report | ExpireGrants | Lapse):
            self.done.append(command)

    def check_limits(self, org_id: UUID, commands: list[AnyCommand], decision: Decision) -> None:
        """No batch passes a hard limit, or passes one further, but by what is metered beyond holds.

        Money that is owed may, and tokens may by what a call used beyond its reservation; calls and
        calls in parallel never. What a lowered limit or the end of a raise leaves above it stays.
        """
        org, model = self.ledger.organizations[org_id], self.world.orgs[org_id]
        limits_change = any(isinstance(c, SetLimit | SetZone) for c in commands)
        beyond = tokens_beyond(model, decision)
        rows = [row for row in self.ledger.limits.values() if row.organization_id == org_id]
        defaults = {row.kind: row.rules for row in rows if row.is_default}
        for row in rows:
            rules = {limit.number: limit for limit in (*defaults.get(row.kind, ()), *row.rules)}
            for number, limit in rules.items():
                since = micros(limit.counts_from or EPOCH)
                for window in row.windows.get(number, ()):
                    key = (org_id, row.number, number, window.start)
                    total = window.used + window.held
                    most = max(limit.maximum_at(model.now), self.counted.get(key, 0))
                    most += beyond if limit.measure is Measure.TOKENS else 0
                    may = limit.measure is Measure.MONEY and org.on_overrun is OnOverrun.OWE
                    if limit.effect in KEEPS_OUT and window.start >= since:
                        assert limits_change or may or total <= most, (row, limit, window)
                    self.counted[key] = total

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


def edges_of(org: ModelOrg) -> Iterator[datetime]:
    """When credit begins and ends, and calls may lapse."""
    for lot in org.lots.values():
        yield lot.start
        if lot.end < FAR:
            yield lot.end
    for call in org.open_calls():
        yield call.at + call.asked.latest_end_after


def turns_of(org: ModelOrg) -> Iterator[datetime]:
    """When months and the windows of limits end, and raises."""
    yield bounds(Period.MONTH, org.now, org.caps.zone)[1]
    for mine in org.caps.caps.values():
        for cap in mine.values():
            if cap.asked.period is not Period.TOTAL:
                yield bounds(cap.asked.period, org.now, org.caps.zone)[1]
            for turn in (cap.asked.raised_from, cap.asked.raised_until):
                if turn is not None:
                    yield turn


def tokens_beyond(model: ModelOrg, decision: Decision) -> int:
    """How many tokens calls have used beyond what they had reserved."""
    beyond = 0
    for closing in decision.changes.closings:
        if closing.call.organization_id == model.id:
            usage, call = closing.ending.usage, model.calls[closing.call.call_id]
            beyond += max(0, usage.input_tokens + usage.output_tokens - call.tokens)
    for late in decision.changes.late:
        beyond += late.ending.usage.input_tokens + late.ending.usage.output_tokens
    return beyond


def check_owners(decision: Decision, named: set[UUID]) -> None:
    """Nothing is written of an organisation that no command names."""
    changes = decision.changes
    written = {org.id for org in changes.organizations}
    written |= {grant.organization_id for grant in (*changes.grants, *changes.new_grants)}
    written |= {scope.organization_id for scope in changes.limits}
    written |= {hold.organization_id for hold in changes.holds}
    written |= {new.hold.organization_id for new in changes.new_holds}
    written |= {closing.call.organization_id for closing in changes.closings}
    written |= {late.call.organization_id for late in changes.late}
    assert written <= named


def check_earmarks(ledger: MemoryLedger, decision: Decision) -> None:
    """No new call earmarks a grant outside its time or under dispute."""
    for new in decision.changes.new_holds:
        for mark in new.hold.earmarks:
            assert ledger.grants[mark.grant_id].is_live(new.hold.admitted_at), new
