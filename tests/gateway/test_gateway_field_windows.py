"""Windows, rates and several gateways on one budget, over HTTP: each test is a public bug report.

``tests/FIELD_BUGS.md`` has the whole list. No worker runs here: whatever must happen at a time has
to be true by comparison, without a job. The house's clock is these tests' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.limits import COST, at_once, costly, counters, scope_refs, set_limit
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptableUpstream,
    ScriptedResponse,
    delta,
    usage_chunk,
)
from tests.support.tenants import Tenant, chat_body, make_tenant

RATES: dict[str, Any] = {"period": Period.UTC_DAY}
"""A rate like those of a minute, in a window that no slow machine can leave."""


@dataclass
class Twins:
    """Two gateways on one database."""

    house: House
    other: House

    def tenant(self, name: str, *, credit: str = "100") -> Tenant:
        """An organisation that both serve."""
        return make_tenant(self.house, name, credit=credit)

    def both(self, tenant: Tenant) -> tuple[Tenant, Tenant]:
        """The same organisation, by either gateway."""
        return tenant, replace(tenant, house=self.other)

    def set_clock(self, instant: str, interval: str = "0") -> None:
        """Move the sandbox's clock to an instant (SQL), plus an interval; never back."""
        self.house.execute(
            f"UPDATE deployment SET clock_offset = greatest(clock_offset, {instant} - now())"
            f" + interval '{interval}'"
        )

    def begin_day(self) -> None:
        """Stand at the beginning of the next UTC day, so that a test stays within one."""
        self.set_clock("date_trunc('day', farebox_now(), 'UTC') + interval '1 day'")

    def begin_month(self) -> None:
        """Stand at the beginning of the next calendar month in UTC."""
        self.set_clock("date_trunc('month', farebox_now()) + interval '1 month'")


