"""Counts what took effect, by kind, so that a run shows what it has exercised."""

from __future__ import annotations

from uuid import UUID

from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Closed,
    Lapse,
    Refused,
    Release,
    Result,
    Settle,
)
from farebox.ledger.holds import Hold
from farebox.ledger.state import OrganizationState
from tests.simulation.database import Batch
from tests.simulation.trace import Trace


class EventCounts:
    """Looks at every commit and names what was special about it."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._waited: set[UUID] = set()

    def committed(self, batch: Batch) -> None:
        """Count one commit."""
        count = self._trace.count
        assert batch.decision is not None
        if len(batch.commands) > 1:
            count("batch of several")
        if len(batch.state.organizations) > 1:
            count("batch of several organizations")
        for posting in batch.decision.changes.postings:
            count(f"posting {posting.kind.value}")
        for closing in batch.decision.changes.closings:
            mine = batch.state.organizations[closing.call.organization_id]
            ended = {g.id for g in mine.grants if g.has_expired(closing.ended_at)}
            if any(draw.grant_id in ended for draw in closing.call.draws):
                count("draw from an ended grant")
        for command, result in zip(batch.commands, batch.results, strict=True):
            mine_or_none = batch.state.organizations.get(command.organization_id)
            if mine_or_none is not None:
                self._look(command, result, mine_or_none)

    def _look(self, command: AnyCommand, result: Result, mine: OrganizationState) -> None:
        if isinstance(command, Admit):
            self._look_at_admission(command, result)
        if not isinstance(result, Closed) or result.exists:
            return
        match command:
            case Lapse():
                self._trace.count(f"lapse {command.reason}")
            case Release(reason="client_gone_before_dispatch"):
                self._trace.count("admission taken back")
            case Settle() if command.call_id in mine.holds:
                self._look_at_charge(command, result, mine.holds[command.call_id])
            case _:
                pass

    def _look_at_admission(self, command: Admit, result: Result) -> None:
        if isinstance(result, Refused) and result.blocked_by_holds:
            self._waited.add(command.call_id)
        elif isinstance(result, Admitted) and not result.exists:
            if command.call_id in self._waited:
                self._trace.count("admitted after waiting")
            if command.output_min < command.output_max:
                self._trace.count("admitted without a limit of its own")

    def _look_at_charge(self, command: Settle, result: Closed, hold: Hold) -> None:
        if command.metered == hold.amount:
            self._trace.count("exactly the ceiling")
        elif command.metered < hold.amount:
            self._trace.count("below the ceiling")
        elif result.absorbed:
            self._trace.count("overrun absorbed")
        else:
            self._trace.count("overrun owed" if result.owed else "overrun charged")
