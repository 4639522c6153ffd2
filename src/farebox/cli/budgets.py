"""``farebox budgets``: how much money may be spent in a period; limits of the kind asked for most.

A budget is a limit of money by month, week, day or in all: hard, or soft, which only tells (BUD-02
to BUD-04). ``farebox limits`` knows every other kind, and shows budgets among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.limits import COUNTS, PERIODS, add_details, add_maximum, add_scope, run_for

if TYPE_CHECKING:
    import argparse

    from farebox.ledger.limits import Rule

_RATES = ("per_minute", "per_day")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    change = actions.add_parser("set", help="set, change or remove a budget")
    add_scope(change)
    add_maximum(change, {name: of for name, of in PERIODS.items() if name not in _RATES})
    change.add_argument(
        "--soft",
        dest="effect",
        action="store_const",
        const="alert",
        help="only tell; a hard one may stand beside it",
    )
    add_details(change)
    others = dict.fromkeys((*_RATES, *COUNTS))
    change.set_defaults(tokens=False, calls=False, **others)
    listed = actions.add_parser("list", help="the budgets and what is left of them")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return run_for(args, what="budget", shows=_is_budget)


def _is_budget(rule: Rule) -> bool:
    from farebox.ledger.limits import RATES, Effect, Measure

    is_told_or_kept = rule.effect in {Effect.HARD, Effect.ALERT}
    return rule.measure is Measure.MONEY and rule.period not in RATES and is_told_or_kept
