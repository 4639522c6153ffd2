"""A rotated key keeps its limits: they are set on the new key before it opens anything.

Counters begin anew: what the old key used in the running window is not counted against the new one.
Limits of its project, its organisation and its users hold for both together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from farebox.ledger.commands import SetLimit
from farebox.ledger.scopes import ScopeKind
from farebox.operations.audit_log import AuditLog
from farebox.operations.audited_money import Submit, audited
from farebox.operations.balance import LimitView


def copied_limits(
    organization_id: UUID, limits: Iterable[LimitView], old: UUID, new: UUID
) -> list[SetLimit]:
    """The commands that give a new key the limits of its own that the old one has."""
    return [
        SetLimit(
            organization_id=organization_id,
            scope_kind=ScopeKind.KEY,
            scope_ref=new.hex,
            measure=limit.rule.measure,
            period=limit.rule.period,
            effect=limit.rule.effect,
            models=limit.rule.models,
            maximum=limit.rule.maximum,
            raised_to=limit.rule.raised_to,
            raised_from=limit.rule.raised_from,
            raised_until=limit.rule.raised_until,
            thresholds=limit.rule.thresholds,
            owner=limit.rule.owner,
            origin=limit.rule.origin,
            count_failed=limit.rule.count_failed,
        )
        for limit in limits
        if limit.scope_kind is ScopeKind.KEY and limit.scope_ref == old.hex and not limit.is_default
    ]


def limit_copier(
    log: AuditLog, submit: Submit, organization_id: UUID, limits: Iterable[LimitView], old: UUID
) -> Callable[[UUID], Awaitable[None]]:
    """What ``Administration.rotate_key`` prepares a new key with."""

    async def prepare(new: UUID) -> None:
        for command in copied_limits(organization_id, limits, old, new):
            await audited(log, submit, command, reason="key rotated")

    return prepare
