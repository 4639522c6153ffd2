"""What limits in shadow would have refused, read off the newest calls (one statement)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from farebox.ledger.limits import Effect
from farebox.operations.balance import LimitView
from farebox.operations.shadow_limits import CALLS_LOOKED_AT_MAX, LOOK_BACK, ShadowRefusals
from farebox.storage.rows import utc
from farebox.storage.sql import queries

_Connection = AsyncConnection[tuple[Any, ...]]


async def read_shadow_refusals(
    connection: _Connection, organization_id: UUID, limits: Sequence[LimitView]
) -> list[ShadowRefusals | None]:
    """What each limit would have refused, in their order; None for one that is not in shadow.

    Args:
        connection: In autocommit mode; nothing is asked where no limit is in shadow.
        organization_id: Whose.
        limits: A page of them.
    """
    scopes = {
        (view.scope_kind.value, view.scope_ref)
        for view in limits
        if view.rule.effect is Effect.SHADOW
    }
    if not scopes:
        return [None] * len(limits)
    values = {
        "organization_id": organization_id,
        "kinds": [kind for kind, _ in scopes],
        "refs": [ref for _, ref in scopes],
        "calls": CALLS_LOOKED_AT_MAX,
        "back": LOOK_BACK,
    }
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("shadow")["shadow_refusals"], values)
    rows = await cursor.fetchall()
    since = utc(rows[0][0])
    counted = {
        row[1:6]: ShadowRefusals(
            calls=row[6], since=since, last_call_id=row[7], last_call_at=utc(row[8])
        )
        for row in rows
        if row[1] is not None
    }
    none = ShadowRefusals(calls=0, since=since, last_call_id=None, last_call_at=None)
    return [
        counted.get(_key(view), none) if view.rule.effect is Effect.SHADOW else None
        for view in limits
    ]


def _key(view: LimitView) -> tuple[str, ...]:
    rule = view.rule
    what = (rule.measure.value, rule.period.value, rule.models)
    return (view.scope_kind.value, view.scope_ref, *what)
