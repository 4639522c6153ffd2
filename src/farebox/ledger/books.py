"""The working set of one organisation inside one batch: copies of its rows, and what they became.

Every change of money passes through these few methods, so that the organisation's totals, its
grants, its counters and the journal move together or not at all.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from farebox.kit.money import Nanos
from farebox.kit.periods import hour_start
from farebox.ledger.burndown import plan_draws, plan_earmarks
from farebox.ledger.counters import Amounts, Counters
from farebox.ledger.grants import Grant, GrantState, burn_key
from farebox.ledger.holds import Dimensions, Draw, Earmark, Hold
from farebox.ledger.journal import Account, PostingKind, posting
from farebox.ledger.state import (
    Changes,
    ClosedCall,
    Event,
    OrganizationState,
    RollupDelta,
    RollupKey,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from farebox.ledger.commands import Usage
    from farebox.ledger.organizations import Organization


class Counted(NamedTuple):
    """What a call has used, or (negative) what it had been counted with before."""

    call: Hold | ClosedCall
    model: str
    used: Amounts


class Books:
    """One organisation's money while a batch is being decided."""

    def __init__(
        self,
        state: OrganizationState,
        *,
        epochs: Mapping[UUID, int],
        catalogue_revision: int,
        now: datetime,
    ) -> None:
        self.state = state
        self.epochs = epochs
        self.catalogue_revision = catalogue_revision
        self.organization: Organization = copy(state.organization)
        # Engine time never runs backwards for an organisation, whatever the database's clock does.
        self.now = max(now, state.organization.last_time)
        self.organization.last_time = self.now
        self.grants: list[Grant] = sorted(map(copy, state.grants), key=burn_key)
        self.grant_by_id: dict[UUID, Grant] = {grant.id: grant for grant in self.grants}
        self.counters = Counters(
            self.organization.id, state.limits, now=self.now, zone=self.organization.zone
        )
        self.holds: dict[UUID, Hold] = dict(state.holds)
        self.closed: dict[UUID, ClosedCall] = dict(state.closed)
        self.known_commands: dict[UUID, bytes] = dict(state.known_commands)
        self.changes = Changes()
        self.touched = False
        self.calls_journal: dict[Account, int] = {}
        self.calls_sequences: list[int] = []
        self.counted: list[Counted] = []
        """What this batch's calls have used, for limits that begin in it."""
        self.changed_holds: dict[UUID, Hold] = {}
        self._touched_grants: set[UUID] = set()
        self._new_grants: set[UUID] = set()
        self._begin()

    def tick(self, by: timedelta) -> None:
        """Move engine time on, so that what comes after is told from what came before."""
        self.now += by
        self.organization.last_time = self.now
        self.counters.move_to(self.now)
        self.touched = True
        self._begin()

    # What the organisation can spend.

    @property
    def live_unreserved(self) -> int:
        """Live credit that no call holds."""
        live = 0
        for grant in self.grants:  # asked several times a call: no generator
            if grant.is_live(self.now):
                live += grant.unreserved
        return live

    @property
    def available(self) -> Nanos:
        """Live unreserved credit less what is owed and what stands on the floor (ENGINE.md)."""
        org = self.organization
        return Nanos(self.live_unreserved - org.owed - org.unsecured_held)

    @property
    def spendable(self) -> Nanos:
        """Available plus the floor: what a new hold may take."""
        return Nanos(self.available + self.organization.floor)

    def spendable_for(self, project_id: UUID) -> Nanos:
        """What a new hold of a project may take: not what is set aside for others (CRD-21)."""
        return Nanos(self.spendable - self.counters.set_aside(project_id))

    @property
    def held(self) -> Nanos:
        """What open calls hold, on grants and on the floor."""
        return Nanos(self.organization.reserved + self.organization.unsecured_held)

    # Grants.

    def _begin(self) -> None:
        """Post what time alone has done, the same whether a batch came in between or not.

        Repayment by grants that have begun, the first first; then breakage of those that ended.
        """
        begun = [grant for grant in self.grants if grant.repays and grant.has_begun(self.now)]
        for grant in sorted(begun, key=lambda grant: (grant.effective_at, grant.sequence)):
            self.repay_from(grant)
        for grant in self.grants:
            if grant.has_expired(self.now) and grant.unreserved > 0:
                assert grant.expires_at is not None
                self.break_off(grant, grant.unreserved, at=grant.expires_at)

    def add_grant(self, grant: Grant) -> None:
        """Put a new grant into the books, in burn-down order."""
        self.grants.append(grant)
        self.grants.sort(key=burn_key)
        self.grant_by_id[grant.id] = grant
        self._new_grants.add(grant.id)
        self.touched = True
        self.organization.granted = Nanos(self.organization.granted + grant.amount)
        self.organization.unreserved = Nanos(self.organization.unreserved + grant.amount)

    def touch(self, grant: Grant) -> None:
        """Note that a grant's row changed."""
        self.touched = True
        if grant.id not in self._new_grants:
            self._touched_grants.add(grant.id)

    def repay_from(self, grant: Grant) -> Nanos:
        """A repaying grant's first draw, at its beginning: what is owed (NEG-04)."""
        org = self.organization
        grant.repays = False
        part = Nanos(min(grant.unreserved, org.owed))
        grant.remaining = Nanos(grant.remaining - part)
        grant.repaid = Nanos(grant.repaid + part)
        org.owed = Nanos(org.owed - part)
        org.unreserved = Nanos(org.unreserved - part)
        self.touch(grant)
        if part:
            self.post(
                PostingKind.REPAYMENT,
                {Account.CUSTOMER_CREDIT: part, Account.RECEIVABLE: -part},
                grant_id=grant.id,
            )
        return part

    def break_off(
        self,
        grant: Grant,
        amount: Nanos,
        *,
        at: datetime,
        call_id: UUID | None = None,
        kind: PostingKind = PostingKind.BREAKAGE,
    ) -> None:
        """Post unreserved money of an ended grant as breakage (CRD-10, CRD-11).

        Of kind ``breakage`` there is one posting at the end and one per returned earmark; what a
        won dispute or a late answer brings back to an ended grant is of their kind.
        """
        org = self.organization
        grant.remaining = Nanos(grant.remaining - amount)
        grant.expired = Nanos(grant.expired + amount)
        org.unreserved = Nanos(org.unreserved - amount)
        org.expired = Nanos(org.expired + amount)
        self.touch(grant)
        self.changes.postings.append(
            posting(
                org.id,
                kind,
                at,
                {Account.CUSTOMER_CREDIT: amount, Account.BREAKAGE: -amount},
                grant_id=grant.id,
                call_id=call_id,
            )
        )

    def take_back(self, grant: Grant, amount: Nanos) -> None:
        """Move unreserved money of a grant to the operator: a refund, a lost dispute."""
        org = self.organization
        assert amount <= grant.unreserved, (amount, grant)
        grant.remaining = Nanos(grant.remaining - amount)
        grant.refunded = Nanos(grant.refunded + amount)
        org.unreserved = Nanos(org.unreserved - amount)
        org.refunded = Nanos(org.refunded + amount)
        self.touch(grant)

    def freeze(self, grant: Grant, amount: int) -> None:
        """Move unreserved money of a grant into its frozen part, or (negative) back."""
        org = self.organization
        grant.frozen = Nanos(grant.frozen + amount)
        org.frozen = Nanos(org.frozen + amount)
        org.unreserved = Nanos(org.unreserved - amount)
        self.touch(grant)

    # Holds.

    def earmark(self, amount: Nanos) -> tuple[list[Earmark], Nanos]:
        """Reserve live credit for a hold, the rest on the floor."""
        org = self.organization
        earmarks, unsecured = plan_earmarks(self.grants, amount, self.now)
        for mark in earmarks:
            self._reserve(self.grant_by_id[mark.grant_id], mark.amount)
        org.unsecured_held = Nanos(org.unsecured_held + unsecured)
        self.touched = True
        return earmarks, unsecured

    def _reserve(self, grant: Grant, amount: int) -> None:
        org = self.organization
        grant.reserved = Nanos(grant.reserved + amount)
        org.reserved = Nanos(org.reserved + amount)
        org.unreserved = Nanos(org.unreserved - amount)
        self.touch(grant)

    def undo_hold(self, hold: Hold, charge: Nanos) -> tuple[list[Draw], Nanos]:
        """Close a hold: draw the charge (at most the hold), give every other earmark back.

        Returns:
            The draws, and the part of the charge that is owed.
        """
        assert charge <= hold.amount, (charge, hold.amount)
        org = self.organization
        earmarked: dict[UUID, int] = {}
        for mark in hold.earmarks:
            earmarked[mark.grant_id] = earmarked.get(mark.grant_id, 0) + mark.amount
        draws, owed = plan_draws(
            self.grants,
            earmarked,
            charge,
            unsecured=hold.unsecured,
            spendable=self.spendable,
            now=self.now,
        )
        for grant_id, amount in earmarked.items():
            self._reserve(self.grant_by_id[grant_id], -amount)
        org.unsecured_held = Nanos(org.unsecured_held - hold.unsecured)
        for drawn in draws:
            self._draw(self.grant_by_id[drawn.grant_id], drawn.amount)
        org.owed = Nanos(org.owed + owed)
        org.spent = Nanos(org.spent + charge)
        for grant_id in earmarked:
            self.return_to(self.grant_by_id[grant_id], call_id=hold.call_id)
        self.touched = True
        return draws, owed

    def _draw(self, grant: Grant, amount: int) -> None:
        org = self.organization
        grant.remaining = Nanos(grant.remaining - amount)
        org.unreserved = Nanos(org.unreserved - amount)
        assert grant.unreserved >= 0, grant
        self.touch(grant)
        if grant.state is GrantState.LOST:
            # The payment behind it is gone, so what a running call still drew is owed instead.
            org.owed = Nanos(org.owed + amount)
            org.refunded = Nanos(org.refunded + amount)
            self.post(
                PostingKind.DISPUTE_LOST,
                {Account.RECEIVABLE: amount, Account.REFUNDS: -amount},
                grant_id=grant.id,
            )

    def return_to(
        self, grant: Grant, *, call_id: UUID, kind: PostingKind = PostingKind.BREAKAGE
    ) -> None:
        """Settle what came back to a grant that is no longer live."""
        back = grant.unreserved
        if back == 0:
            return
        if grant.state is GrantState.FROZEN:
            self.freeze(grant, back)
        elif grant.state is GrantState.LOST:
            self.take_back(grant, back)
            self.post(
                PostingKind.DISPUTE_LOST,
                {Account.CUSTOMER_CREDIT: back, Account.REFUNDS: -back},
                grant_id=grant.id,
                call_id=call_id,
            )
        elif grant.has_expired(self.now):
            self.break_off(grant, back, at=self.now, call_id=call_id, kind=kind)

    def change_hold(self, hold: Hold) -> None:
        """Put a changed open hold in place of the old one."""
        self.holds[hold.call_id] = hold
        self.changed_holds[hold.call_id] = hold
        self.touched = True

    def charge_more(self, amount: Nanos, closed: ClosedCall) -> tuple[list[Draw], Nanos]:
        """Charge a closed call a further amount that fits: live credit, then the floor."""
        earmarks, unsecured = self.earmark(amount)
        passing = Hold(
            call_id=closed.call_id,
            organization_id=closed.organization_id,
            node_id=closed.call_id,
            epoch=0,
            amount=amount,
            unsecured=unsecured,
            earmarks=tuple(earmarks),
            raised=(),
            admitted_at=closed.admitted_at,
            latest_end=closed.admitted_at,
            dimensions=closed.dimensions,
            fingerprint=closed.admit_fingerprint,
            output_limit=0,
        )
        return self.undo_hold(passing, amount)

    def give_back(self, amount: Nanos, closed: ClosedCall) -> tuple[tuple[Draw, ...], Nanos]:
        """Reverse a part of a closed call's charge: what is owed for it, then the last draw first.

        Returns:
            The draws that remain, and how much less is owed for the call.
        """
        org = self.organization
        owed = Nanos(min(amount, closed.owed))
        self._forgive(owed, call_id=closed.call_id)
        rest = amount - owed
        kept: list[Draw] = []
        for drawn in reversed(closed.draws):
            back = Nanos(min(rest, drawn.amount))
            rest -= back
            if back < drawn.amount:
                kept.insert(0, Draw(drawn.grant_id, Nanos(drawn.amount - back)))
            if back:
                self._undraw(self.grant_by_id[drawn.grant_id], back, call_id=closed.call_id)
        assert rest == 0, (amount, closed)
        org.spent = Nanos(org.spent - amount)
        return tuple(kept), owed

    def _undraw(self, grant: Grant, amount: Nanos, *, call_id: UUID) -> None:
        """Put drawn money back into its grant, and on from there if the grant is not live."""
        org = self.organization
        grant.remaining = Nanos(grant.remaining + amount)
        org.unreserved = Nanos(org.unreserved + amount)
        self.touch(grant)
        self.return_to(grant, call_id=call_id, kind=PostingKind.LATE)
        if grant.state is GrantState.LOST:
            # It was owed since the dispute was lost; now it is taken back from the grant instead.
            self._forgive(amount, call_id=call_id)
            org.refunded = Nanos(org.refunded - amount)
            self.post(
                PostingKind.DISPUTE_LOST,
                {Account.RECEIVABLE: -amount, Account.REFUNDS: amount},
                grant_id=grant.id,
                call_id=call_id,
            )

    def _forgive(self, amount: Nanos, *, call_id: UUID) -> None:
        """Owe less; what has been repaid by now goes back to the grants that repaid it."""
        org = self.organization
        for grant in sorted(self.grants, key=lambda grant: -grant.sequence):
            paid = grant.repaid if grant.state is not GrantState.LOST else 0
            back = Nanos(min(paid, max(0, amount - org.owed)))
            if back:
                grant.repaid = Nanos(grant.repaid - back)
                grant.remaining = Nanos(grant.remaining + back)
                org.unreserved = Nanos(org.unreserved + back)
                org.owed = Nanos(org.owed + back)
                self.touch(grant)
                self.post(
                    PostingKind.REPAYMENT,
                    {Account.CUSTOMER_CREDIT: -back, Account.RECEIVABLE: back},
                    grant_id=grant.id,
                    call_id=call_id,
                )
                self.return_to(grant, call_id=call_id, kind=PostingKind.LATE)
        org.owed = Nanos(org.owed - amount)

    def charge_debt(self, amount: Nanos) -> None:
        """Charge usage beyond every hold and limit as debt (``on_overrun: owe``)."""
        org = self.organization
        org.owed = Nanos(org.owed + amount)
        org.spent = Nanos(org.spent + amount)
        self.touched = True

    # Records.

    def next_sequence(self) -> int:
        """The next number of this organisation."""
        self.organization.sequence += 1
        return self.organization.sequence

    def post(
        self,
        kind: PostingKind,
        entries: dict[Account, int],
        *,
        grant_id: UUID | None = None,
        call_id: UUID | None = None,
        note: str | None = None,
    ) -> None:
        """Add a posting dated at engine time."""
        self.changes.postings.append(
            posting(
                self.organization.id,
                kind,
                self.now,
                entries,
                grant_id=grant_id,
                call_id=call_id,
                note=note,
            )
        )

    def roll_up(
        self,
        call: Hold | ClosedCall,
        dimensions: Dimensions,
        usage: Usage,
        *,
        calls: int,
        charge: int,
        absorbed: int,
        cost: int,
    ) -> None:
        """Add a call, or a late change of one, to the hour it was admitted in."""
        used = Amounts(charge, usage.input_tokens + usage.output_tokens, calls)
        self.counted.append(Counted(call, dimensions.model, used))
        key = RollupKey(self.organization.id, hour_start(call.admitted_at), dimensions)
        delta = self.changes.rollups.setdefault(key, RollupDelta())
        delta.calls += calls
        delta.charge += charge
        delta.absorbed += absorbed
        delta.cost += cost
        delta.input_tokens += usage.input_tokens
        delta.cached_tokens += usage.cached_tokens
        delta.cache_write_tokens += usage.cache_write_tokens
        delta.output_tokens += usage.output_tokens
        delta.reasoning_tokens += usage.reasoning_tokens

    def tell(self, kind: str, **facts: str) -> None:
        """Leave word in the outbox."""
        self.changes.events.append(Event(self.organization.id, kind, self.now, facts))
        self.touched = True

    def close(self) -> Changes:
        """End the batch: post its calls as one posting and hand over every changed row."""
        changes = self.changes
        if self.calls_sequences:
            changes.postings.append(
                posting(
                    self.organization.id,
                    PostingKind.CALLS,
                    self.now,
                    self.calls_journal,
                    sequences=(self.calls_sequences[0], self.calls_sequences[-1]),
                )
            )
        self._assert_sound()
        changes.holds.extend(self.changed_holds.values())
        changes.grants.extend(self.grant_by_id[grant_id] for grant_id in self._touched_grants)
        changes.new_grants.extend(self.grant_by_id[grant_id] for grant_id in self._new_grants)
        changes.forgotten.extend((self.organization.id, n) for n in self.counters.forgotten)
        changes.limits.extend(self.counters.changed)
        changes.counters.extend(self.counters.counted)
        # Whoever remembers an organisation knows by its row whether anything of it changed.
        if self.touched or changes.limits or changes.counters:
            changes.organizations.append(self.organization)
        return changes

    def _assert_sound(self) -> None:
        """The invariants that no batch may break, checked in production too."""
        org = self.organization
        assert org.is_balanced(), org
        assert min(org.owed, org.unsecured_held, org.absorbed, org.spent) >= 0, org
        unreserved = reserved = frozen = 0
        for grant in self.grants:
            assert 0 <= grant.reserved + grant.frozen <= grant.remaining <= grant.amount, grant
            assert min(grant.reserved, grant.frozen, grant.drawn) >= 0, grant
            unreserved += grant.unreserved
            reserved += grant.reserved
            frozen += grant.frozen
        assert (unreserved, reserved, frozen) == (org.unreserved, org.reserved, org.frozen), org
