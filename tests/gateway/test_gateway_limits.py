"""Limits at work over HTTP: how fast they take effect, queue or shed, campaigns, codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.house import House
from tests.support.limits import COST, at_once, costly, scope_refs, set_limit
from tests.support.tenants import NewTenant, wait_for

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_delay_of_enforcement_is_zero_and_said_so(new_tenant: NewTenant, house: House) -> None:
    """BUD-09, NEG-06: no call is admitted after the first that a used-up budget refused.

    The figure is on the metrics, and the documentation states the bound.
    """
    tenant = new_tenant(credit="100")
    set_limit(tenant, "0.05")
    at_once([partial(costly, tenant)] * 12)
    assert tenant.spent() == 3 * COST
    wait_for(lambda: len(house.query(_REFUSED, tenant.organization_id)) > 0)
    ((late,),) = house.query(
        "SELECT count(*) FROM call WHERE organization_id = %s AND admitted_at > ("
        "SELECT min(refused_at) FROM refusal WHERE organization_id = %s AND code LIKE %s)",
        *(tenant.organization_id, tenant.organization_id, "%_limit_exceeded"),
    )
    assert late == 0
    page = tenant.get("/metrics", key="").body.decode()
    assert "farebox_enforcement_lag_seconds 0.0" in page
    told = (DOCS / "budgets.md").read_text(encoding="utf-8")
    assert "The delay is zero" in told
    assert "farebox_enforcement_lag_seconds" in told


_REFUSED = "SELECT id FROM refusal WHERE organization_id = %s AND code LIKE '%%_limit_exceeded'"


@pytest.mark.parametrize("mode", ["queue", "shed"])
def test_a_burst_queues_or_is_shed(new_tenant: NewTenant, mode: str) -> None:
    """LIM-09: what room comes back to waits in order for it; what passes a rate is shed at once."""
    tenant = new_tenant(credit="100")
    key = (ScopeKind.KEY, tenant.key_id.hex)
    if mode == "queue":
        set_limit(
            tenant, 1, *key, measure=Measure.PARALLEL, period=Period.TOTAL, effect=Effect.THROTTLE
        )
    else:
        set_limit(tenant, 1, *key, measure=Measure.CALLS, period=Period.UTC_DAY)
    slow = {"X-Sandbox-Latency-Ms": "150"}
    replies = at_once([partial(costly, tenant, headers=slow)] * 4)
    found = sorted(reply.status for reply in replies)
    if mode == "queue":
        assert found == [200] * 4
    else:
        assert found == [200, 429, 429, 429]
        for shed in (reply for reply in replies if reply.status == 429):
            assert shed.error["code"] == "rate_limit_exceeded"
            assert int(shed.headers["retry-after"]) > 0
    tenant.check_books()


def test_four_limits_have_four_codes(new_tenant: NewTenant) -> None:
    """BUD-10, BUD-11, BUD-20, LIM-01, LIM-02: balance, budget, rate: each its own code and words.

    All stand at once; the one that is named is the one in the way.
    """
    tenant = new_tenant(credit="0.01")
    assert costly(tenant).error["code"] == "credit_balance_exhausted"
    tenant.grant("100")
    set_limit(tenant, "0.01")
    budget = costly(tenant)
    assert budget.error["code"] == "organization_spend_limit_exceeded"
    set_limit(tenant, "0.01", ScopeKind.PROJECT, scope_refs(tenant)[ScopeKind.PROJECT])
    set_limit(tenant, None)
    assert costly(tenant).error["code"] == "project_spend_limit_exceeded"
    set_limit(tenant, None, ScopeKind.PROJECT, scope_refs(tenant)[ScopeKind.PROJECT])
    set_limit(tenant, 0, measure=Measure.CALLS, period=Period.MINUTE)
    rate = costly(tenant)
    assert (rate.error["code"], rate.error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert ("retry-after" in rate.headers, "retry-after" in budget.headers) == (True, False)
    assert "monthly" in budget.error["message"]
    assert "per-minute" in rate.error["message"]
    set_limit(tenant, None, measure=Measure.CALLS, period=Period.MINUTE)
    assert costly(tenant).status == 200
    tenant.check_books()


def test_a_soft_limit_tells_and_stops_nothing(new_tenant: NewTenant) -> None:
    """BUD-03, BUD-04, BUD-07: an alert beside a hard limit tells each threshold once."""
    tenant = new_tenant(credit="100")
    set_limit(tenant, "0.02", effect=Effect.ALERT, thresholds=(50, 100))
    set_limit(tenant, "0.05")
    replies = at_once([partial(costly, tenant)] * 6)
    assert sorted(reply.status for reply in replies) == [200] * 3 + [429] * 3
    tenant.calls()
    told = [(fact["effect"], fact["percent"]) for fact in tenant.told("limit_threshold")]
    assert sorted(told) == [("alert", "100"), ("alert", "50")]
    tenant.check_books()
