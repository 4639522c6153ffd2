"""How a limit is told to people: in words, with names for ids, a bar of what is used and held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from farebox.ledger.limits import REFUSING, Effect, Measure, Origin, Period, Rule
from farebox.ledger.scopes import ScopeKind
from farebox.operations.balance import LimitView
from farebox.operations.limit_documents import shown_scope
from farebox.operations.shadow_limits import ShadowRefusals

BAR_WIDTH: Final = 1_000
"""Of the drawing; the page stretches it."""

_VISIBLE_MIN: Final = 8
"""What is there at all can be seen."""

_WHAT: Final = {
    Measure.MONEY: "Money",
    Measure.TOKENS: "Tokens",
    Measure.CALLS: "Calls",
    Measure.PARALLEL: "Calls at a time",
    Measure.SECONDS: "Seconds of a run",
    Measure.DEPTH: "Levels of runs below a run",
}
_SPANS: Final = {
    Period.MINUTE: "per minute",
    Period.UTC_DAY: "per day in UTC",
    Period.DAY: "per day",
    Period.WEEK: "per week",
    Period.MONTH: "per month",
    Period.TOTAL: "in all",
}
_COUNTED: Final = frozenset({Measure.MONEY, Measure.TOKENS, Measure.CALLS})
"""What is counted in windows; the others say by themselves over what they stand."""

_EFFECTS: Final = {
    Effect.HARD: "refuses",
    Effect.THROTTLE: "waits for room, then refuses",
    Effect.ALERT: "only tells",
    Effect.SHADOW: "in shadow: notes only",
    Effect.ALLOCATION: "set aside, and refuses",
    Effect.STOP: "stopped",
}


@dataclass(frozen=True, slots=True)
class Raise:
    """A temporary maximum that is in force, or will be."""

    usual: int
    raised_to: int
    begins_at: datetime | None
    """None while it is in force."""
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit as the page shows it."""

    scope: str
    """Kind and name: ``project search``, ``each user``."""
    what: str
    """Measure and window."""
    models: str
    effect: str
    is_money: bool
    counts: bool
    """Not the default of a kind, which stands in each scope's own row."""
    maximum: int
    used: int
    held: int
    left: int
    used_width: int
    held_width: int
    percent_used: int
    is_reached: bool
    """Nothing more fits, and it refuses."""
    resets_at: datetime | None
    source: str
    """Where it came from."""
    owner: str
    """Whom to ask, or why it was stopped; may be empty."""
    raised: Raise | None
    refused: ShadowRefusals | None


def limit_rows(
    limits: Sequence[LimitView],
    refused: Sequence[ShadowRefusals | None],
    names: Mapping[str, str],
    at: datetime,
) -> list[LimitRow]:
    """Rows of a page: wide scopes before narrow ones, defaults first, then by name.

    Args:
        limits: A page of them.
        refused: What each would have refused, in their order.
        names: Of projects and keys, by the scope's reference.
        at: The instant of the figures.
    """
    kinds = list(ScopeKind)
    rows = zip(limits, refused, strict=True)
    return [
        _row(view, shadow, names, at)
        for view, shadow in sorted(
            rows,
            key=lambda row: (
                kinds.index(row[0].scope_kind),
                names.get(row[0].scope_ref, row[0].scope_ref).casefold(),
                row[0].scope_ref,
                row[0].rule.origin is not Origin.TIER,
                row[0].number,
            ),
        )
    ]


def names_wanted(limits: Sequence[LimitView], kind: ScopeKind) -> Iterator[str]:
    """References of the projects or keys among the scopes: 32 hex digits each."""
    return (view.scope_ref for view in limits if view.scope_kind is kind and view.scope_ref)


def _row(
    view: LimitView, refused: ShadowRefusals | None, names: Mapping[str, str], at: datetime
) -> LimitRow:
    rule = view.rule
    what = _WHAT[rule.measure]
    if rule.measure in _COUNTED:
        what = f"{what} {_SPANS[rule.period]}"
    used, held = _width(view.used, view.maximum), _width(view.held, view.maximum)
    used_width = min(used, BAR_WIDTH)
    return LimitRow(
        scope=_scope(view, names),
        what=what if rule.count_failed else f"{what}, failed ones left out",
        models=rule.models,
        effect=_EFFECTS[rule.effect],
        is_money=rule.measure is Measure.MONEY,
        counts=bool(view.scope_ref),
        maximum=view.maximum,
        used=view.used,
        held=view.held,
        left=view.left,
        used_width=used_width,
        held_width=min(held, BAR_WIDTH - used_width),
        percent_used=view.used * 100 // view.maximum if view.maximum else 100,
        is_reached=view.left == 0 and rule.effect in REFUSING and bool(view.scope_ref),
        resets_at=view.resets_at,
        source=_source(view),
        owner=_owner(rule),
        raised=_raise(view, at),
        refused=refused,
    )


def _scope(view: LimitView, names: Mapping[str, str]) -> str:
    if view.scope_kind is ScopeKind.ORGANIZATION:
        return "organisation"
    if not view.scope_ref:
        return f"each {view.scope_kind}"
    # What was deleted has its id left.
    named = names.get(view.scope_ref) or shown_scope(view.scope_kind, view.scope_ref)
    return f"{view.scope_kind} {named}"


def _source(view: LimitView) -> str:
    if view.rule.origin is Origin.TIER:
        return f"usage {view.rule.owner}" if view.rule.owner else "usage tier"
    if view.is_default and view.scope_ref:
        return f"default of each {view.scope_kind}"
    return "set by hand"


def _owner(rule: Rule) -> str:
    if rule.origin is Origin.TIER or not rule.owner:
        return ""  # the source names the tier
    return rule.owner if rule.effect is Effect.STOP else f"ask {rule.owner}"


def _raise(view: LimitView, at: datetime) -> Raise | None:
    rule = view.rule
    if rule.raised_to is None or (rule.raised_until is not None and at >= rule.raised_until):
        return None
    begins_at = rule.raised_from if rule.raised_from is not None and at < rule.raised_from else None
    return Raise(rule.maximum, rule.raised_to, begins_at, rule.raised_until)


def _width(amount: int, maximum: int) -> int:
    if amount <= 0 or maximum <= 0:
        return 0
    return max(_VISIBLE_MIN, amount * BAR_WIDTH // maximum)
