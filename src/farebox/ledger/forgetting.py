"""Forgetting scopes that stand under a default alone, once nothing can reach their counters.

A default makes a row for every user or run that is ever seen. A row goes when each of its windows
has been over for as long as late answers may find it, no open call has raised it, and no limit of
its own stands on it; whoever comes back then finds what a new scope finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from farebox.kit.money import Nanos
from farebox.ledger.commands import Done, Forget, Result
from farebox.ledger.counters import UNCOUNTED
from farebox.ledger.limits import Measure, Micros, Rule, ScopeLimits, drop_old, micros

if TYPE_CHECKING:
    from farebox.ledger.books import Books

PASSING: Final = UNCOUNTED - {Measure.SECONDS}
"""What leaves nothing in a window that no open call has raised; wall time keeps its beginning."""


def forget(books: Books, command: Forget) -> Result:
    """Delete the rows of scopes that nothing can reach; the answer's amount says how many."""
    raised = {(item.scope, item.rule) for hold in books.holds.values() for item in hold.raised}
    now, gone = micros(books.now), 0
    for number in command.numbers:
        scope = books.counters.find(number)
        if scope is None or scope.is_default or scope.rules:
            continue
        rules = books.counters.rules_of(scope)
        if all(
            (number, of) not in raised and _is_over(scope, rule, now) for of, rule in rules.items()
        ):
            books.counters.forget(number)
            gone += 1
    # Engine time is kept, so that it cannot go back into a window that was forgotten.
    books.touched = books.touched or gone > 0
    return Done(available=books.available, amount=Nanos(gone))


def _is_over(scope: ScopeLimits, rule: Rule, now: Micros) -> bool:
    kept = list(scope.windows.get(rule.number, ()))
    drop_old(kept, rule, now)
    return not kept or rule.measure in PASSING
