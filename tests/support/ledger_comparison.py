"""Compares the engine's answers and rows with what the plain model's facts add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from farebox.ledger.commands import Admitted, AnyCommand, ExpireGrants, Forget, Refused
from farebox.ledger.holds import CallState
from farebox.ledger.journal import Account
from farebox.ledger.limits import LimitFigures, Rule, instant
from tests.support.ledger_model_limits import Tail

if TYPE_CHECKING:
    from uuid import UUID

    from farebox.ledger.commands import Result
    from farebox.ledger.state import Decision
    from tests.support.ledger_memory import MemoryLedger
    from tests.support.ledger_model import ModelOrg, World
    from tests.support.ledger_model_money import Answer


def compare_answer(command: AnyCommand, result: Result, answer: Answer) -> None:
    """The engine's result is what the model answers."""
    if isinstance(result, Refused) or "refused" in answer:
        assert isinstance(result, Refused), (command, result, answer)
        assert "refused" in answer, (command, result, answer)
        may = answer["refused"]
        if isinstance(may, str):
            assert result.code.startswith(may), (command, result, answer)
            return
        assert isinstance(may, list)
        shown = {
            "code": result.code,
            "needed": result.needed,
            "available": result.available,
            "held": result.held,
            "limit": None if result.limit is None else figures(result.limit),
            "blocked_by_holds": result.blocked_by_holds,
            "retry_after_seconds": result.retry_after_seconds,
            "rates": in_order(map(figures, result.rates)),
        }
        may = [refusal | {"rates": in_order(refusal["rates"])} for refusal in may]
        assert shown in may, (command, shown, may)
        return
    for name, value in answer.items():
        if name == "rates":
            assert isinstance(result, Admitted)
            assert in_order(map(figures, result.rates)) == in_order(value), (result, answer)
        elif not (isinstance(command, ExpireGrants | Forget) and name == "amount"):
            assert getattr(result, name) == value, (name, command, result, answer)


def compare_decision(decision: Decision, world: World) -> None:
    """What a batch records of limits and tells of thresholds; to be called once for each batch."""
    for new in decision.changes.new_holds:
        call = world.orgs[new.hold.organization_id].calls[new.hold.call_id]
        shown = [figures(limit) for limit in new.limits]
        assert len(shown) == len(call.shown), (shown, call)
        assert all(limit in call.shown for limit in shown), (shown, call)
    for org_id, model in world.orgs.items():
        told = [
            event.facts
            for event in decision.changes.events
            if (event.kind, event.organization_id) == ("limit_threshold", org_id)
        ]
        assert sorted(map(sorted_items, told)) == sorted(map(sorted_items, model.told)), told
        model.told.clear()


def in_order(limits: Any) -> list[dict[str, object]]:
    """Figures of limits in a comparable order."""
    return sorted(limits, key=lambda limit: [str(value) for value in limit.values()])


def sorted_items(facts: dict[str, str]) -> list[tuple[str, str]]:
    """Facts in a comparable order."""
    return sorted((name, str(value)) for name, value in facts.items())


def figures(limit: LimitFigures) -> dict[str, object]:
    """A limit's figures by their names."""
    return msgspec.structs.asdict(limit)


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
    compare_limits(ledger, model)


def compare_calls(ledger: MemoryLedger, model: ModelOrg) -> None:
    """Holds and closed calls agree one by one."""
    for call_id, call in model.calls.items():
        if call.state == "open":
            hold = ledger.holds[call_id]
            marks: dict[UUID, int] = {}
            for mark in hold.earmarks:
                marks[mark.grant_id] = marks.get(mark.grant_id, 0) + mark.amount
            assert (hold.amount, hold.unsecured, hold.steps, hold.tokens, marks) == (
                call.held,
                call.floor_part,
                call.steps,
                call.tokens,
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


def compare_limits(ledger: MemoryLedger, model: ModelOrg) -> None:
    """Every limit that was set is there, and every window of every scope counts what it should."""
    rows = [row for row in ledger.limits.values() if row.organization_id == model.id]
    kept: dict[object, tuple[int, int, int]] = {}
    for row in rows:
        place = (row.kind.value, row.ref)
        mine = model.caps.caps.get(place, {})
        assert {_tail(rule) for rule in row.rules} == mine.keys(), row
        if row.is_default:
            continue
        rules = {
            _tail(rule): rule.number
            for other in rows
            if other.kind is row.kind and (other.is_default or other is row)
            for rule in other.rules
        }
        for which, cap in model.caps.in_force(place).items():
            for window in row.windows.get(rules[which], ()):
                start = instant(window.start)
                if start >= cap.since:
                    key = (place, which, start, instant(window.end))
                    assert key not in kept, row
                    kept[key] = (window.used, window.held, window.told)
    caps = model.caps
    for span in caps.every_span():
        key = (*span.key, span.end)
        counted = (caps.used(span), caps.held(span), caps.told.get(span.key, 0))
        assert kept.pop(key, (0, 0, 0)) == counted, (key, counted)
    assert not any(any(found) for found in kept.values()), kept


def _tail(rule: Rule) -> Tail:
    return (rule.measure, rule.period, rule.effect, rule.models, rule.origin)
