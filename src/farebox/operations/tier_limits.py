"""What a tier means to the engine: limits on the organisation, told from others by their origin.

They stand beside whatever the organisation limits itself to (LIM-06), and nobody changes them by
hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import UUID

from farebox.kit.errors import RefusedError
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Origin, Period
from farebox.operations.balance import LimitView
from farebox.tenancy.tiers import Tier

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
        bounds.append((Measure.MONEY, Period.MONTH, "", int(tier.monthly_maximum)))
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
            owner=f"tier {tier.name}",
            origin=Origin.TIER,
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
    mine = {limit.number: limit.rule for limit in standing if limit.rule.origin is Origin.TIER}
    wanted = {} if tier is None else {c.number: c for c in tier_limits(organization_id, tier)}
    for number, command in wanted.items():
        rule = mine.get(number)
        if rule is None or (rule.maximum, rule.owner) != (command.maximum, command.owner):
            yield command
    for number in mine.keys() - wanted.keys():
        rule = mine[number]
        yield SetLimit(
            organization_id=organization_id,
            measure=rule.measure,
            period=rule.period,
            effect=rule.effect,
            models=rule.models,
            origin=rule.origin,
            maximum=None,
        )


def refuse_reserved(command: SetLimit) -> None:
    """Refuse to touch a tier's limit by hand: it is changed with the tier alone.

    Raises:
        RefusedError: ``limit_is_the_tiers``.
    """
    if command.origin is Origin.TIER:
        raise RefusedError(
            "limit_is_the_tiers",
            "This limit is set by the usage tier and changes with it; set one of your own beside "
            "it, or ask an operator for another tier.",
        )