@pytest.fixture(scope="module")
def twins(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Two gateways of one installation."""
    home = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch, postgres.database() as dsn:
        patch.setattr("farebox.assembly.directory.SimulatedUpstream", ScriptableUpstream)
        with running_house(dsn, home) as first, running_house(dsn, home) as second:
            yield Twins(first, second)


@pytest.fixture
def tenant(twins: Twins, request: pytest.FixtureRequest) -> Tenant:
    """A tenant with a hundred dollars."""
    return twins.tenant(request.node.name)


@pytest.fixture
def pauses() -> Iterator[list[Pause]]:
    """Streams of the script ``slow`` stop after their first words until they are let go on."""
    made: list[Pause] = []

    def script(_: Any) -> ScriptedResponse:
        made.append(Pause())
        return ScriptedResponse(
            [delta("first"), made[-1], delta("", finish="stop"), usage_chunk(20, 900), DONE]
        )

    ScriptableUpstream.scripts["slow"] = script
    yield made
    ScriptableUpstream.scripts.clear()


SLOW = {"X-Sandbox-Script": "slow"}


def outcomes(calls: list[Callable[[], Any]]) -> list[tuple[int, str]]:
    """How often which status and code came, the good ones first."""
    return sorted(
        (reply.status, "" if reply.status == 200 else str(reply.error["code"]))
        for reply in at_once(calls)
    )


# Several gateways.


@pytest.mark.parametrize("cap", ["balance", "key", "user"])
def test_two_workers_one_budget(twins: Twins, cap: str) -> None:
    """Field bug 9, promise 1: N gateways share one budget; it does not grow with them."""
    tenant = twins.tenant(f"two workers {cap}", credit="0.05" if cap == "balance" else "100")
    if cap != "balance":
        set_limit(tenant, "0.05", ScopeKind(cap), scope_refs(tenant)[ScopeKind(cap)])
    calls: list[Callable[[], Any]] = [
        partial(costly, by) for _ in range(8) for by in twins.both(tenant)
    ]
    assert [status for status, _ in outcomes(calls)] == [200] * 3 + [429] * 13
    assert tenant.spent() == 3 * COST
    tenant.check_books()


def test_global_parallel(twins: Twins, tenant: Tenant, pauses: list[Pause]) -> None:
    """Field bug 58, LIM-01, LIM-08: so many calls at a time, whichever gateway they come to."""
    set_limit(tenant, 2, ScopeKind.KEY, tenant.key_id.hex, measure=Measure.PARALLEL,
              period=Period.TOTAL)  # fmt: skip
    first, second = twins.both(tenant)
    body = chat_body(stream=True, max_completion_tokens=900)
    with first.raw(body, SLOW) as one:
        one.read_until(b"first")
        with second.raw(body, SLOW) as two:
            two.read_until(b"first")
            for reply in at_once([partial(costly, first), partial(costly, second)]):
                assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
                assert int(reply.headers["retry-after"]) > 0
            for pause, house in zip(pauses, (twins.house, twins.other), strict=True):
                house.loop.call_soon_threadsafe(pause.over.set)
            two.read_until(b"[DONE]")
        one.read_until(b"[DONE]")
    assert [costly(by).status for by in (first, second)] == [200, 200]
    tenant.check_books()


# Rates.


def test_tpm_reserved(twins: Twins, tenant: Tenant) -> None:
    """Field bug 58, LIM-01: a window's tokens are reserved before a call, not counted after it.

    Forty calls at once on two gateways use no token more than the window has.
    """
    per_call = 900 + 200
    set_limit(tenant, 3 * per_call, measure=Measure.TOKENS, **RATES)
    twins.begin_day()
    calls: list[Callable[[], Any]] = [
        partial(costly, by) for _ in range(20) for by in twins.both(tenant)
    ]
    found = outcomes(calls)
    assert set(found[3:]) == {(429, "rate_limit_exceeded")}
    used = sum(call.input_tokens + call.output_tokens for call in tenant.calls())
    assert 0 < used <= 3 * per_call
    assert len(tenant.calls()) == 3
    tenant.check_books()


TOO_MUCH: dict[str, dict[str, Any]] = {
    "rate": {"max_completion_tokens": 30_000},
    "budget": {"max_completion_tokens": 90_000},
    "balance": {"n": 100, "max_completion_tokens": 100_000},
    "model": {"model": "nothing"},
}


@pytest.mark.parametrize("why", TOO_MUCH)
def test_reject_refunds_rpm(twins: Twins, why: str) -> None:
    """Field bug 58, LIM-03: a call that was never let in takes nothing of the window's calls.

    A call that the provider failed does: it was let in.
    """
    tenant = twins.tenant(f"rpm {why}")
    set_limit(tenant, 3, measure=Measure.CALLS, **RATES)
    if why == "rate":
        set_limit(tenant, 20_000, ScopeKind.USER, "bob", measure=Measure.TOKENS, **RATES)
    if why == "budget":
        set_limit(tenant, "1", ScopeKind.USER, "bob")
    twins.begin_day()
    for _ in range(6):
        assert costly(tenant, **TOO_MUCH[why]).status in {404, 429}
    # One fails upstream and counts; then two are left.
    assert costly(tenant, headers={"X-Sandbox-Fault": "status=500"}).status == 500
    found = [costly(tenant) for _ in range(3)]
    assert [reply.status for reply in found] == [200, 200, 429]
    assert found[1].headers["x-ratelimit-remaining-requests"] == "0"
    assert found[2].error["code"] == "rate_limit_exceeded"
    tenant.check_books()


@pytest.mark.parametrize("kind", [ScopeKind.ORGANIZATION, ScopeKind.USER])
def test_failed_calls_may_give_their_count_back(twins: Twins, kind: ScopeKind) -> None:
    """LIM-03: told to leave failed calls out, a limit of calls per minute counts none of them.

    To be told so, or otherwise, in the middle of its minute counts that minute anew.
    """
    tenant = twins.tenant(f"failed {kind}")
    rpm: dict[str, Any] = {"measure": Measure.CALLS, "period": Period.MINUTE}
    ref = "bob" if kind is ScopeKind.USER else ""
    set_limit(tenant, 2, kind, ref, **rpm, count_failed=False)
    twins.set_clock("date_trunc('minute', farebox_now()) + interval '1 minute'")
    broken = {"X-Sandbox-Fault": "status=500"}
    assert [costly(tenant, headers=broken).status for _ in range(3)] == [500] * 3
    assert [costly(tenant).status for _ in range(3)] == [200, 200, 429]
    assert [limit.used for limit in counters(tenant)] == [2]
    tenant.check_books()
    set_limit(tenant, 9, kind, ref, **rpm)
    assert [limit.used for limit in counters(tenant)] == [5]
    tenant.check_books()
    set_limit(tenant, 9, kind, ref, **rpm, count_failed=False)
    assert [limit.used for limit in counters(tenant)] == [2]
    tenant.check_books()


# Windows.


def test_lazy_window_no_reset_job(twins: Twins, tenant: Tenant) -> None:
    """Field bug 29, BUD-01: at the month's first instant a budget is whole again, by comparison.

    For every scope, the default of a user included; no job runs in this house.
    """
    for kind, ref in scope_refs(tenant).items():
        set_limit(tenant, "0.02", kind, "" if kind is ScopeKind.USER else ref)
    assert [costly(tenant).status for _ in range(2)] == [200, 429]
    twins.begin_month()
    assert [costly(tenant).status for _ in range(2)] == [200, 429]
    shown = counters(tenant)
    assert {view.used for view in shown if view.scope_ref} == {COST}
    tenant.check_books()


def test_window_rebase(twins: Twins, tenant: Tenant) -> None:
    """Field bug 30, BUD-01, BUD-02: a new window on an old key counts that window, not its life.

    Of this month's use all counts, of the months before nothing; a narrower window less.
    """
    assert [costly(tenant).status for _ in range(3)] == [200] * 3
    twins.begin_month()
    assert costly(tenant).status == 200
    twins.set_clock("farebox_now()", "26 hours")
    key = (ScopeKind.KEY, tenant.key_id.hex)
    for period in (Period.TOTAL, Period.MONTH, Period.DAY):
        set_limit(tenant, "0.06", *key, period=period)
    used = {view.rule.period: view.used for view in counters(tenant)}
    assert used == {Period.TOTAL: 4 * COST, Period.MONTH: COST, Period.DAY: 0}
    set_limit(tenant, None, *key, period=Period.TOTAL)
    assert [costly(tenant).status for _ in range(4)] == [200, 200, 200, 429]
    tenant.check_books()


@pytest.mark.parametrize("how", ["window", "removed", "raised"])
def test_reset_during_inflight(twins: Twins, pauses: list[Pause], how: str) -> None:
    """Field bug 24, BUD-01, BUD-02: a reset while a call runs drives no counter below zero.

    The call is counted in the month it was admitted in, whole and once; the new window is clean.
    """
    tenant = twins.tenant(f"reset {how}")
    for kind, ref in scope_refs(tenant).items():
        set_limit(tenant, "1", kind, ref)
    body = chat_body(stream=True, max_completion_tokens=10_000)
    labels = {"X-Farebox-User": "bob", "X-Farebox-Run": "crawl", **SLOW}
    with tenant.raw(body, labels) as call:
        call.read_until(b"first")
        if how == "window":
            twins.begin_month()
        for kind, ref in scope_refs(tenant).items():
            if how == "removed":
                set_limit(tenant, None, kind, ref)
                set_limit(tenant, "1", kind, ref)
            elif how == "raised":
                set_limit(tenant, "0.0001", kind, ref)
        assert all(view.held >= 0 and view.used >= 0 for view in counters(tenant))
        twins.house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.read_until(b"[DONE]")
    tenant.calls()
    shown = counters(tenant)
    assert {view.held for view in shown} == {0}
    counted = {kind for kind in scope_refs(tenant) if kind.value in
               {"organization", "project", "key", "user", "run"}}  # fmt: skip
    for view in shown:
        mine = view.scope_kind in counted and how != "window"
        assert view.used == (COST if mine else 0), view
    tenant.check_books()


def test_a_campaign_raises_a_budget_for_a_while(twins: Twins, tenant: Tenant) -> None:
    """BUD-16: until its instant the raised maximum holds; then the old one, without any job."""
    twins.begin_month()
    ((now,),) = twins.house.query("SELECT farebox_now()")
    set_limit(tenant, "0.02", raised_to=COST * 3, raised_until=now + timedelta(days=1))
    assert [costly(tenant).status for _ in range(2)] == [200, 200]
    (raised,) = counters(tenant)
    assert raised.maximum == COST * 3
    twins.set_clock("farebox_now()", "25 hours")
    (restored,) = counters(tenant)
    assert restored.maximum == 20_000_000
    error = costly(tenant).error
    assert error["code"] == "organization_spend_limit_exceeded"
    assert "limit is 0.02" in error["message"]
    tenant.check_books()
