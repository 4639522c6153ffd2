"""Limits of a running house's tenants: set them, label calls for them, read their counters."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from farebox.ledger.commands import Done, SetLimit
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.balance import LimitView
from farebox.storage.balance_store import list_limits
from tests.support.tenants import Reply, Tenant, chat_body, nanos

LABELS: Final = {
    "X-Farebox-User": "bob",
    "X-Farebox-Feature": "search",
    "X-Farebox-Environment": "test",
    "X-Farebox-Run": "crawl",
    "X-Farebox-Tags": "team=blue",
}
"""A call that carries one label of every kind."""

COSTLY: Final = {"X-Sandbox-Usage": "prompt=20,cached=0,completion=900"}
COST: Final = 20 * 2_500 + 900 * 15_000
"""What such a call costs when it may have 900 tokens: 0.01355."""


def scope_refs(tenant: Tenant) -> dict[ScopeKind, str]:
    """Every scope that a call with those labels is counted under."""
    return {
        ScopeKind.ORGANIZATION: "",
        ScopeKind.PROJECT: tenant.project_id.hex,
        ScopeKind.KEY: tenant.key_id.hex,
        ScopeKind.USER: "bob",
        ScopeKind.FEATURE: "search",
        ScopeKind.ENVIRONMENT: "test",
        ScopeKind.TAG: "team=blue",
        ScopeKind.RUN: "crawl",
    }


def set_limit(
    tenant: Tenant,
    maximum: str | int | None,
    kind: ScopeKind = ScopeKind.ORGANIZATION,
    ref: str = "",
    **more: Any,
) -> None:
    """Set a limit of money (a decimal amount) or of something else (a count)."""
    fields: dict[str, Any] = {"period": Period.MONTH, "measure": Measure.MONEY, **more}
    command = SetLimit(
        organization_id=tenant.organization_id,
        scope_kind=kind,
        scope_ref=ref,
        maximum=nanos(maximum) if isinstance(maximum, str) else maximum,
        **fields,
    )
    result = tenant.house.command(command)
    assert isinstance(result, Done), result


def counters(tenant: Tenant) -> list[LimitView]:
    """Every limit with its counter, as the management plane shows it."""
    house = tenant.house

    async def read() -> Sequence[LimitView]:
        async with await house.database.connector("limits").connect() as connection:
            return await list_limits(connection, tenant.organization_id)

    return list(house.run(read()))


def costly(
    tenant: Tenant, *, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any
) -> Reply:
    """A call that costs ``COST``."""
    body = chat_body(**{"max_completion_tokens": 900, **fields})
    orders = {**LABELS, **COSTLY, **(headers or {})}
    return tenant.post("/v1/chat/completions", body, orders, key=key)


def at_once(calls: Sequence[Any]) -> list[Reply]:
    """Make calls in as many threads; gives their answers in order."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result() for each in [threads.submit(call) for call in calls]]
