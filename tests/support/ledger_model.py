"""A second, plain implementation of the money rules, to compare the engine with.

It keeps facts only (grants with who drew what, calls with what they hold and cost, limits as they
were asked for) and computes every total anew by summing them: no counters, no batches, no indexes.
Slow and obvious on purpose. Promise: written from the rules, not from the engine's code.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    DisputeStep,
    ExpireGrants,
    Extend,
    Forget,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    SetFloor,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.limits import Effect
from tests.support.ledger_model_facts import FAR, Call, Figures, Lot, places_of, plus_months
from tests.support.ledger_model_limits import tail
from tests.support.ledger_model_money import Answer, ModelMoney

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime
    from uuid import UUID

    from farebox.ledger.state import KeyFacts


class ModelOrg(ModelMoney):
    """One organisation, and what each command does to it."""

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
            SetZone: self.set_zone,
            Forget: self.forget,
        }
        return rules[type(command)](command, world)

    def done(self, amount: int = 0, *, exists: bool = False) -> Answer:
        return {"available": self.spendable() - self.floor, "amount": amount, "exists": exists}

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
        spans = self.caps.spans(places_of(c), c.dimensions.model, self.now)
        output = self.affordable(c, spans)
        asks = Figures(
            money=c.fixed - (-output * c.output_price // 1_000_000),
            tokens=c.input_tokens + output,
            calls=1,
        )
        run = c.attribution.run
        shown = [self.caps.shows(span, run, self.now) for span in spans]
        lacks = self.lacks(c, spans, asks, Figures())
        if lacks:
            return lacks
        for span in spans:
            self.caps.begin(span, self.now)
        call = Call(c, self.now, output, asks.tokens)
        call.shown = shown
        self.calls[c.call_id] = call
        self.earmark(call, asks.money)
        return {
            "held": asks.money,
            "output_limit": output,
            "available": self.spendable() - self.floor,
            "admitted_at": self.now,
            "exists": False,
            "rates": self.rates(c, spans),
        }

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
        spans = self.caps.spans_of(call)
        lacks = self.lacks(call.asked, spans, Figures(c.amount, c.tokens), call.holds)
        if lacks:
            return lacks
        self.earmark(call, c.amount)
        call.tokens += c.tokens
        call.steps = c.step
        return self.done(call.held)

    def close(self, call: Call, state: str, metered: int, tokens: int) -> Answer:
        beyond = self.fits(call, max(0, metered - call.held))
        charge = min(metered, call.held) + beyond
        own = dict(call.earmarks)
        self.draw(call, charge, own)
        call.charge, call.tokens_used = charge, tokens
        call.state = state
        call.absorbed = self.charge_beyond(call, metered - charge)
        for lot_id in own:
            self.put_away(self.lots[lot_id], call.asked.call_id)
        self.told += self.caps.tell(call, self.now)
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
        tokens = c.usage.input_tokens + c.usage.output_tokens
        if call.state == "open":
            call.settled_by = c
            return self.close(call, "settled", c.metered, tokens)
        if call.state == "lapsed":
            call.settled_by = c
            return self.late(call, c.metered, tokens)
        if call.settled_by == c:
            return self.closed(call, exists=True)
        return {"refused": "exists_with_different_fields"}

    def late(self, call: Call, metered: int, tokens: int) -> Answer:
        call.state = "late"
        if metered >= call.charge:
            more = self.fits(call, metered - call.charge)
            self.draw(call, more, {})
            call.charge += more
            call.absorbed = self.charge_beyond(call, metered - call.charge)
        else:
            self.give_back(call, metered)
        call.tokens_used = tokens
        self.told += self.caps.tell(call, self.now)
        return self.closed(call)

    def give_back(self, call: Call, metered: int) -> None:
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

    def release(self, c: Release, world: World) -> Answer:
        call = self.calls.get(c.call_id)
        if call is None:
            return {"refused": "hold_not_found"}
        if call.state == "open":
            return self.close(call, "released", 0, 0)
        if call.state == "lapsed":
            return self.late(call, 0, 0)
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
        last = None if self.on_lapse == "nothing" else call.progress
        metered = last.metered if last else 0
        if self.on_lapse == "ceiling":
            metered = call.held
        tokens = last.input_tokens + last.output_tokens if last else 0
        return self.close(call, "lapsed", metered, tokens)

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
        shares = [
            which
            for which in self.caps.caps.get(self.caps.place(c), {})
            if Effect.ALLOCATION in which and which != tail(c)
        ]
        if c.effect is Effect.ALLOCATION and c.maximum is not None and shares:
            return {"refused": "allocation_exists"}
        if c.maximum is not None and self.caps.place(c)[1] == "" and not self.caps.has(c):
            # A default counts what comes after it: not what has come at this very instant.
            self.tick(self.now + timedelta(microseconds=1))
        had = self.caps.set(c, self.now)
        return self.done(exists=c.maximum is None and not had)

    def set_floor(self, c: SetFloor, world: World) -> Answer:
        self.floor = c.floor
        return self.done(c.floor)

    def set_zone(self, c: SetZone, world: World) -> Answer:
        same = self.caps.zone == c.zone
        if not same:
            self.caps.set_zone(c.zone, self.now)
        return self.done(exists=same)

    def forget(self, c: Forget, world: World) -> Answer:
        for number in c.numbers:
            if (self.id, number) in world.gone:
                self.caps.forget(number, self.now)
        return self.done()  # how many rows there were is nothing that facts say


class World:
    """All organisations, the nodes' epochs, the keys and the price book's revision."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.orgs: dict[UUID, ModelOrg] = {}
        self.epochs: dict[UUID, int] = {}
        self.keys: dict[UUID, KeyFacts] = {}
        self.revision = 1
        self.gone: Collection[tuple[UUID, int]] = ()
        """Scopes' rows that the engine has deleted in this batch; it may keep others for longer."""

    def apply(self, batch: list[AnyCommand], now: datetime) -> list[Answer]:
        """A zone comes first, what gives before what extends, and that before what admits."""
        self.now = now
        turns = {Forget: -2, SetZone: -1, Extend: 1, Admit: 2}
        answers: dict[int, Answer] = {}
        for turn in range(-2, 3):
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
