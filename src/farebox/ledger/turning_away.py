"""Refusals for lack of room under a limit: which one, its figures, and what helps.

A budget's refusal is final until somebody acts or the window turns; a rate's says when to try
again; what only open calls hold may wait in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from farebox.kit.money import Nanos, format_amount
from farebox.ledger.commands import Refused
from farebox.ledger.counters import MICROS_PER_SECOND, Amounts, Standing, limit_figures
from farebox.ledger.limits import (
    OBSERVED,
    RATES,
    Effect,
    Measure,
    Origin,
    Period,
    micros,
)
from farebox.ledger.scopes import ID_KINDS

if TYPE_CHECKING:
    from datetime import datetime

    from farebox.ledger.books import Books

TIER_LIMIT_EXCEEDED: Final = "organization_usage_limit_exceeded"
"""The usage tier allows no more: neither credit nor a raised budget helps (BUD-11)."""

RATE_LIMIT_EXCEEDED: Final = "rate_limit_exceeded"
"""The code of every limit that lets the call through when it is sent again a little later."""

HELD_RETRY_SECONDS: Final = 2
"""As long as one may wait in order."""

_BUDGET_WORDS: Final = {
    Measure.MONEY: "spend",
    Measure.TOKENS: "token",
    Measure.CALLS: "call",
    Measure.SECONDS: "time",
    Measure.DEPTH: "depth",
}
_PERIOD_WORDS: Final = {
    Period.MINUTE: "per-minute",
    Period.UTC_DAY: "per-day",
    Period.DAY: "daily",
    Period.WEEK: "weekly",
    Period.MONTH: "monthly",
    Period.TOTAL: "total",
}


def refuse_limit(books: Books, each: Standing, asked: Amounts, own: Amounts) -> Refused:
    """The refusal of a call that does not fit under a limit.

    Args:
        books: The organisation's.
        each: The limit, with its window.
        asked: What the call would hold.
        own: What the call holds already: it cannot wait for that to come back.
    """
    measure, window = each.rule.measure, each.window
    if each.rule.effect is Effect.STOP:
        return _stopped(books, each, asked)
    fits_alone = each.used + own.of(measure) + asked.of(measure) <= each.maximum
    turns = each.rule.period in RATES
    # A rate's holds come back too late for its window; admitted calls count whatever becomes of
    # them; calls in parallel end soon.
    by_holds = fits_alone and not turns and measure not in NEVER_BACK
    is_rate = turns or measure is Measure.PARALLEL
    if each.rule.effect is Effect.THROTTLE and asked.of(measure) <= each.maximum:
        # What is used up until tomorrow is no rate: clients would come back for nothing (LIM-04).
        is_rate = is_rate or by_holds
        by_holds = is_rate
    if is_rate:
        code = RATE_LIMIT_EXCEEDED
    elif by_holds:
        code = "balance_held"
    elif each.rule.origin is Origin.TIER:
        code = TIER_LIMIT_EXCEEDED
    else:
        code = f"{each.scope.kind}_{_BUDGET_WORDS[measure]}_limit_exceeded"
    return Refused(
        code=code,
        message=_message(each, asked),
        needed=Nanos(asked.money),
        available=books.available,
        held=Nanos(window.held) if measure is Measure.MONEY else books.held,
        limit=limit_figures(each),
        blocked_by_holds=by_holds,
        retry_after_seconds=_retry_after(each, books.now) if is_rate else None,
    )


def _stopped(books: Books, each: Standing, asked: Amounts) -> Refused:
    """The refusal of what somebody or a rule has stopped: no wait ends it (ANO-01)."""
    scope = each.scope
    which = f"The {scope.kind}" if scope.kind in ID_KINDS else f"The {scope.kind} {scope.ref}"
    why = f": {each.rule.owner}" if each.rule.owner else ""
    return Refused(
        code=f"{scope.kind}_stopped",
        message=f"{which} was stopped{why}. Its calls are refused until it is released.",
        needed=Nanos(asked.money),
        available=books.available,
        held=books.held,
        limit=limit_figures(each),
    )


def _retry_after(each: Standing, now: datetime) -> int:
    """Whole seconds, rounded up: whoever comes back then finds the next window.

    Nobody knows when open calls will have ended.
    """
    if each.rule.period not in RATES:
        return HELD_RETRY_SECONDS
    return max(1, -((micros(now) - each.window.end) // MICROS_PER_SECOND))


def _message(each: Standing, asked: Amounts) -> str:
    measure, figures = each.rule.measure, limit_figures(each)
    whose = f"The {each.scope.kind}'s"
    if each.scope.kind not in ID_KINDS:
        whose = f"The {each.scope.kind} {each.scope.ref}'s"
    if measure is Measure.PARALLEL:
        return (
            f"{whose} limit is {_count(each.maximum, 'calls')} at a time, and {figures.held} "
            f"{'is' if figures.held == 1 else 'are'} running; try again when one has ended."
        )
    if measure in OBSERVED:
        return (
            f"{whose} {_BUDGET_WORDS[measure]} limit is {_show(each, each.maximum)}, and this call "
            f"is at {_show(each, figures.used)}. Start a new run, or raise the limit."
        )
    kind = "" if measure is Measure.MONEY else f" {_BUDGET_WORDS[measure]}"
    models = f" for {each.rule.models}" if each.rule.models not in {"", "*"} else ""
    if each.rule.origin is Origin.TIER:
        models += " of its usage tier"
    needs = (
        ""
        if measure is Measure.CALLS
        else f", and this call needs up to {_show(each, asked.of(measure))}"
    )
    resets = "" if figures.resets_at is None else f" It resets at {figures.resets_at.isoformat()}."
    return (
        f"{whose} {_PERIOD_WORDS[each.rule.period]}{kind} limit{models} is "
        f"{_show(each, each.maximum)}: {_show(each, figures.used)} used, "
        f"{_show(each, figures.held)} held by open calls{needs}.{resets}"
    )


NEVER_BACK: Final = OBSERVED | {Measure.CALLS}
"""What no ending of a call gives back."""


def _show(each: Standing, amount: int) -> str:
    if each.rule.measure is Measure.MONEY:
        return format_amount(Nanos(amount))
    return _count(amount, "levels" if each.rule.measure is Measure.DEPTH else each.rule.measure)


def _count(number: int, things: str) -> str:
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"
