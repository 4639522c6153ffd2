"""What limits tell: each threshold once per window, whoever crosses it (BUD-06, BUD-07).

The highest threshold told is part of the window's counter, written in the same transaction as the
use that reached it: concurrent traffic, restarts and retries cannot tell it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from farebox.ledger.counters import UNCOUNTED
from farebox.ledger.limits import RATES, Effect, Micros, instant
from farebox.ledger.scopes import ScopeKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from farebox.ledger.books import Books
    from farebox.ledger.commands import SetLimit
    from farebox.ledger.counters import Standing
    from farebox.ledger.limits import Window

_PERCENT: Final = 100

USUAL_THRESHOLDS: Final = (50, 80, 100)
"""What a budget tells where nobody says otherwise (BUD-06)."""

_TELLING: Final = frozenset({Effect.HARD, Effect.ALERT, Effect.THROTTLE, Effect.ALLOCATION})


def usual_thresholds(command: SetLimit) -> tuple[int, ...]:
    """The thresholds of a budget whose maker named none.

    Rates turn too often, what is only seen or only shadowed reaches nothing, and a default of every
    scope of a kind would tell of each of them: there, telling is asked for.
    """
    is_budget = command.measure not in UNCOUNTED and command.period not in RATES
    is_one = bool(command.scope_ref) or command.scope_kind is ScopeKind.ORGANIZATION
    return USUAL_THRESHOLDS if is_budget and is_one and command.effect in _TELLING else ()


def is_reached(window: Window, percent: int, maximum: int) -> bool:
    """Whether use has reached a threshold; where the maximum is 0, the first use has them all."""
    return window.used > 0 and window.used * _PERCENT >= percent * maximum


def tell_thresholds(books: Books, limits: Iterable[Standing]) -> None:
    """Leave word of every threshold that use has reached and nobody was told of."""
    for each in limits:
        if each.rule.measure in UNCOUNTED:
            continue
        window = each.window
        for percent in sorted(each.rule.thresholds):
            if percent > window.told and is_reached(window, percent, each.maximum):
                window.told = percent
                books.tell(
                    "limit_threshold",
                    scope_kind=each.scope.kind,
                    scope_ref=each.scope.ref,
                    measure=each.rule.measure,
                    period=each.rule.period,
                    effect=each.rule.effect,
                    models=each.rule.models,
                    window_start=instant(Micros(window.start)).isoformat(),
                    percent=str(percent),
                    used=str(window.used),
                    maximum=str(each.maximum),
                    owner=each.rule.owner,
                    origin=each.rule.origin,
                )
