"""Small scenes for tests of the engine: one organisation, short names, amounts in whole nanos.

Every batch runs on the in-memory rows and is audited afterwards, so that each example also shows
that the books stay sound.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Attribution,
    Closed,
    Correct,
    Dispute,
    DisputeStep,
    Done,
    ExpireGrants,
    Extend,
    GrantCredit,
    Granted,
    Lapse,
    LineItem,
    Refund,
    Refused,
    Release,
    Report,
    Result,
    SetFloor,
    SetLimit,
    Settle,
    Usage,
)
from farebox.ledger.grants import Grant, Source
from farebox.ledger.holds import Dimensions, Hold
from farebox.ledger.journal import Account
from farebox.ledger.limits import Measure, Period, Window
from farebox.ledger.organizations import OnLapse, OnOverrun, Organization
from farebox.ledger.state import ClosedCall, KeyFacts
from tests.support.ledger_memory import MemoryLedger, audit

if TYPE_CHECKING:
    from farebox.ledger.journal import PostingKind

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TOKEN = 1_000_000
"""The price at which one token costs one nano."""

T = TypeVar("T")


class Scene:
    """One organisation (or several on the same rows) and the commands a test gives."""

    def __init__(
        self,
        *,
        zone: str = "UTC",
        now: datetime = NOON,
        floor: int = 0,
        on_overrun: OnOverrun = OnOverrun.ABSORB,
        on_lapse: OnLapse = OnLapse.METERED,
        ledger: MemoryLedger | None = None,
    ) -> None:
        self.now = now
        self.ledger = ledger or MemoryLedger()
        self.number = 1 + len(self.ledger.organizations)
        self.id = UUID(int=self.number << 64)
        self.names: dict[str, UUID] = {}
        self.holders: dict[str, tuple[UUID, int]] = {}
        self.ledger.add_organization(
            self.id, now, zone=zone, on_overrun=on_overrun, on_lapse=on_lapse
        ).floor = Nanos(floor)
        self.put_key()
        self.ledger.epochs[self.named("node")] = 1

    # --- names and time -----------------------------------------------------------------------

    def named(self, name: str) -> UUID:
        """The id behind a name."""
        return self.names.setdefault(name, UUID(int=(self.number << 64) + len(self.names) + 1))

    def put_key(
        self,
        *,
        expires_at: datetime | None = None,
        revoked_at: datetime | None = None,
        project_archived_at: datetime | None = None,
    ) -> None:
        """The facts of the organisation's key."""
        key_id, project_id = self.named("key"), self.named("project")
        self.ledger.add_key(
            KeyFacts(key_id, self.id, project_id, expires_at, revoked_at, project_archived_at)
        )

    def put_other_key(self, key: str, project: str) -> None:
        """One more key, of whatever project."""
        facts = KeyFacts(self.named(key), self.id, self.named(project), None, None, None)
        self.ledger.add_key(facts)

    def later(self, step: timedelta) -> None:
        """Let time pass (or, with a negative step, set the database's clock back)."""
        self.now += step

    def fence(self) -> None:
        """The node comes back with a new epoch."""
        self.ledger.epochs[self.named("node")] += 1

    # --- commands -----------------------------------------------------------------------------

    def run(self, *commands: AnyCommand) -> list[Result]:
        """One batch."""
        results = self.ledger.run(commands, self.now)
        audit(self.ledger)
        return results

    def one(self, command: AnyCommand, kind: type[T]) -> T:
        """A batch of one command, whose answer must be of a kind."""
        (result,) = self.run(command)
        assert isinstance(result, kind), result
        return result

    def grant(
        self,
        name: str,
        amount: int,
        source: str = "free",
        *,
        starts: datetime | None = None,
        ends: datetime | None = None,
        default_expiry: bool = False,
        reference: str | None = None,
    ) -> GrantCredit:
        return GrantCredit(
            organization_id=self.id,
            grant_id=self.named(name),
            source=Source(source),
            amount=Nanos(amount),
            effective_at=starts,
            expires_at=ends,
            default_expiry=default_expiry,
            reference=reference,
        )

    def give(
        self,
        name: str,
        amount: int,
        source: str = "free",
        *,
        starts: datetime | None = None,
        ends: datetime | None = None,
    ) -> Granted:
        """Give credit that must be taken."""
        return self.one(self.grant(name, amount, source, starts=starts, ends=ends), Granted)

    def admit(
        self,
        name: str,
        fixed: int,
        *,
        price: int = 0,
        tokens: tuple[int, int] = (0, 0),
        revision: int = 1,
        latest_end_after: timedelta = 2 * HOUR,
        model: str = "gpt",
        key: str = "key",
        project: str = "project",
        feature: str = "",
        environment: str = "",
        input_tokens: int = 0,
        **about: Any,
    ) -> Admit:
        """A call; what else is said of it (user, run, tags) is its attribution."""
        node = self.named("node")
        self.holders.setdefault(name, (node, self.ledger.epochs[node]))
        return Admit(
            organization_id=self.id,
            call_id=self.named(name),
            node_id=node,
            epoch=self.holders[name][1],
            catalogue_revision=revision,
            fixed=Nanos(fixed),
            output_price=price,
            output_min=tokens[0],
            output_max=tokens[1],
            latest_end_after=latest_end_after,
            dimensions=Dimensions(
                project_id=self.named(project),
                key_id=self.named(key),
                feature=feature,
                environment=environment,
                model=model,
                lane="standard",
                endpoint="chat",
            ),
            price_id=self.named("price"),
            upstream_account_id=self.named("account"),
            input_tokens=input_tokens,
            attribution=Attribution(**about),
        )

    def hold(self, name: str, amount: int, **about: Any) -> Admitted:
        """Admit a call that must be admitted."""
        return self.one(self.admit(name, amount, **about), Admitted)

    def refuse(self, name: str, amount: int, **about: Any) -> Refused:
        """Ask for a call that must be refused."""
        return self.one(self.admit(name, amount, **about), Refused)

    def settle(
        self,
        name: str,
        metered: int,
        *,
        usage: Usage | None = None,
        tokens: int = 0,
        cost: int = 0,
        lane: str = "",
    ) -> Settle:
        return Settle(
            organization_id=self.id,
            call_id=self.named(name),
            metered=Nanos(metered),
            cost=Nanos(cost),
            lines=(LineItem("token", metered, TOKEN, Nanos(metered)),) if metered else (),
            usage=usage or Usage(input_tokens=tokens // 2, output_tokens=tokens - tokens // 2),
            lane=lane,
        )

    def charge(self, name: str, metered: int, *, tokens: int = 0) -> Closed:
        """Settle a call that must settle."""
        return self.one(self.settle(name, metered, tokens=tokens), Closed)

    def release(self, name: str) -> Release:
        return Release(organization_id=self.id, call_id=self.named(name), reason="failed")

    def extend(self, name: str, amount: int, *, step: int = 1, tokens: int = 0) -> Extend:
        node, epoch = self.holders[name]
        return Extend(
            organization_id=self.id,
            call_id=self.named(name),
            node_id=node,
            epoch=epoch,
            amount=Nanos(amount),
            step=step,
            tokens=tokens,
        )

    def report(self, name: str, metered: int, *, cost: int = 0) -> Report:
        node, epoch = self.holders[name]
        return Report(
            organization_id=self.id,
            call_id=self.named(name),
            node_id=node,
            epoch=epoch,
            metered=Nanos(metered),
            cost=Nanos(cost),
            input_tokens=1,
            output_tokens=metered,
        )

    def lapse(self, name: str) -> Lapse:
        node, epoch = self.holders[name]
        return Lapse(
            organization_id=self.id,
            call_id=self.named(name),
            node_id=node,
            epoch=epoch,
            reason="unseen",
        )

    def vanish(self, name: str) -> Closed:
        """The node is fenced and the call lapses."""
        self.fence()
        return self.one(self.lapse(name), Closed)

    def expire_command(self) -> ExpireGrants:
        return ExpireGrants(organization_id=self.id)

    def expire(self) -> Done:
        return self.one(self.expire_command(), Done)

    def refund(self, name: str, grant: str, amount: int) -> Refund:
        return Refund(
            organization_id=self.id,
            command_id=self.named(name),
            grant_id=self.named(grant),
            amount=Nanos(amount),
            note="billing error",
        )

    def dispute_command(self, grant: str, step: str) -> Dispute:
        return Dispute(organization_id=self.id, grant_id=self.named(grant), step=DisputeStep(step))

    def dispute(self, grant: str, step: str) -> Done:
        return self.one(self.dispute_command(grant, step), Done)

    def correct(self, name: str, amount: int) -> Correct:
        return Correct(
            organization_id=self.id,
            command_id=self.named(name),
            amount=Nanos(amount),
            note="counted twice",
        )

    def owe(self, amount: int) -> None:
        """Make debt: an operator's correction with no credit there."""
        assert self.available == -self.org.owed
        self.one(self.correct(f"debt {len(self.names)}", amount), Done)

    def limit(self, maximum: int | None, **which: Any) -> SetLimit:
        """A limit: the organisation's money in a month, unless told otherwise."""
        settings: dict[str, Any] = {"period": Period.MONTH} | which
        if settings.get("measure") is Measure.PARALLEL:
            settings["period"] = Period.TOTAL
        return SetLimit(organization_id=self.id, maximum=maximum, **settings)

    def set_limit(self, maximum: int | None, **which: Any) -> Done:
        return self.one(self.limit(maximum, **which), Done)

    def floor_command(self, floor: int) -> SetFloor:
        return SetFloor(organization_id=self.id, floor=Nanos(floor))

    def set_floor(self, floor: int) -> Done:
        return self.one(self.floor_command(floor), Done)

    # --- what stands in the rows --------------------------------------------------------------

    @property
    def org(self) -> Organization:
        """The organisation's row."""
        return self.ledger.organizations[self.id]

    @property
    def available(self) -> int:
        """Live unreserved credit less what is owed and what stands on the floor."""
        live = sum(g.unreserved for g in self.grants() if g.is_live(self.now))
        return live - self.org.owed - self.org.unsecured_held

    def grants(self) -> list[Grant]:
        return [g for g in self.ledger.grants.values() if g.organization_id == self.id]

    def lot(self, name: str) -> Grant:
        return self.ledger.grants[self.named(name)]

    def left(self, *names: str) -> dict[str, int]:
        """What remains of grants."""
        return {name: self.lot(name).remaining for name in names}

    def open(self, name: str) -> Hold:
        return self.ledger.holds[self.named(name)]

    def call(self, name: str) -> ClosedCall:
        return self.ledger.calls[self.named(name)]

    def _shares(self, parts: list[tuple[UUID, Nanos]]) -> dict[str, int]:
        back = {value: key for key, value in self.names.items()}
        sums: dict[str, int] = {}
        for grant_id, amount in parts:
            sums[back[grant_id]] = sums.get(back[grant_id], 0) + amount
        return sums

    def marks(self, name: str) -> dict[str, int]:
        """What an open call has earmarked, per grant."""
        return self._shares([(m.grant_id, m.amount) for m in self.open(name).earmarks])

    def drawn(self, name: str) -> dict[str, int]:
        """What a closed call drew, per grant."""
        return self._shares([(d.grant_id, d.amount) for d in self.call(name).draws])

    def windows(self, **which: Any) -> list[Window]:
        """The windows of a limit that are kept, oldest first; without words, as :meth:`limit`."""
        wanted = self.limit(0, **which)
        limits = self.ledger.limits[self.id, wanted.scope.number]
        return limits.windows.get(wanted.number, [])

    def window(self, **which: Any) -> Window:
        """The newest of them."""
        return self.windows(**which)[-1]

    def counted(self, **which: Any) -> tuple[int, int]:
        """What the newest of them has used and what open calls hold in it."""
        window = self.window(**which)
        return window.used, window.held

    def posted(self, kind: PostingKind) -> list[dict[Account, int]]:
        """The journal's postings of a kind, in order."""
        return [
            dict(zip(p.accounts, p.amounts, strict=True))
            for p in self.ledger.postings
            if p.kind is kind and p.organization_id == self.id
        ]

    def told(self, kind: str) -> list[dict[str, str]]:
        """What was told of a kind."""
        return [e.facts for e in self.ledger.events if e.kind == kind]
