"""Which grants pay: reserving for a hold, drawing for a charge, in the promised order.

Free credit before contract credit before purchased credit, sooner end before later, older before
newer (DED-02, DED-03). A charge draws from its own earmarks and from credit that nobody holds,
never from another call's earmark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.kit.money import ZERO, Nanos
from farebox.ledger.holds import Draw, Earmark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from farebox.ledger.grants import Grant


def plan_earmarks(
    grants: Sequence[Grant], amount: Nanos, now: datetime
) -> tuple[list[Earmark], Nanos]:
    """Spread a hold over live grants.

    Args:
        grants: In burn-down order.
        amount: What to hold, zero or more.
        now: Engine time.

    Returns:
        The earmarks, and the rest that no grant covers (to be earmarked on the floor).
    """
    earmarks: list[Earmark] = []
    rest: int = amount
    for grant in grants:
        if rest == 0:
            break
        part = min(rest, grant.unreserved) if grant.is_live(now) else 0
        if part > 0:
            earmarks.append(Earmark(grant.id, Nanos(part)))
            rest -= part
    assert rest + sum(mark.amount for mark in earmarks) == amount
    return earmarks, Nanos(rest)


def plan_draws(
    grants: Sequence[Grant],
    earmarked: Mapping[UUID, int],
    charge: Nanos,
    *,
    unsecured: Nanos,
    spendable: int,
    now: datetime,
) -> tuple[list[Draw], Nanos]:
    """Choose what pays a charge that is no larger than its hold.

    An earmark on a grant that has ended or is frozen does not come back as available credit. If
    such an earmark were left behind and live credit drawn in its place, other holds or debt could
    lose the credit they stand on; so at least the part that live money cannot carry is drawn from
    those earmarks, and only the remaining choice follows burn-down order.

    Args:
        grants: In burn-down order; at least every grant that an earmark names.
        earmarked: What this call's hold has set aside, per grant.
        charge: What to draw.
        unsecured: The part of the hold that stands on the floor.
        spendable: The organisation's spendable amount before the hold is undone.
        now: Engine time.

    Returns:
        The draws in burn-down order, and the rest that no grant pays (to be owed).
    """
    live = [grant.is_live(now) for grant in grants]
    carried = unsecured + max(0, spendable)
    for grant, alive in zip(grants, live, strict=True):
        carried += earmarked.get(grant.id, 0) if alive else 0
    forced = max(0, charge - carried)
    from_ended: dict[UUID, int] = {}
    for grant, alive in zip(grants, live, strict=True):
        own = 0 if alive else earmarked.get(grant.id, 0)
        if forced and own:
            from_ended[grant.id] = min(own, forced)
            forced -= from_ended[grant.id]
    rest = charge - sum(from_ended.values())
    draws: list[Draw] = []
    for grant, alive in zip(grants, live, strict=True):
        part = from_ended.get(grant.id, 0)
        offered = earmarked.get(grant.id, 0) - part + (grant.unreserved if alive else 0)
        more = min(rest, offered)
        rest -= more
        if part + more:
            draws.append(Draw(grant.id, Nanos(part + more)))
    assert rest + sum(draw.amount for draw in draws) == charge
    assert ZERO <= rest <= unsecured, (rest, unsecured)
    return draws, Nanos(rest)
