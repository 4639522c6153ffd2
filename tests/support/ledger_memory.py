"""The engine's rows in plain dictionaries: loads a batch's state and applies what was decided.

It loads and checks what the real store and its database do: checks of single rows, unique ids,
rows that must be there, 64-bit amounts. :func:`audit` recomputes every total from its own rows, as
``books check`` does. Whoever simulates the engine without a database stands on this.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    Extend,
    Forget,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    Result,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.counters import Amounts
from farebox.ledger.decide import decide
from farebox.ledger.grants import PAID, Grant
from farebox.ledger.holds import CallState
from farebox.ledger.journal import Account, Posting, PostingKind
from farebox.ledger.limits import ZONED, Measure, Micros, Rule, ScopeLimits, micros, window_bounds
from farebox.ledger.organizations import OnLapse, OnOverrun, Organization
from farebox.ledger.range_checks import check
from farebox.ledger.scopes import ScopeKind, default_number, scope_number, scopes_of
from farebox.ledger.state import (
    Changes,
    ClosedCall,
    Closing,
    Decision,
    Event,
    KeyFacts,
    OrganizationState,
    RollupDelta,
    RollupKey,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from farebox.ledger.holds import Hold

BIGINT_MAX = 2**63 - 1
_encode = msgspec.msgpack.Encoder().encode


class MemoryLedger:
    """All rows of the engine, and what runs batches on them."""

    def __init__(self) -> None:
        self.organizations: dict[UUID, Organization] = {}
        self.grants: dict[UUID, Grant] = {}
        self.limits: dict[tuple[UUID, int], ScopeLimits] = {}
        self.holds: dict[UUID, Hold] = {}
        self.calls: dict[UUID, ClosedCall] = {}
        self.metered: dict[UUID, int] = {}
        """What each closed call's usage came to at the book's price."""
        self.keys: dict[UUID, KeyFacts] = {}
        self.commands: dict[tuple[UUID, UUID], bytes] = {}
        self.epochs: dict[UUID, int] = {}
        self.catalogue_revision = 1
        self.postings: list[Posting] = []
        self.rollups: dict[RollupKey, RollupDelta] = {}
        self.events: list[Event] = []

    def add_organization(
        self,
        org_id: UUID,
        now: datetime,
        *,
        zone: str = "UTC",
        on_overrun: OnOverrun = OnOverrun.ABSORB,
        on_lapse: OnLapse = OnLapse.METERED,
    ) -> Organization:
        """A new, empty organisation."""
        org = Organization(
            id=org_id,
            currency="USD",
            zone=zone,
            active=True,
            floor=Nanos(0),
            on_overrun=on_overrun,
            on_lapse=on_lapse,
            last_time=now,
            sequence=0,
            plan_id=None,
            **{name: Nanos(0) for name in _TOTALS},
        )
        self.organizations[org_id] = org
        return org

    def add_key(self, key: KeyFacts) -> None:
        """A new key, or the changed facts of one."""
        self.keys[key.id] = key

    def run(self, commands: Sequence[AnyCommand], now: datetime) -> list[Result]:
        """Check, load, decide and write one batch, as the bookkeeper and the store do."""
        return self.decide(commands, now).results

    def decide(self, commands: Sequence[AnyCommand], now: datetime) -> Decision:
        """The same, and show what was written."""
        for command in commands:
            check(command)
        state = self.load(commands, now)
        before = _encode(state)
        decision = decide(state, commands, now)
        assert _encode(state) == before, "decide changed the rows that it was given"
        assert len(decision.results) == len(commands)
        self.write(decision.changes)
        return decision

    def load(self, commands: Iterable[AnyCommand], now: datetime) -> State:
        """Read every row that the commands touch."""
        commands = list(commands)
        named = {c.organization_id for c in commands}
        organizations = {
            org_id: self._load_organization(
                org, [c for c in commands if c.organization_id == org_id], now
            )
            for org_id, org in self.organizations.items()
            if org_id in named
        }
        nodes = {c.node_id for c in commands if isinstance(c, Admit | Extend | Lapse)}
        return State(
            organizations=organizations,
            epochs={node: epoch for node, epoch in self.epochs.items() if node in nodes},
            catalogue_revision=self.catalogue_revision,
        )

    def _load_organization(
        self, org: Organization, commands: list[AnyCommand], now: datetime
    ) -> OrganizationState:
        called = {
            c.call_id
            for c in commands
            if isinstance(c, Admit | Extend | Settle | Release | Lapse | Report)
        }
        closed = {i: self.calls[i] for i in called if i in self.calls}
        grants = {c.grant_id for c in commands if isinstance(c, GrantCredit | Refund | Dispute)}
        grants |= {draw.grant_id for call in closed.values() for draw in call.draws}
        limiting = any(isinstance(c, SetLimit | SetZone | Forget) for c in commands)
        state = OrganizationState(
            organization=org,
            grants=[
                grant
                for grant in self.grants.values()
                if grant.organization_id == org.id
                # A late answer may have to take a repayment back.
                and (grant.remaining > 0 or grant.id in grants or (closed and grant.repaid > 0))
            ],
            limits=[limits for key, limits in self.limits.items() if key[0] == org.id],
            holds={
                i: hold
                for i, hold in self.holds.items()
                if hold.organization_id == org.id and (i in called or limiting)
            },
            closed=closed,
            keys={
                c.dimensions.key_id: self.keys[c.dimensions.key_id]
                for c in commands
                if isinstance(c, Admit) and c.dimensions.key_id in self.keys
            },
            known_commands={
                c.command_id: self.commands[org.id, c.command_id]
                for c in commands
                if isinstance(c, Refund | Correct) and (org.id, c.command_id) in self.commands
            },
        )
        # What begins in the batch begins by the last zone that it sets; each zone counts anew.
        zones = [c.zone for c in commands if isinstance(c, SetZone)]
        for command in commands:
            if isinstance(command, SetLimit):
                scope = (command.scope.kind, command.scope.ref)
                for rule in self._beginning(command):
                    self._use(state, scope, rule, now, (zones or [org.zone])[-1])
        for zone in zones:
            for limits in state.limits:
                for rule in () if limits.is_default else self._rules(limits):
                    if rule.period in ZONED:
                        self._use(state, (limits.kind, limits.ref), rule, now, zone)
        return state

    def _rules(self, limits: ScopeLimits) -> Iterable[Rule]:
        """A scope's own rules, and the defaults that they do not stand in for."""
        default = self.limits.get((limits.organization_id, default_number(limits.kind)))
        rules = (*(default.rules if default else ()), *limits.rules)
        return {rule.number: rule for rule in rules}.values()

    def _use(
        self,
        state: OrganizationState,
        scope: tuple[ScopeKind, str],
        rule: Rule,
        now: datetime,
        zone: str,
    ) -> None:
        org = state.organization
        start, end = window_bounds(rule, max(now, org.last_time), zone)
        used = self.used(org.id, scope, rule, start, end)
        state.used[scope_number(*scope), rule.tally, start] = used

    def _beginning(self, command: SetLimit) -> Iterable[Rule]:
        """What may begin in the middle of its window: the limit set, the default it stands for."""
        scope = command.scope
        every = default_number(scope.kind)
        if command.measure is Measure.PARALLEL or scope.number == every:
            return
        which: dict[str, Any] = {name: getattr(command, name) for name in _WHICH}
        if command.maximum is not None:
            yield Rule(**which, maximum=command.maximum, count_failed=command.count_failed)
        defaults = self.limits.get((command.organization_id, every))
        for rule in defaults.rules if defaults else ():
            if all(getattr(rule, name) == value for name, value in which.items()):
                yield rule

    def used(
        self, org_id: UUID, scope: tuple[ScopeKind, str], rule: Rule, start: Micros, end: Micros
    ) -> int:
        """What the calls of a scope, admitted in a window, have used."""
        return sum(
            Amounts(call.charge, call.usage.input_tokens + call.usage.output_tokens).of(
                rule.measure
            )
            for call in self.calls.values()
            if call.organization_id == org_id
            and start <= micros(call.admitted_at) < end
            and rule.counts(call.dimensions.model)
            and scope in scopes_named(call)
            and (rule.count_failed or call.state is not CallState.RELEASED)
        )

    def write(self, changes: Changes) -> None:
        """Apply a batch, with the checks of the database."""
        for org in changes.organizations:
            _check_organization(org, self.organizations[org.id])
            self.organizations[org.id] = org
        self._write_grants(changes)
        for forgotten in changes.forgotten:
            del self.limits[forgotten]
        for limits in (*changes.limits, *changes.counters):
            self.limits[limits.organization_id, limits.number] = limits
        self._write_holds(changes)
        self._write_calls(changes)
        for posting in changes.postings:
            self._post(posting)
        for key, delta in changes.rollups.items():
            old = self.rollups.setdefault(key, RollupDelta())
            for name in delta.__struct_fields__:
                setattr(old, name, getattr(old, name) + getattr(delta, name))
        self.events += changes.events
        for org_id, command_id, mark in changes.commands:
            assert (org_id, command_id) not in self.commands, "unique id of money commands"
            self.commands[org_id, command_id] = mark

    def _write_grants(self, changes: Changes) -> None:
        for grant in changes.new_grants:
            assert grant.id not in self.grants, "unique id of grants"
            assert all(
                (g.organization_id, g.sequence) != (grant.organization_id, grant.sequence)
                for g in self.grants.values()
            ), "unique sequence of grants"
            self._put_grant(grant)
        for grant in changes.grants:
            assert grant.id in self.grants, "an updated grant is there"
            self._put_grant(grant)

    def _write_holds(self, changes: Changes) -> None:
        for new in changes.new_holds:
            assert new.hold.call_id not in self.holds, "unique id of holds"
            _check_hold(new.hold)
            self.holds[new.hold.call_id] = new.hold
        for hold in changes.holds:
            assert hold.call_id in self.holds, "an updated hold is there"
            _check_hold(hold)
            self.holds[hold.call_id] = hold

    def _put_grant(self, grant: Grant) -> None:
        _check_grant(grant)
        self.grants[grant.id] = grant

    def _write_calls(self, changes: Changes) -> None:
        for closing in changes.closings:
            call = closing.call
            del self.holds[call.call_id]
            assert call.call_id not in self.calls, "unique id of calls"
            _check_call(call, closing)
            self.calls[call.call_id] = call
            self.metered[call.call_id] = closing.ending.metered
        for late in changes.late:
            call = late.call
            assert call.call_id in self.calls, "a late call is there"
            assert min(call.charge, call.absorbed, call.owed) >= 0, call
            self.calls[call.call_id] = call
            self.metered[call.call_id] = sum(line.amount for line in late.ending.lines)

    def _post(self, posting: Posting) -> None:
        assert sum(posting.amounts) == 0, posting
        assert len(posting.accounts) == len(posting.amounts) == len(set(posting.accounts))
        if posting.kind is PostingKind.BREAKAGE:
            key = (posting.grant_id, posting.call_id)
            assert all(
                (other.grant_id, other.call_id) != key
                for other in self.postings
                if other.kind is PostingKind.BREAKAGE
            ), "breakage is posted once"
        self.postings.append(posting)


