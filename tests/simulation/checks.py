"""What is checked at the instant of every commit, on the rows and on plain sums of our own.

The promise first (charges and open holds never pass credit and floor, nor a hard limit), then the
identities of ENGINE.md, then what single answers owe: a refused call did not fit, a lapsed hold's
node was gone, a closed call closes once. Nothing here asks the engine's own helpers for a sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from msgspec import structs

from farebox.kit.money import price_up
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Closed,
    Command,
    Correct,
    Dispute,
    Done,
    Extend,
    GrantCredit,
    Granted,
    Lapse,
    Refund,
    Refused,
    Result,
    SetFloor,
    SetZone,
)
from farebox.ledger.grants import Grant, GrantState
from farebox.ledger.holds import CallState, Hold
from farebox.ledger.journal import Account
from farebox.ledger.limits import Measure
from farebox.ledger.organizations import OnOverrun, Organization
from farebox.ledger.state import ClosedCall, OrganizationState
from tests.simulation.database import Batch, Database
from tests.simulation.limits import LimitTally, asks, took
from tests.simulation.trace import SimulationError

MONEY_CODES = (
    "balance_held",
    "credit_balance_exhausted",
    "credit_balance_expired",
    "credit_balance_negative",
    "credit_set_aside",
    "rate_limit_exceeded",
)
OPERATORS = Refund | Dispute | Correct | SetFloor | SetZone
"""Commands that may leave an organisation beyond its credit, by an operator's will."""


@dataclass
class Tally:
    """One organisation's sums, kept beside the engine."""

    granted: int = 0
    floor_max: int = 0
    given_up: int = 0
    """What operators and ``owe`` may have turned into debt, at most."""
    calls: dict[UUID, ClosedCall] = field(default_factory=dict)
    spent: int = 0
    absorbed: int = 0
    drawn: Counter[UUID] = field(default_factory=Counter)
    journal: Counter[Account] = field(default_factory=Counter)
    limits: LimitTally = field(default_factory=LimitTally)


@dataclass
class _Seen:
    """One organisation in one batch."""

    before: OrganizationState
    org: Organization
    grants: list[Grant]
    holds: list[Hold]
    said: list[tuple[AnyCommand, Result]]
    tally: Tally

    @property
    def now(self) -> datetime:
        return self.org.last_time

    def fresh(self, command: type, result: type) -> Iterator[tuple[AnyCommand, Result]]:
        """What took effect in this batch, of one kind."""
        for asked, answer in self.said:
            meant = isinstance(asked, command) and isinstance(answer, result)
            if meant and not getattr(answer, "exists", False):
                yield asked, answer


