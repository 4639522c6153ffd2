"""The one place where money moves: commands and the rows they touch in, results and rows out.

Pure: no clock, no randomness, no I/O; the rows that come in are never changed. Within a batch,
everything that gives money back or brings money in is decided before anything that holds money
(ENGINE.md, "A batch"); otherwise commands keep their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from farebox.ledger import admission, forgetting, funding, limiting, settlement
from farebox.ledger.books import Books
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    ExpireGrants,
    Extend,
    Forget,
    GrantCredit,
    Lapse,
    Refund,
    Refused,
    Release,
    Report,
    Result,
    SetFloor,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.state import Changes, Decision, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

_DECIDERS: Final[dict[type, Callable[[Books, Any], Result]]] = {
    Settle: settlement.settle,
    Release: settlement.release,
    Report: settlement.report,
    Lapse: settlement.lapse,
    GrantCredit: funding.grant_credit,
    ExpireGrants: funding.expire_grants,
    Refund: funding.refund,
    Dispute: funding.dispute,
    Correct: funding.correct,
    SetLimit: limiting.set_limit,
    SetFloor: limiting.set_floor,
    SetZone: limiting.set_zone,
    Forget: forgetting.forget,
    Extend: admission.extend,
    Admit: admission.admit,
}

_TURN: Final = {Forget: -2, SetZone: -1, Extend: 1, Admit: 2}
"""Who holds money comes after everybody else; running calls come before new ones. The zone comes
before, so that whatever else begins in its batch begins by it; what is forgotten comes first, so
that nothing of its batch has touched it."""


def decide(state: State, commands: Sequence[AnyCommand], now: datetime) -> Decision:
    """Decide a batch.

    Args:
        state: Every row that the commands touch, as read under the organisations' locks.
        commands: Already range-checked (:func:`farebox.ledger.range_checks.check`).
        now: The database's time after the locks; each organisation uses the larger of this and
            its own last time.

    Returns:
        One result per command in the order given, and what to write.
    """
    order = sorted(range(len(commands)), key=lambda i: _TURN.get(type(commands[i]), 0))
    books: dict[UUID, Books] = {}
    results: dict[int, Result] = {}
    for index in order:
        command = commands[index]
        mine = books.get(command.organization_id)
        if mine is None:
            loaded = state.organizations.get(command.organization_id)
            if loaded is None:
                results[index] = Refused(
                    code="organization_not_found", message="There is no such organisation."
                )
                continue
            mine = books[command.organization_id] = Books(
                loaded, epochs=state.epochs, catalogue_revision=state.catalogue_revision, now=now
            )
        results[index] = _DECIDERS[type(command)](mine, command)
    return Decision([results[i] for i in range(len(commands))], _merge(books))


def _merge(books: dict[UUID, Books]) -> Changes:
    every = Changes()
    for mine in books.values():
        part = mine.close()
        every.organizations += part.organizations
        every.grants += part.grants
        every.new_grants += part.new_grants
        every.limits += part.limits
        every.forgotten += part.forgotten
        every.counters += part.counters
        every.new_holds += part.new_holds
        every.holds += part.holds
        every.closings += part.closings
        every.late += part.late
        every.postings += part.postings
        every.rollups.update(part.rollups)
        every.events += part.events
        every.commands += part.commands
    return every