_WHICH = ("measure", "period", "effect", "models", "origin")
_TOTALS = (
    "granted",
    "owed",
    "spent",
    "reserved",
    "unreserved",
    "frozen",
    "expired",
    "refunded",
    "unsecured_held",
    "absorbed",
)


def _check_organization(org: Organization, old: Organization) -> None:
    assert org.is_balanced(), org
    for name in _TOTALS:
        assert 0 <= getattr(org, name) <= BIGINT_MAX, (name, org)
    assert org.floor >= 0
    assert org.last_time >= old.last_time, "engine time goes forward"
    assert org.sequence >= old.sequence
    assert (org.id, org.currency) == (old.id, old.currency)


def _check_grant(grant: Grant) -> None:
    assert grant.amount > 0
    assert grant.reserved >= 0
    assert grant.frozen >= 0
    assert grant.reserved + grant.frozen <= grant.remaining <= grant.amount <= BIGINT_MAX, grant
    assert min(grant.repaid, grant.expired, grant.refunded, grant.drawn) >= 0, grant
    assert grant.expires_at is None or grant.expires_at > grant.effective_at


def _check_hold(hold: Hold) -> None:
    assert 0 <= hold.unsecured <= hold.amount <= BIGINT_MAX
    assert all(mark.amount > 0 for mark in hold.earmarks)
    assert sum(mark.amount for mark in hold.earmarks) + hold.unsecured == hold.amount, hold


