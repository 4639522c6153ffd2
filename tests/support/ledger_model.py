"""A second, plain implementation of the money rules, to compare the engine with.

It keeps facts only (grants with who drew what, calls with what they hold and cost) and computes
every total anew by summing them: no counters, no batches, no indexes. Slow and obvious on purpose.
Promise: written from the rules, not from the engine's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID
from zoneinfo import ZoneInfo

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
    Refund,
    Release,
    Report,
    SetFloor,
    SetLimit,
    Settle,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from farebox.ledger.state import KeyFacts

CLASSES = (
    ("free", "promo", "grant", "adjustment"),
    ("business", "contract"),
    ("purchased",),
)
KEPT = timedelta(days=35)
FAR = datetime.max.replace(tzinfo=UTC)

Answer = dict[str, object]


@dataclass
class Lot:
    """A grant and everything that ever happened to its money."""

    id: UUID
    asked: GrantCredit
    start: datetime
    end: datetime
    number: int
    state: str = "open"
    drawn: dict[UUID, int] = field(default_factory=dict)
    repaid: int = 0
    broken: dict[UUID | None, int] = field(default_factory=dict)
    taken: int = 0
    repays_next: bool = False

    @property
    def remaining(self) -> int:
        gone = sum(self.drawn.values()) + sum(self.broken.values())
        return self.asked.amount - gone - self.repaid - self.taken

    def order(self) -> tuple[int, datetime, datetime, int]:
        source = self.asked.source.value
        number = next(i for i, sources in enumerate(CLASSES) if source in sources)
        return (number, self.end, self.start, self.number)


@dataclass
class Call:
    """An admitted call."""

    asked: Admit
    at: datetime
    output_limit: int
    held: int = 0
    earmarks: dict[UUID, int] = field(default_factory=dict)
    floor_part: int = 0
    state: str = "open"
    charge: int = 0
    absorbed: int = 0
    owed: int = 0
    progress: Report | None = None
    steps: int = 0
    settled_by: Settle | None = None


class ModelOrg:
    """One organisation, and the rules."""

    def __init__(self, org_id: UUID, zone: str, now: datetime) -> None:
        self.id = org_id
        self.zone = ZoneInfo(zone)
        self.now = now
        self.floor = 0
        self.on_overrun = "absorb"
        self.on_lapse = "metered"
        self.active = True
        self.lots: dict[UUID, Lot] = {}
        self.calls: dict[UUID, Call] = {}
        self.owed = 0
        self.owed_and_taken = 0
        """Debt that stands for credit taken back after it was spent."""
        self.maximum: int | None = None
        self.counted_months: set[datetime] = set()
        self.commands: dict[UUID, AnyCommand] = {}
        self.numbers = 0

    # --- what can be seen ---------------------------------------------------------------------

    def open_calls(self) -> Iterable[Call]:
        return [call for call in self.calls.values() if call.state == "open"]

    def reserved(self, lot: Lot) -> int:
        return sum(call.earmarks.get(lot.id, 0) for call in self.open_calls())

    def unheld(self, lot: Lot) -> int:
        return lot.remaining - self.reserved(lot)

    def is_live(self, lot: Lot) -> bool:
        return lot.state == "open" and lot.start <= self.now < lot.end

    def live(self) -> list[Lot]:
        return sorted((lot for lot in self.lots.values() if self.is_live(lot)), key=Lot.order)

    def floor_held(self) -> int:
        return sum(call.floor_part for call in self.open_calls())

    def spendable(self) -> int:
        unheld = sum(self.unheld(lot) for lot in self.live())
        return unheld - self.owed - self.floor_held() + self.floor

    def posted(self) -> int:
        return sum(lot.remaining for lot in self.live()) - self.owed + self.floor

    def month(self, at: datetime) -> datetime:
        local = at.astimezone(self.zone)
        return datetime(local.year, local.month, 1, tzinfo=self.zone).astimezone(UTC)

    def used(self, month: datetime) -> int:
        return sum(c.charge for c in self.calls.values() if self.month(c.at) == month)

    def held(self, month: datetime) -> int:
        return sum(c.held for c in self.open_calls() if self.month(c.at) == month)

    def limit_room(self, at: datetime) -> int | None:
        month = self.month(at)
        if self.maximum is None or month not in {*self.counted_months, self.month(self.now)}:
            return None
        return self.maximum - self.used(month) - self.held(month)

    # --- time ---------------------------------------------------------------------------------

    def tick(self, now: datetime) -> None:
        self.now = max(self.now, now)
        for lot in sorted(self.lots.values(), key=lambda lot: (lot.start, lot.number)):
            if lot.repays_next and lot.state == "open" and lot.start <= self.now:
                lot.repays_next = False
                lot.repaid = min(self.owed, lot.remaining)
                self.owed -= lot.repaid
        for lot in self.lots.values():
            self.put_away(lot, None)

    def put_away(self, lot: Lot, call: UUID | None) -> None:
        """What nobody holds of a grant that has ended is breakage, of a lost one taken back."""
        unheld = self.unheld(lot)
        if unheld and lot.state == "lost":
            lot.taken += unheld
        elif unheld and lot.state == "open" and self.now >= lot.end:
            lot.broken[call] = lot.broken.get(call, 0) + unheld

    # --- commands -----------------------------------------------------------------------------

    def apply(self, command: AnyCommand, world: World) -> Answer:
        self.tick(world.now)
        rules: dict[type, Callable[..., Answer]] = {
            Admit: self.admit,
            Extend: self.extend,
            Settle: self.settle,
            Release: self.release,
            Lapse: self.lapse,
            Report: self.report,
            GrantCredit: self.grant,
            ExpireGrants: lambda *_: self.done(),
            Refund: self.refund,
            Dispute: self.dispute,
            Correct: self.correct,
            SetLimit: self.set_limit,
            SetFloor: self.set_floor,
        }
        return rules[type(command)](command, world)

    def done(self, amount: int = 0, *, exists: bool = False) -> Answer:
        return {"available": self.spendable() - self.floor, "amount": amount, "exists": exists}

    def earmark(self, call: Call, amount: int) -> None:
        call.held += amount
        for lot in self.live():
            part = min(amount, self.unheld(lot))
            if part > 0:
                call.earmarks[lot.id] = call.earmarks.get(lot.id, 0) + part
                amount -= part
        call.floor_part += amount

    def lacks(self, at: datetime, amount: int, own: int = 0) -> str | None:
        """Why a hold cannot be had; what waiting cannot mend comes before what it can."""
        waits = None
        if amount > self.spendable():
            if own + amount > self.posted():
                return "credit_balance_exhausted"
            waits = "balance_held"
        room = self.limit_room(at)
        if room is not None and amount > room:
            if own + amount > room + self.held(self.month(at)):
                return "organization_spend_limit_exceeded"
            waits = "balance_held"
        return waits

    def admit(self, c: Admit, world: World) -> Answer:
        known = self.calls.get(c.call_id)
        if known is not None:
            if known.asked != c:
                return {"refused": "exists_with_different_fields"}
            if known.state != "open":
                return {"refused": "hold_closed"}
            return {
                "held": known.held,
                "output_limit": known.output_limit,
                "available": self.spendable() - self.floor,
                "admitted_at": known.at,
                "exists": True,
            }
        barred = world.bars(self, c)
        if barred:
            return {"refused": barred}
        tokens = c.output_max
        if c.output_price and c.output_min < c.output_max:
            quarter = max(0, self.spendable()) // 4
            tokens = min(tokens, quarter * 1_000_000 // c.output_price)
            room = self.limit_room(self.now)
            have = self.spendable() if room is None else min(room, self.spendable())
            tokens = min(tokens, max(0, max(0, have) - c.fixed) * 1_000_000 // c.output_price)
        tokens = max(tokens, c.output_min)
        amount = c.fixed - (-tokens * c.output_price // 1_000_000)
        lacks = self.lacks(self.now, amount)
        if lacks:
            return {"refused": lacks}
        self.count_month()
        call = Call(asked=c, at=self.now, output_limit=tokens)
        self.calls[c.call_id] = call
        self.earmark(call, amount)
        return {
            "held": amount,
            "output_limit": tokens,
            "available": self.spendable() - self.floor,
            "admitted_at": self.now,
            "exists": False,
        }

    def count_month(self) -> None:
        """A month that begins under a limit is counted; one that nothing can reach is forgotten."""
        month = self.month(self.now)
        if self.maximum is not None and month not in self.counted_months:
            self.counted_months = {
                old
                for old in self.counted_months
                if self.held(old) or self.month(old + timedelta(days=40)) + KEPT > self.now
            } | {month}

    def extend(self, c: Extend, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None or call.state != "open":
            return {"refused": "hold_not_found"}
        if (call.asked.node_id, call.asked.epoch) != (c.node_id, c.epoch):
            return {"refused": "stale_epoch"}
        if world.epochs.get(c.node_id) != c.epoch:
            return {"refused": "stale_epoch"}
        if c.step <= call.steps:
            return self.done(call.held, exists=True)
        lacks = self.lacks(call.at, c.amount, call.held)
        if lacks:
            return {"refused": lacks}
        self.earmark(call, c.amount)
        call.steps = c.step
        return self.done(call.held)

    def fits(self, call: Call, amount: int) -> int:
        """How much of an amount beyond the hold credit, floor and limits can take."""
        room = self.limit_room(call.at)
        have = self.spendable() if room is None else min(room, self.spendable())
        return max(0, min(amount, have))

    def draw(self, call: Call, amount: int, own: dict[UUID, int]) -> None:
        """Draw in burn-down order from own earmarks and credit that nobody holds.

        Where the organisation is in debt, what live credit cannot carry comes from own earmarks on
        ended grants first: else a settle would spend credit that others, or the debt, stand on.
        """
        lots = sorted(self.lots.values(), key=Lot.order)
        live_own = sum(own.get(lot.id, 0) for lot in lots if self.is_live(lot))
        must = amount - live_own - call.floor_part - max(0, self.spendable())
        parts = dict.fromkeys(self.lots, 0)
        for lot in lots:
            if not self.is_live(lot):
                parts[lot.id] = max(0, min(must, own.get(lot.id, 0)))
                must -= parts[lot.id]
        rest = amount - sum(parts.values())
        for lot in lots:
            can = own.get(lot.id, 0) - parts[lot.id]
            can += self.unheld(lot) if self.is_live(lot) else 0
            part = min(rest, can)
            parts[lot.id] += part
            rest -= part
        call.earmarks = {}
        call.floor_part = 0
        for lot in lots:
            if parts[lot.id]:
                lot.drawn[call.asked.call_id] = lot.drawn.get(call.asked.call_id, 0) + parts[lot.id]
                if lot.state == "lost":
                    self.owed += parts[lot.id]
                    self.owed_and_taken += parts[lot.id]
        call.owed += rest
        self.owed += rest

    def charge_beyond(self, call: Call, amount: int) -> int:
        """What neither credit nor floor nor limits can take: owed, or absorbed."""
        if self.on_overrun == "owe":
            call.charge += amount
            call.owed += amount
            self.owed += amount
            return 0
        return amount

    def close(self, call: Call, state: str, metered: int) -> Answer:
        beyond = self.fits(call, max(0, metered - call.held))
        charge = min(metered, call.held) + beyond
        own = dict(call.earmarks)
        self.draw(call, charge, own)
        call.charge = charge
        call.state = state
        call.absorbed = self.charge_beyond(call, metered - charge)
        for lot_id in own:
            self.put_away(self.lots[lot_id], call.asked.call_id)
        return self.closed(call)

    def closed(self, call: Call, *, exists: bool = False) -> Answer:
        return {
            "state": call.state,
            "charge": call.charge,
            "absorbed": call.absorbed,
            "owed": call.owed,
            "available": self.spendable() - self.floor,
            "exists": exists,
        }

    def settle(self, c: Settle, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None:
            return {"refused": "hold_not_found"}
        if call.state == "open":
            call.settled_by = c
            return self.close(call, "settled", c.metered)
        if call.state == "lapsed":
            call.settled_by = c
            return self.late(call, c.metered)
        if call.settled_by == c:
            return self.closed(call, exists=True)
        return {"refused": "exists_with_different_fields"}

    def late(self, call: Call, metered: int) -> Answer:
        call.state = "late"
        if metered >= call.charge:
            more = self.fits(call, metered - call.charge)
            self.draw(call, more, {})
            call.charge += more
            call.absorbed = self.charge_beyond(call, metered - call.charge)
            return self.closed(call)
        back = call.charge - metered
        call.charge = metered
        call.absorbed = 0
        forgiven = min(back, call.owed)
        call.owed -= forgiven
        self.forgive(forgiven, call)
        back -= forgiven
        for lot in sorted(self.lots.values(), key=Lot.order, reverse=True):
            part = min(back, lot.drawn.get(call.asked.call_id, 0))
            if part:
                lot.drawn[call.asked.call_id] -= part
                back -= part
                self.put_away(lot, call.asked.call_id)
                if lot.state == "lost":
                    self.forgive(part, call)
                    self.owed_and_taken -= part
        return self.closed(call)

    def forgive(self, amount: int, call: Call) -> None:
        """Owe less; what was repaid meanwhile returns to who repaid it, the newest grant first."""
        for lot in sorted(self.lots.values(), key=lambda lot: -lot.number):
            part = min(max(0, amount - self.owed), lot.repaid)
            if part and lot.state != "lost":
                lot.repaid -= part
                self.owed += part
                self.put_away(lot, call.asked.call_id)
        assert amount <= self.owed
        self.owed -= amount

    def release(self, c: Release, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None:
            return {"refused": "hold_not_found"}
        if call.state == "open":
            return self.close(call, "released", 0)
        if call.state == "lapsed":
            return self.late(call, 0)
        return self.closed(call, exists=True)

    def lapse(self, c: Lapse, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None or call.state != "open":
            return {"refused": "hold_not_found"}
        if (call.asked.node_id, call.asked.epoch) != (c.node_id, c.epoch):
            return {"refused": "hold_not_found"}
        late = self.now >= call.at + call.asked.latest_end_after
        if world.epochs.get(c.node_id) == c.epoch and not late:
            return {"refused": "hold_alive"}
        metered = {
            "metered": call.progress.metered if call.progress else 0,
            "nothing": 0,
            "ceiling": call.held,
        }[self.on_lapse]
        return self.close(call, "lapsed", metered)

    def report(self, c: Report, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None or call.state != "open":
            return {"refused": "hold_not_found"}
        if (call.asked.node_id, call.asked.epoch) != (c.node_id, c.epoch):
            return {"refused": "hold_not_found"}
        if call.progress is None or c.metered >= call.progress.metered:
            call.progress = c
        return self.done(call.held)

    def grant(self, c: GrantCredit, world: World) -> Answer:
        lot = self.lots.get(c.grant_id)
        if lot is not None:
            if lot.asked != c:
                return {"refused": "exists_with_different"}
            return self.granted(lot, exists=True)
        start = c.effective_at or self.now
        end = c.expires_at or FAR
        if c.expires_at is None and c.default_expiry:
            if c.source.value == "contract":
                return {"refused": "expiry_required"}
            year = c.source.value in {"purchased", "business"}
            end = plus_months(start, 12 if year else 6, forward=year)
        if end <= max(start, self.now):
            return {"refused": "already_expired"}
        self.numbers += 1
        repays = c.source.value in {"purchased", "business", "contract", "adjustment"}
        lot = Lot(c.grant_id, c, start, end, self.numbers, repays_next=repays)
        self.lots[c.grant_id] = lot
        self.tick(self.now)
        return self.granted(lot)

    def granted(self, lot: Lot, *, exists: bool = False) -> Answer:
        return {
            "grant_id": lot.id,
            "amount": lot.asked.amount,
            "repaid": lot.repaid,
            "expires_at": None if lot.end == FAR else lot.end,
            "available": self.spendable() - self.floor,
            "exists": exists,
        }

    def again(self, c: Refund | Correct) -> Answer:
        if self.commands[c.command_id] != c:
            return {"refused": "exists_with_different_fields"}
        return self.done(c.amount, exists=True)

    def refund(self, c: Refund, world: World) -> Answer:
        if c.command_id in self.commands:
            return self.again(c)
        lot = self.lots.get(c.grant_id)
        if lot is None:
            return {"refused": "grant_not_found"}
        if lot.state == "frozen" or c.amount > self.unheld(lot):
            return {"refused": "not_refundable"}
        self.commands[c.command_id] = c
        lot.taken += c.amount
        return self.done(c.amount)

    def dispute(self, c: Dispute, world: World) -> Answer:
        lot = self.lots.get(c.grant_id)
        if lot is None:
            return {"refused": "grant_not_found"}
        was, lot.state = lot.state, lot.state
        if c.step is DisputeStep.OPENED and was == "open":
            lot.state = "frozen"
        if c.step is DisputeStep.WON and was == "frozen":
            lot.state = "open"
            self.tick(self.now)
        if c.step is DisputeStep.LOST and was != "lost":
            lot.state = "lost"
            spent = sum(lot.drawn.values()) + lot.repaid
            self.owed += spent
            self.owed_and_taken += spent
            self.put_away(lot, None)
        return self.done(exists=was == lot.state)

    def correct(self, c: Correct, world: World) -> Answer:
        if c.command_id in self.commands:
            return self.again(c)
        self.commands[c.command_id] = c
        rest = int(c.amount)
        for lot in self.live():
            part = min(rest, self.unheld(lot))
            lot.taken += part
            rest -= part
        self.owed += rest
        self.owed_and_taken += rest
        return self.done(c.amount)

    def set_limit(self, c: SetLimit, world: World) -> Answer:
        was, self.maximum = self.maximum, c.maximum
        if c.maximum is None:
            self.counted_months.clear()
            return self.done(exists=was is None)
        if was is None:
            self.counted_months = {self.month(self.now)}
        return self.done(c.maximum)

    def set_floor(self, c: SetFloor, world: World) -> Answer:
        self.floor = c.floor
        return self.done(c.floor)


class World:
    """All organisations, the nodes' epochs, the keys and the price book's revision."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.orgs: dict[UUID, ModelOrg] = {}
        self.epochs: dict[UUID, int] = {}
        self.keys: dict[UUID, KeyFacts] = {}
        self.revision = 1

    def apply(self, batch: list[AnyCommand], now: datetime) -> list[Answer]:
        """What gives comes before what extends, and that before what admits."""
        self.now = now
        turns = {Extend: 1, Admit: 2}
        answers: dict[int, Answer] = {}
        for turn in range(3):
            for i, command in enumerate(batch):
                if turns.get(type(command), 0) == turn:
                    org = self.orgs.get(command.organization_id)
                    answers[i] = (
                        {"refused": "organization_not_found"}
                        if org is None
                        else org.apply(command, self)
                    )
        return [answers[i] for i in range(len(batch))]

    def bars(self, org: ModelOrg, c: Admit) -> str | None:
        """Why a call may not be admitted, apart from money."""
        key = self.keys.get(c.dimensions.key_id)
        if self.epochs.get(c.node_id) != c.epoch:
            return "stale_epoch"
        if c.catalogue_revision != self.revision:
            return "stale_catalogue"
        project_id = c.dimensions.project_id
        if key is None or (key.organization_id, key.project_id) != (org.id, project_id):
            return "key_not_found"
        if key.revoked_at is not None:
            return "key_revoked"
        if key.expires_at is not None and key.expires_at <= org.now:
            return "key_expired"
        if key.project_archived_at is not None:
            return "project_archived"
        return None if org.active else "organization_suspended"


def plus_months(at: datetime, months: int, *, forward: bool) -> datetime:
    """The same UTC wall time later; a day that is missing is the next one, or the month's last."""
    at = at.astimezone(UTC)
    years, month = divmod(at.month - 1 + months, 12)
    first = at.replace(year=at.year + years, month=month + 1, day=1)
    then = first + timedelta(days=at.day - 1)
    if then.month != first.month:
        overflow = first.replace(day=28) + timedelta(days=4)
        then = overflow.replace(day=1) if forward else overflow - timedelta(days=overflow.day)
    return then
