"""What people outside the engine write down: plain, and compared with the engine at the end.

Clients note what they were told; gateways note every answer that the bookkeeper gave them. An
answer that was given once must be true for ever: the hold was there, the charge stands, the credit
was granted. Nothing here looks at how the engine counts.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Closed,
    Correct,
    Done,
    Forget,
    Granted,
    Refund,
    Refused,
    Release,
    Result,
    SetFloor,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.holds import CallState
from tests.simulation.calls import CallAnswer
from tests.simulation.database import Batch
from tests.simulation.trace import SimulationError, Trace

if TYPE_CHECKING:
    from tests.support.ledger_memory import MemoryLedger

FINAL = {CallState.SETTLED, CallState.RELEASED, CallState.LATE}


class Books:
    """The notebooks of everybody but the engine."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._asked: dict[UUID, Admit] = {}
        self._answers: list[tuple[AnyCommand, Result]] = []
        self._whole: dict[UUID, int] = {}
        self._effects: Counter[tuple[str, object]] = Counter()
        self._settles: dict[UUID, Settle] = {}

    # Notes.

    def asked(self, command: Admit) -> None:
        """A call is about to ask for its hold."""
        self._asked[command.call_id] = command

    def acknowledged(self, command: AnyCommand, result: Result) -> None:
        """The bookkeeper answered."""
        self._answers.append((command, result))
        kind = type(command).__name__.lower()
        said = result.code if isinstance(result, Refused) else type(result).__name__.lower()
        self._trace.count(f"{kind} {said}")
        if getattr(result, "exists", False):
            self._trace.count(f"{kind} exists")

    def told(self, answer: CallAnswer) -> None:
        """A client received an answer to its end."""
        self._trace.note(f"client {answer.said}", "client", answer.call_id.hex[-6:], answer.code)
        if answer.said == "whole":
            if answer.call_id in self._whole:
                raise SimulationError("clients", f"call {answer.call_id} was answered twice")
            self._whole[answer.call_id] = answer.charge

    def committed(self, batch: Batch) -> None:
        """What took effect in the database, by who asked for it."""
        for command, result in zip(batch.commands, batch.results, strict=True):
            if isinstance(result, Refused) or getattr(result, "exists", False):
                continue
            self._effects[_effect(command)] += 1
            if isinstance(command, Settle):
                self._settles[command.call_id] = command

    # The comparison.

    def compare(self, ledger: MemoryLedger) -> None:
        """Every note is true of the rows.

        Raises:
            SimulationError: One is not.
        """
        for command, result in self._answers:
            fault = self._fault(ledger, command, result)
            if fault:
                raise SimulationError("acknowledged", f"{fault}: {command} was answered {result}")
        for call_id, charge in self._whole.items():
            call = ledger.calls.get(call_id)
            if call is None or call.charge != charge or call.state not in FINAL:
                raise SimulationError("clients", f"{call_id} was told {charge}, books say {call}")
            if self._effects["charged", call_id] != 1:
                raise SimulationError("clients", f"{call_id} was charged more than once, or never")
        for (kind, who), times in self._effects.items():
            if times > 1 and kind not in {"setting", "report", "extend", "expire"}:
                raise SimulationError("once", f"{kind} {who} took effect {times} times")
        for call_id, settle in self._settles.items():
            call = ledger.calls[call_id]
            if call.charge + call.absorbed != settle.metered:
                raise SimulationError("metered", f"{call} for {settle}")

    def _fault(self, ledger: MemoryLedger, command: AnyCommand, result: Result) -> str:
        """Why an acknowledgement is not true; empty if it is."""
        match command, result:
            case Admit(), Admitted():
                missing = command.call_id not in ledger.calls
                return "the admitted call is nowhere" if missing else ""
            case ((Settle() | Release()), Closed()):
                call = ledger.calls.get(command.call_id)
                if call is None or call.state is not result.state:
                    return f"the call is {call}"
                wrong = (call.charge, call.absorbed) != (result.charge, result.absorbed)
                return f"the call is {call}" if wrong else ""
            case _, Granted():
                grant = ledger.grants.get(result.grant_id)
                wrong = grant is None or grant.amount != result.amount
                return f"the grant is {grant}" if wrong else ""
            case ((Refund() | Correct()), Done()):
                known = (command.organization_id, command.command_id) in ledger.commands
                return "" if known else "it never took effect"
            case ((SetLimit() | SetFloor() | SetZone()), Done(exists=False)):
                return "" if self._effects["setting", command] else "it never took effect"
            case _:
                return ""


def _effect(command: AnyCommand) -> tuple[str, object]:
    """What may happen once only."""
    match command:
        case Admit():
            return "admit", command.call_id
        case Settle():
            return "charged", command.call_id
        case Release():
            return "charged", command.call_id
        case Refund() | Correct():
            return "money command", command.command_id
        case SetLimit() | SetFloor() | SetZone() | Forget():
            return "setting", command
        case _:
            kind = type(command).__name__.lower()
            if kind == "grantcredit":
                return "grant", getattr(command, "grant_id", None)
            who = getattr(command, "call_id", None) or getattr(command, "grant_id", None)
            return {"expiregrants": "expire", "dispute": "setting"}.get(kind, kind), who