def _check_call(call: ClosedCall, closing: Closing) -> None:
    assert min(call.charge, call.absorbed, call.owed) >= 0, call
    assert call.charge + call.absorbed == closing.ending.metered, closing
    assert call.state == closing.ending.state


def audit(ledger: MemoryLedger) -> None:
    """Recompute every total from its own rows and compare; see ``books check``."""
    for org_id, org in ledger.organizations.items():
        grants = [g for g in ledger.grants.values() if g.organization_id == org_id]
        holds = [h for h in ledger.holds.values() if h.organization_id == org_id]
        calls = [c for c in ledger.calls.values() if c.organization_id == org_id]
        postings = [p for p in ledger.postings if p.organization_id == org_id]
        _audit_totals(org, grants, holds, calls)
        _audit_grants(grants, holds, calls)
        _audit_journal(org, grants, calls, postings)
        _audit_rollups(ledger, org, calls)
        for call in calls:
            assert call.charge + call.absorbed == ledger.metered[call.call_id], call
            assert sum(draw.amount for draw in call.draws) + call.owed == call.charge, call
        for limits in ledger.limits.values():
            if limits.organization_id == org_id:
                _audit_limits(ledger, limits, holds)


def _audit_totals(
    org: Organization, grants: list[Grant], holds: list[Hold], calls: list[ClosedCall]
) -> None:
    assert org.granted == sum(g.amount for g in grants)
    assert org.spent == sum(c.charge for c in calls)
    assert org.absorbed == sum(c.absorbed for c in calls)
    assert org.unsecured_held == sum(h.unsecured for h in holds)
    assert org.reserved == sum(h.amount - h.unsecured for h in holds)
    assert org.unreserved == sum(g.unreserved for g in grants)
    assert org.frozen == sum(g.frozen for g in grants)
    assert org.expired == sum(g.expired for g in grants)