class Checks:
    """All checks of a seed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tallies: dict[UUID, Tally] = {}
        self._posted = 0

    def tally(self, organization_id: UUID) -> Tally:
        """The sums of an organisation."""
        return self._tallies.setdefault(organization_id, Tally())

    def committed(self, batch: Batch) -> None:
        """Look at one commit.

        Raises:
            SimulationError: The first thing that is wrong.
        """
        self._count_calls(batch)
        self._count_journal()
        assert batch.decision is not None
        written = {org.id for org in batch.decision.changes.organizations}
        for org_id, before in batch.state.organizations.items():
            seen = self._see(batch, org_id, before)
            if org_id not in written:
                # No row has changed: what it was checked for at its last commit still holds.
                seen.org = structs.replace(seen.org, last_time=max(batch.now, seen.org.last_time))
                self._check_refusals(seen)
                continue
            self._count_money(seen)
            seen.tally.limits.follow(seen.org, seen.said)
            self._check_promise(seen)
            self._check_totals(seen)
            self._check_grants(seen)
            self._check_lapses(seen)
            self._check_admissions(seen, batch.state.epochs)
            self._check_refusals(seen)
            seen.tally.limits.check(
                self._database.ledger, seen.org, seen.holds, seen.tally.calls, seen.said
            )

    def _see(self, batch: Batch, org_id: UUID, before: OrganizationState) -> _Seen:
        ledger = self._database.ledger
        return _Seen(
            before=before,
            org=ledger.organizations[org_id],
            grants=[g for g in ledger.grants.values() if g.organization_id == org_id],
            holds=[h for h in ledger.holds.values() if h.organization_id == org_id],
            said=[
                (command, result)
                for command, result in zip(batch.commands, batch.results, strict=True)
                if command.organization_id == org_id
            ],
            tally=self.tally(org_id),
        )

    # Counting.

    def _count_calls(self, batch: Batch) -> None:
        assert batch.decision is not None
        for closing in batch.decision.changes.closings:
            call = closing.call
            tally = self.tally(call.organization_id)
            if call.call_id in tally.calls:
                _fail("once", f"call {call.call_id} is closed a second time")
            self._count_call(tally, call, 1)
            if call.charge + call.absorbed != closing.ending.metered:
                _fail("metered", f"{call} for {closing.ending}")
        for late in batch.decision.changes.late:
            call = late.call
            tally = self.tally(call.organization_id)
            old = tally.calls.get(call.call_id)
            if old is None or old.state is not CallState.LAPSED:
                _fail("once", f"call {call.call_id} is charged again: {old} becomes {call}")
            assert old is not None
            self._count_call(tally, old, -1)
            self._count_call(tally, call, 1)
            if call.charge + call.absorbed != late.ending.metered:
                _fail("metered", f"{call} for {late.ending}")

    def _count_call(self, tally: Tally, call: ClosedCall, sign: int) -> None:
        tally.calls[call.call_id] = call
        tally.spent += sign * call.charge
        tally.absorbed += sign * call.absorbed
        for draw in call.draws:
            tally.drawn[draw.grant_id] += sign * draw.amount
        if sum(draw.amount for draw in call.draws) + call.owed != call.charge:
            _fail("draws", f"{call}")

    def _count_journal(self) -> None:
        postings = self._database.ledger.postings
        for posting in postings[self._posted :]:
            if sum(posting.amounts) != 0:
                _fail("journal", f"unbalanced: {posting}")
            journal = self.tally(posting.organization_id).journal
            for account, amount in zip(posting.accounts, posting.amounts, strict=True):
                journal[account] += amount
        self._posted = len(postings)

    def _count_money(self, seen: _Seen) -> None:
        """Credit in, by the commands; debt that somebody asked for."""
        tally = seen.tally
        for command, _ in seen.fresh(GrantCredit, Granted):
            assert isinstance(command, GrantCredit)
            tally.granted += command.amount
        for command, _ in seen.fresh(Correct, Done):
            assert isinstance(command, Correct)
            tally.given_up += command.amount
        for command, _ in seen.fresh(Dispute, Done):
            assert isinstance(command, Dispute)
            tally.given_up += sum(g.amount for g in seen.grants if g.id == command.grant_id)
        if seen.org.on_overrun is OnOverrun.OWE:
            for _, answer in seen.fresh(Command, Closed):
                assert isinstance(answer, Closed)
                tally.given_up += answer.owed
        tally.floor_max = max(tally.floor_max, seen.before.organization.floor, seen.org.floor)

    # The promise.

    def _check_promise(self, seen: _Seen) -> None:
        """Charges + open holds <= credit + floor."""
        tally, org = seen.tally, seen.org
        held = sum(hold.amount for hold in seen.holds)
        if tally.spent + held > tally.granted + tally.floor_max + tally.given_up:
            _fail("promise", f"charged {tally.spent} and held {held} of {tally.granted}: {org}")
        taken = _taken(org, seen.grants, seen.now)
        holding = (*seen.fresh(Admit, Admitted), *seen.fresh(Extend, Done))
        if holding and taken > org.floor:
            _fail("promise", f"{taken} beyond credit, floor {org.floor}, after {holding}: {org}")
        for command, answer in holding:
            assert isinstance(command, Admit | Extend)
            project_id = _project_of(command, seen.holds)
            if project_id is not None:
                aside = tally.limits.set_aside(org, seen.holds, tally.calls, project_id)
                if taken + aside > org.floor and asks(command, Measure.MONEY, answer):
                    _fail("promise", f"{command} took of what is set aside for others: {aside}")
        if any(isinstance(command, OPERATORS) for command, _ in seen.said):
            return
        if org.on_overrun is OnOverrun.OWE:
            return
        lost = {grant.id for grant in seen.grants if grant.state is GrantState.LOST}
        allowed = sum(
            draw.amount
            for command, _ in seen.said
            if (call := tally.calls.get(getattr(command, "call_id", seen.org.id)))
            for draw in call.draws
            if draw.grant_id in lost
        )
        before = _taken(seen.before.organization, seen.before.grants, seen.now)
        if taken > max(org.floor, before) + allowed:
            _fail("promise", f"{taken} beyond credit, was {before}, floor {org.floor}: {seen.said}")

    # Identities.

    def _check_totals(self, seen: _Seen) -> None:
        org, tally, grants, holds = seen.org, seen.tally, seen.grants, seen.holds
        used = org.spent + org.reserved + org.unreserved + org.frozen + org.expired + org.refunded
        journal = tally.journal
        for name, stored, counted in (
            ("conservation", org.granted + org.owed, used),
            ("granted", org.granted, tally.granted),
            ("spent", org.spent, tally.spent),
            ("absorbed", org.absorbed, tally.absorbed),
            ("reserved", org.reserved, sum(h.amount - h.unsecured for h in holds)),
            ("unsecured_held", org.unsecured_held, sum(h.unsecured for h in holds)),
            ("frozen", org.frozen, sum(g.frozen for g in grants)),
            ("expired", org.expired, sum(g.expired for g in grants)),
            ("journal credit", -journal[Account.CUSTOMER_CREDIT], sum(g.remaining for g in grants)),
            ("journal receivable", journal[Account.RECEIVABLE], org.owed),
            ("journal revenue", -journal[Account.REVENUE], tally.spent + tally.absorbed),
            ("journal absorbed", journal[Account.ABSORBED], tally.absorbed),
            ("journal breakage", -journal[Account.BREAKAGE], org.expired),
            ("journal refunds", -journal[Account.REFUNDS], org.refunded),
            (
                "journal funding",
                journal[Account.CLEARING] + journal[Account.PROMOTION_EXPENSE],
                org.granted,
            ),
        ):
            if stored != counted:
                _fail("identity", f"{name}: {stored} is not {counted}: {org}")

    def _check_grants(self, seen: _Seen) -> None:
        earmarked: Counter[UUID] = Counter()
        for hold in seen.holds:
            if sum(mark.amount for mark in hold.earmarks) + hold.unsecured != hold.amount:
                _fail("earmarks", f"{hold}")
            for mark in hold.earmarks:
                earmarked[mark.grant_id] += mark.amount
        for grant in seen.grants:
            if grant.reserved != earmarked.pop(grant.id, 0):
                _fail("earmarks", f"open holds earmark otherwise than {grant} says")
            gone = seen.tally.drawn[grant.id] + grant.repaid + grant.expired + grant.refunded
            if grant.remaining + gone != grant.amount:
                _fail("identity", f"the parts of {grant} do not add up")
            if grant.has_expired(seen.now) and grant.state is GrantState.OPEN and grant.unreserved:
                _fail("identity", f"{grant} has ended and keeps unreserved money")
        if earmarked:
            _fail("earmarks", f"on no grant: {earmarked}")

    # What single answers owe.

    def _check_lapses(self, seen: _Seen) -> None:
        """A hold lapses only if its node is gone or its time is up, by compare-and-set."""
        for command, _ in seen.fresh(Lapse, Closed):
            assert isinstance(command, Lapse)
            hold = seen.before.holds.get(command.call_id)
            if hold is None:
                _fail("lapse", f"{command} closed a hold that was not open")
            assert hold is not None
            node = self._database.nodes[hold.node_id]
            if node.epoch == hold.epoch and seen.now < hold.latest_end:
                _fail("lapse", f"{command} closed {hold}, whose node was seen at {node.seen_at}")

    def _check_admissions(self, seen: _Seen, epochs: dict[UUID, int]) -> None:
        """A revoked key, a suspended organisation, a fenced epoch admit nothing."""
        for command, _ in seen.fresh(Admit, Admitted):
            assert isinstance(command, Admit)
            key = self._database.ledger.keys[command.dimensions.key_id]
            ended = key.expires_at is not None and key.expires_at <= seen.now
            if key.revoked_at or key.project_archived_at or ended or not seen.org.active:
                _fail("admission", f"{command} by {key} of {seen.org}")
            if epochs.get(command.node_id) != command.epoch:
                _fail("admission", f"{command} under an old epoch: {epochs}")
            hold = self._database.ledger.holds[command.call_id]
            low = command.fixed + price_up(command.output_min, command.output_price)
            high = command.fixed + price_up(command.output_max, command.output_price)
            if not low <= hold.amount <= high:
                _fail("admission", f"{hold} for {command}")
            for mark in hold.earmarks:
                grant = self._database.ledger.grants[mark.grant_id]
                if not grant.effective_at <= seen.now:
                    _fail("admission", f"{hold} earmarks {grant} before its time")
                if grant.expires_at is not None and seen.now >= grant.expires_at:
                    _fail("admission", f"{hold} earmarks {grant} after its time")

    def _check_refusals(self, seen: _Seen) -> None:
        """A call that was refused for money did not fit at its decision.

        Within a batch nothing gives money back after the first extension, so what was there for a
        refused command is what is there at the end and what later ones took.
        """
        turns: list[tuple[AnyCommand, Result]] = [s for s in seen.said if isinstance(s[0], Extend)]
        turns += [s for s in seen.said if isinstance(s[0], Admit)]
        spendable = seen.org.floor - _taken(seen.org, seen.grants, seen.now)
        for place, (command, answer) in enumerate(turns):
            if not isinstance(answer, Refused) or not _is_about_money(answer):
                continue
            assert isinstance(command, Admit | Extend)
            later, limits = turns[place + 1 :], seen.tally.limits
            rows = (seen.org, seen.holds, seen.tally.calls)
            room = spendable + sum(asks(c, Measure.MONEY, a) for c, a in later if took(c, a))
            project_id = _project_of(command, seen.holds)
            if project_id is not None:
                room -= limits.set_aside(*rows, project_id, later)
            if asks(command, Measure.MONEY) <= room and limits.fits(*rows, command, later):
                _fail("refusal", f"it fitted {room} and every limit: {command} got {answer}")


def _project_of(command: Admit | Extend, holds: list[Hold]) -> UUID | None:
    if isinstance(command, Admit):
        return command.dimensions.project_id
    return next((h.dimensions.project_id for h in holds if h.call_id == command.call_id), None)


def _is_about_money(refused: Refused) -> bool:
    """Tell whether a refusal is for lack of room, under the balance or a limit."""
    return refused.code in MONEY_CODES or refused.code.endswith("_limit_exceeded")


def _taken(org: Organization, grants: list[Grant], now: datetime) -> int:
    """How far debt and unsecured holds go beyond live credit that nobody holds."""
    live = sum(
        grant.remaining - grant.reserved - grant.frozen
        for grant in grants
        if grant.state is GrantState.OPEN
        and grant.effective_at <= now
        and (grant.expires_at is None or now < grant.expires_at)
    )
    return org.owed + org.unsecured_held - live


def _fail(check: str, message: str) -> None:
    raise SimulationError(check, message)
