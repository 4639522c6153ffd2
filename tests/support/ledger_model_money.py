"""What an organisation of the plain model has: money that can be spent, held, drawn and owed.

Every total is summed anew from grants and calls; :mod:`tests.support.ledger_model` has the commands
that change them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from farebox.ledger.limits import Effect, Measure, Origin
from tests.support.ledger_model_facts import Call, Figures, Lot
from tests.support.ledger_model_limits import RATES, Caps, Span

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from farebox.ledger.commands import Admit, AnyCommand

Answer = dict[str, object]
Refusal = dict[str, object]

WORDS = {
    Measure.MONEY: "spend",
    Measure.TOKENS: "token",
    Measure.CALLS: "call",
    Measure.PARALLEL: "parallel",
    Measure.SECONDS: "time",
    Measure.DEPTH: "depth",
}


class ModelMoney:
    """One organisation's money."""

    def __init__(self, org_id: UUID, zone: str, now: datetime) -> None:
        self.id = org_id
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
        self.caps = Caps(org_id, zone, self.calls)
        self.told: list[dict[str, str]] = []
        """Thresholds told since somebody looked."""
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

    def spendable_by(self, c: Admit) -> int:
        """What a call's project may spend: not what is set aside for others."""
        return self.spendable() - self.caps.set_aside(c.dimensions.project_id.hex, self.now)

    def all_held(self) -> int:
        return sum(call.held for call in self.open_calls())

    def posted(self) -> int:
        return sum(lot.remaining for lot in self.live()) - self.owed + self.floor

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

    # --- what fits ----------------------------------------------------------------------------

    def earmark(self, call: Call, amount: int) -> None:
        call.held += amount
        for lot in self.live():
            part = min(amount, self.unheld(lot))
            if part > 0:
                call.earmarks[lot.id] = call.earmarks.get(lot.id, 0) + part
                amount -= part
        call.floor_part += amount

    def lacks(self, c: Admit, spans: list[Span], asks: Figures, own: Figures) -> Answer | None:
        """Why a hold cannot be had; what waiting cannot mend comes before what it can.

        Credit comes before limits, and to a new call a wider scope before a narrower one; of one
        scope's limits any may be named, to a running call any at all.
        """
        waits: list[Refusal] = []
        if asks.money > self.spendable_by(c):
            aside = self.spendable() - self.spendable_by(c)
            lasting = own.money + asks.money > self.posted() - aside
            code = "credit_balance_exhausted" if lasting else "balance_held"
            if lasting and self.owed and self.spendable() < self.floor:
                code = "credit_balance_negative"
            elif lasting and not any(lot.remaining for lot in self.live()):
                gone = sum(sum(lot.broken.values()) for lot in self.lots.values())
                if self.spendable() + gone >= asks.money:
                    code = "credit_balance_expired"
            if asks.money <= self.spendable():
                code = "credit_set_aside"
            short = self.refusal(code, asks, self.all_held(), None, waits=not lasting)
            if lasting:
                return self.refuse(c, [short], spans, own)
            waits.append(short)
        places = list(dict.fromkeys(span.place for span in spans))
        for those in [[place] for place in places] if own == Figures() else [places]:
            passed = [
                self.passed(c, span, asks, own)
                for span in spans
                if span.place in those and span.cap.refuses and self.is_over(c, span, asks, own)
            ]
            final = [refusal for refusal in passed if not refusal["blocked_by_holds"]]
            if final:
                return self.refuse(c, final, spans, own)
            waits = waits or passed
        return self.refuse(c, waits, spans, own) if waits else None

    def refuse(
        self, c: Admit, may: list[Refusal], spans: list[Span], own: Figures
    ) -> dict[str, object]:
        """One of these; where a limit refuses a new call, it shows all rates that the call has."""
        rates = self.rates(c, spans)
        for refusal in may:
            refusal["rates"] = rates if refusal["limit"] is not None and own == Figures() else []
        return {"refused": may}

    def rates(self, c: Admit, spans: list[Span]) -> list[dict[str, object]]:
        """What the rate limits of a call show as things are."""
        rates = [span for span in spans if span.cap.asked.period in RATES]
        return [self.caps.shows(span, c.attribution.run, self.now) for span in rates]

    def is_over(self, c: Admit, span: Span, asks: Figures, own: Figures) -> bool:
        """A limit that was lowered lets no call in, and no running one ask for more of it."""
        measure = span.cap.asked.measure
        is_running, asked = own != Figures(), asks.of(measure)
        if is_running and asked == 0:
            return False
        seen = self.caps.seen(span, c.attribution.run, self.now)
        left = self.caps.left(span, self.now) - (seen or 0)
        return asked > left or (measure is Measure.SECONDS and left == 0)

    def passed(self, c: Admit, span: Span, asks: Figures, own: Figures) -> Refusal:
        """The refusal by a limit: by what it counts, and by what would mend it."""
        asked, maximum = span.cap.asked, span.cap.maximum(self.now)
        measure, shown = asked.measure, self.caps.shows(span, c.attribution.run, self.now)
        would_be = self.caps.used(span) + own.of(measure) + asks.of(measure)
        # A rate's window is over before holds come back, and a call counts whatever becomes of it.
        comes_back = measure in {Measure.MONEY, Measure.TOKENS, Measure.PARALLEL}
        waits = would_be <= maximum and asked.period not in RATES and comes_back
        turns = asked.period in RATES or measure is Measure.PARALLEL
        rate = asked.period in RATES
        if asked.effect is Effect.THROTTLE and asks.of(measure) <= maximum:
            # Never for what is used up until its window turns, where that is no minute or UTC day.
            waits = turns = waits or turns
        code = f"{span.place[0]}_{WORDS[measure]}_limit_exceeded"
        if asked.origin is Origin.TIER:
            code = "organization_usage_limit_exceeded"
        if turns or waits:
            code = "rate_limit_exceeded" if turns else "balance_held"
        held = self.caps.held(span) if measure is Measure.MONEY else self.all_held()
        if asked.effect is Effect.STOP:
            # Nothing but a release helps.
            return self.refusal(f"{span.place[0]}_stopped", asks, held, shown, waits=False)
        until = max(1, -((self.now - span.end) // timedelta(seconds=1)))
        return {
            **self.refusal(code, asks, held, shown, waits=waits),
            "retry_after_seconds": (until if rate else 2) if turns else None,
        }

    def refusal(
        self, code: str, asks: Figures, held: int, limit: object, *, waits: bool
    ) -> Refusal:
        return {
            "code": code,
            "needed": asks.money,
            "available": self.spendable() - self.floor,
            "held": held,
            "limit": limit,
            "blocked_by_holds": waits,
            "retry_after_seconds": None,
        }

    def affordable(self, c: Admit, spans: list[Span]) -> int:
        """The output that is held for: what was asked, as far as money and limits go round."""
        if c.output_min == c.output_max:
            return c.output_max
        output = c.output_max
        if c.output_price:
            quarter = max(0, self.spendable_by(c)) // 4
            rest = max(0, self.most(c, spans) - c.fixed)
            output = min(output, min(quarter, rest) * 1_000_000 // c.output_price)
        tokens = self.caps.least_left(spans, Measure.TOKENS, self.now)
        if tokens is not None:
            output = min(output, max(0, tokens) - c.input_tokens)
        return max(output, c.output_min)

    def most(self, c: Admit, spans: list[Span]) -> int:
        """The most money that credit, floor and limits leave."""
        left, spendable = (
            self.caps.least_left(spans, Measure.MONEY, self.now),
            self.spendable_by(c),
        )
        return max(0, spendable if left is None else min(left, spendable))

    def fits(self, call: Call, amount: int) -> int:
        """How much of an amount beyond the hold credit, floor and limits can take."""
        return min(amount, self.most(call.asked, self.caps.spans_of(call)))

    # --- what is charged ----------------------------------------------------------------------

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