def _audit_grants(grants: list[Grant], holds: list[Hold], calls: list[ClosedCall]) -> None:
    earmarked: Counter[UUID] = Counter()
    for hold in holds:
        for mark in hold.earmarks:
            earmarked[mark.grant_id] += mark.amount
    drawn: Counter[UUID] = Counter()
    for call in calls:
        for draw in call.draws:
            assert draw.amount > 0, call
            drawn[draw.grant_id] += draw.amount
    for grant in grants:
        assert grant.reserved == earmarked.pop(grant.id, 0), grant
        assert grant.drawn == drawn.pop(grant.id, 0), grant
    assert not earmarked, "an earmark is on a grant of its own organisation"
    assert not drawn, "a draw is from a grant of its own organisation"


def _audit_journal(
    org: Organization, grants: list[Grant], calls: list[ClosedCall], postings: list[Posting]
) -> None:
    balance: Counter[Account] = Counter()
    breakage: Counter[UUID | None] = Counter()
    covered: list[int] = []
    for posting in postings:
        for account, amount in zip(posting.accounts, posting.amounts, strict=True):
            balance[account] += amount
            if account is Account.BREAKAGE:
                breakage[posting.grant_id] -= amount
        if posting.first_sequence is not None and posting.last_sequence is not None:
            covered += range(posting.first_sequence, posting.last_sequence + 1)
    paid = sum(g.amount for g in grants if g.source in PAID)
    assert balance[Account.CUSTOMER_CREDIT] == -sum(g.remaining for g in grants)
    assert balance[Account.RECEIVABLE] == org.owed
    assert balance[Account.REVENUE] == -(org.spent + org.absorbed)
    assert balance[Account.ABSORBED] == org.absorbed
    assert balance[Account.BREAKAGE] == -org.expired
    assert balance[Account.REFUNDS] == -org.refunded
    assert balance[Account.CLEARING] == paid
    assert balance[Account.PROMOTION_EXPENSE] == org.granted - paid
    for grant in grants:
        assert breakage[grant.id] == grant.expired, grant
    numbers = sorted([g.sequence for g in grants] + [c.sequence for c in calls])
    assert numbers == list(range(1, org.sequence + 1)), "one sequence without gaps"
    assert len(covered) == len(set(covered)), "no sequence is posted twice"
    assert {c.sequence for c in calls} <= set(covered), "every call is in the journal"


def _audit_rollups(ledger: MemoryLedger, org: Organization, calls: list[ClosedCall]) -> None:
    mine = [d for key, d in ledger.rollups.items() if key.organization_id == org.id]
    assert sum(d.calls for d in mine) == len(calls)
    assert sum(d.charge for d in mine) == org.spent
    assert sum(d.absorbed for d in mine) == org.absorbed
    assert sum(d.cost for d in mine) == sum(c.cost for c in calls)
    for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"):
        assert sum(getattr(d, name) for d in mine) == sum(getattr(c.usage, name) for c in calls)


def scopes_named(call: Hold | ClosedCall) -> set[tuple[ScopeKind, str]]:
    """Every scope that a call is counted under."""
    return set(
        scopes_of(
            call.organization_id, call.dimensions, user=call.user, run=call.run, tags=call.tags
        )
    )


def _audit_limits(ledger: MemoryLedger, limits: ScopeLimits, holds: list[Hold]) -> None:
    default = ledger.limits.get((limits.organization_id, default_number(limits.kind)))
    if limits.is_default:
        assert not limits.windows, "defaults count nothing themselves"
        return
    rules = {rule.number: rule for rule in (*(default.rules if default else ()), *limits.rules)}
    scope = (limits.kind, limits.ref)
    for number, rule in rules.items():
        since = 0 if rule.counts_from is None else micros(rule.counts_from)
        kept = [w for w in limits.windows.get(number, ()) if w.start >= since]
        assert len({window.start for window in kept}) == len(kept)
        for window in kept:
            inside = [
                h
                for h in holds
                if window.start <= micros(h.admitted_at) < window.end
                and rule.counts(h.dimensions.model)
                and scope in scopes_named(h)
            ]
            held = sum(Amounts(h.amount, h.tokens).of(rule.measure) for h in inside)
            assert window.held == held, (window, held)
            if rule.measure is Measure.PARALLEL:
                assert window.used == 0, window
            else:
                args = (limits.organization_id, scope, rule, window.start, window.end)
                assert window.used == ledger.used(*args), window
