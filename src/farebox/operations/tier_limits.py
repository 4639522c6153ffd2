"""What a tier means to the engine: limits on the organisation, told apart from all others.

They carry the tier's name as their owner. Nobody changes them by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import UUID

from farebox.kit.errors import RefusedError
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.balance import LimitView
from farebox.tenancy.tiers import Tier

OWNER: Final = "tier "
"""With the tier's name: the owner of a tier's limits."""

EVERY_MODEL: Final = "*"
"""Unlike the empty pattern of an organisation's own limits, so that the two never meet."""

_WINDOWS: Final = (
    ("calls_per_minute", Measure.CALLS, Period.MINUTE),
    ("tokens_per_minute", Measure.TOKENS, Period.MINUTE),
    ("calls_per_day", Measure.CALLS, Period.UTC_DAY),
    ("tokens_per_day", Measure.TOKENS, Period.UTC_DAY),
)
"""Field of a tier's rate -> what it counts, and for how long."""


RATE_FIELDS: Final = tuple(field for field, _, _ in _WINDOWS)


def tier_limits(organization_id: UUID, tier: Tier) -> Iterator[SetLimit]:
    """The limits that a tier sets on an organisation."""
    bounds = []
    if tier.monthly_maximum is not None:
        bounds.append((Measure.MONEY, Period.MONTH, EVERY_MODEL, int(tier.monthly_maximum)))
    for rate in tier.rates:
        for field, measure, period in _WINDOWS:
            maximum = getattr(rate, field)
            if maximum is not None:
                bounds.append((measure, period, rate.models, maximum))
    for measure, period, models, maximum in bounds:
        yield SetLimit(
            organization_id=organization_id,
            measure=measure,
            period=period,
            models=models,
            maximum=maximum,
            owner=f"{OWNER}{tier.name}",
        )


def limit_changes(
    organization_id: UUID, tier: Tier | None, standing: Iterable[LimitView]
) -> Iterator[SetLimit]:
    """What must be set and removed so that exactly the tier's limits stand, beside others.

    Args:
        organization_id: Whose limits they are.
        tier: Where it stands; None removes every tier's limits.
        standing: All its limits.
    """
    mine = {
        _key(limit): limit
        for limit in standing
        if limit.scope_kind is ScopeKind.ORGANIZATION and is_tiers(limit)
    }
    wanted = (
        {} if tier is None else {_command_key(c): c for c in tier_limits(organization_id, tier)}
    )
    for key, command in wanted.items():
        limit = mine.get(key)
        if limit is None or (limit.rule.maximum, limit.rule.owner) != (
            command.maximum,
            command.owner,
        ):
            yield command
    for measure, period, effect, models in mine.keys() - wanted.keys():
        yield SetLimit(
            organization_id=organization_id,
            measure=measure,
            period=period,
            effect=effect,
            models=models,
            maximum=None,
        )


def refuse_reserved(command: SetLimit, standing: Iterable[LimitView] = ()) -> None:
    """Refuse to touch a tier's limit by hand: it is changed with the tier alone.

    Args:
        command: What somebody asks for.
        standing: The organisation's limits, where they are known.

    Raises:
        RefusedError: ``limit_is_the_tiers``.
    """
    if command.scope_kind is not ScopeKind.ORGANIZATION:
        return
    taken = {_key(limit) for limit in standing if is_tiers(limit)}
    reserved = command.models == EVERY_MODEL or command.owner.startswith(OWNER)
    if reserved or _command_key(command) in taken:
        raise RefusedError(
            "limit_is_the_tiers",
            "This limit is set by the usage tier and changes with it; set one for all models, of "
            "a project or of a key instead, or ask an operator for another tier.",
        )


def is_tiers(limit: LimitView) -> bool:
    """Whether a limit was set by a tier: nobody changes it but by the tier."""
    return limit.rule.owner.startswith(OWNER)


def _key(limit: LimitView) -> tuple[Measure, Period, Effect, str]:
    rule = limit.rule
    return rule.measure, rule.period, rule.effect, rule.models


def _command_key(command: SetLimit) -> tuple[Measure, Period, Effect, str]:
    return command.measure, command.period, command.effect, command.models
