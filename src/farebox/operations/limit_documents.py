"""How limits are shown: scopes by the ids that people see, amounts in their measure."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount
from farebox.ledger.limits import Measure
from farebox.ledger.scopes import ScopeKind
from farebox.operations.balance import LimitView
from farebox.operations.documents import Document, instant

_PREFIXES: Final = {
    ScopeKind.ORGANIZATION.value: "org",
    ScopeKind.PROJECT.value: "proj",
    ScopeKind.KEY.value: "key",
}


def shown_scope(kind: str, ref: str) -> str:
    """A scope's reference as people see it: an id with its prefix, or the name."""
    prefix = _PREFIXES.get(kind)
    return format_id(prefix, UUID(ref)) if prefix and ref else ref


def shown_amount(measure: str, amount: int) -> str | int:
    """Money as a decimal text, counts as whole numbers."""
    return format_amount(Nanos(amount)) if measure == Measure.MONEY else amount


def limit_document(limit: LimitView) -> Document:
    """One limit with its counter in the current window."""
    rule = limit.rule
    measure = rule.measure

    return {
        "object": "limit",
        "scope_kind": limit.scope_kind.value,
        "scope_id": shown_scope(limit.scope_kind, limit.scope_ref),
        "is_default": limit.is_default,
        "measure": measure.value,
        "period": rule.period.value,
        "effect": rule.effect.value,
        "models": rule.models or None,
        "maximum": shown_amount(measure, limit.maximum),
        "used": shown_amount(measure, limit.used),
        "held": shown_amount(measure, limit.held),
        "left": shown_amount(measure, limit.left),
        "thresholds_percent": list(rule.thresholds),
        "owner": rule.owner or None,
        "origin": rule.origin.value,
        "count_failed": rule.count_failed,
        "raised_to": None if rule.raised_to is None else shown_amount(measure, rule.raised_to),
        "raised_from": instant(rule.raised_from),
        "raised_until": instant(rule.raised_until),
        "starts_at": instant(limit.starts_at),
        "resets_at": instant(limit.resets_at),
    }
