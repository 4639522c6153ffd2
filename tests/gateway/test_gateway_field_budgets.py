"""Budgets that other gateways let through, over HTTP: each test is one public bug report.

The names are those of the reports' tests; ``tests/FIELD_BUGS.md`` has the whole list.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import openai
import pytest

from farebox.ledger.commands import Correct, Done, SetFloor
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.house import House
from tests.support.limits import (
    COST,
    LABELS,
    at_once,
    costly,
    counters,
    scope_refs,
    set_limit,
)
from tests.support.openai_clients import sync_client
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptedResponse,
    Scripts,
    delta,
    usage_chunk,
)
from tests.support.tenants import MODEL, NewTenant, Tenant, chat_body, nanos, new_id

SCOPES = list(ScopeKind)
ROOM_FOR_THREE = "0.05"


def statuses(replies: list[Any]) -> list[int]:
    """The statuses, the good ones first."""
    return sorted(reply.status for reply in replies)


# Races and overspending.


@pytest.mark.parametrize("cap", ["balance", *SCOPES])
def test_burst_never_exceeds_cap(new_tenant: NewTenant, cap: str) -> None:
    """Field bugs 1, 2, BUD-02, BUD-05, BUD-13, BUD-14: no cap of any scope is passed by a burst.

    Over several keys where the cap is not one key's.
    """
    tenant = new_tenant(credit=ROOM_FOR_THREE if cap == "balance" else "100")
    keys = [tenant.key] * 16
    if cap == "balance":
        keys = [tenant.key, *(tenant.new_key().text for _ in range(3))] * 4
    else:
        set_limit(tenant, ROOM_FOR_THREE, ScopeKind(cap), scope_refs(tenant)[ScopeKind(cap)])
    replies = at_once([partial(costly, tenant, key=key) for key in keys])
    assert statuses(replies) == [200] * 3 + [429] * 13
    assert tenant.spent() == 3 * COST
    assert {call.absorbed for call in tenant.calls()} == {0}
    # And it stays shut.
    assert costly(tenant).error["type"] == "insufficient_quota"
    assert tenant.spent() == 3 * COST
    tenant.check_books()


def test_first_use_race_default_budget(new_tenant: NewTenant) -> None:
    """Field bug 4, BUD-14: the first calls of a user whom nobody knew share the default budget."""
    tenant = new_tenant(credit="100")
    set_limit(tenant, "0.02", ScopeKind.USER)
    for user in ("ann", "eve"):
        calls = [partial(costly, tenant, headers={"X-Farebox-User": user})] * 8
        assert statuses(at_once(calls)) == [200] + [429] * 7
    assert tenant.spent() == 2 * COST
    used = {view.scope_ref: view.used for view in counters(tenant) if view.scope_ref}
    assert used == {"ann": COST, "eve": COST}
    tenant.check_books()


def test_run_cap_under_fanout(new_tenant: NewTenant) -> None:
    """Field bug 5, BUD-12: an agent's children at once share its run's cap, and their own."""
    tenant = new_tenant(credit="100")
    set_limit(tenant, ROOM_FOR_THREE, ScopeKind.RUN, "crawl", period=Period.TOTAL)
    set_limit(tenant, "0.02", ScopeKind.RUN, period=Period.TOTAL)
    runs = [f"crawl/page-{number % 8}" for number in range(24)]
    calls = [partial(costly, tenant, headers={"X-Farebox-Run": run}) for run in runs]
    assert statuses(at_once(calls)) == [200] * 3 + [429] * 21
    by_run = [call.run for call in tenant.calls()]
    assert len(set(by_run)) == 3, "each child had its own cap too"
    refused = costly(tenant, headers={"X-Farebox-Run": "crawl/page-9"})
    assert refused.error["code"] == "run_spend_limit_exceeded"
    assert "run crawl's" in refused.error["message"]
    tenant.check_books()


@pytest.mark.parametrize("endpoint", ["json", "stream", "embeddings"])
def test_every_endpoint_charges_every_scope(new_tenant: NewTenant, endpoint: str) -> None:
    """Field bug 6, BUD-12..14: whatever is called, all eight scopes count its charge and tokens."""
    tenant = new_tenant(credit="100")
    for kind, ref in scope_refs(tenant).items():
        set_limit(tenant, "50", kind, ref)
        set_limit(tenant, 1_000_000, kind, ref, measure=Measure.TOKENS)
        set_limit(tenant, 50, kind, ref, measure=Measure.CALLS)
    if endpoint == "embeddings":
        body = {"model": "text-embedding-3-small", "input": "one two three"}
        reply = tenant.post("/v1/embeddings", body, LABELS)
    else:
        reply = costly(tenant, stream=endpoint == "stream")
    assert reply.status == 200
    call = tenant.only_call()
    used = {
        Measure.MONEY: call.charge,
        Measure.TOKENS: call.input_tokens + call.output_tokens,
        Measure.CALLS: 1,
    }
    shown = counters(tenant)
    assert len(shown) == 3 * len(SCOPES)
    for view in shown:
        assert (view.used, view.held) == (used[view.rule.measure], 0), view
    assert call.charge > 0
    tenant.check_books()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/v1/completions",
        "/v1/messages",
        "/v1/batches",
        "/v1/images/generations",
        "/openai/v1/chat/completions",
        "/v1beta/models/gemini:generateContent",
        "/bedrock/model/x/invoke",
        "/v1/chat/completions/../responses",
    ],
)
def test_passthrough_enforced(tenant: Tenant, scripts: Scripts, path: str) -> None:
    """Field bugs 7, 8, promise 1: nothing goes upstream by a path that no engine meters."""

    def reached(_: Any) -> ScriptedResponse:
        raise AssertionError(path)

    scripts["none"] = reached
    reply = tenant.post(path, chat_body(), {"X-Sandbox-Script": "none"})
    assert (reply.status, reply.error["code"]) == (404, "unknown_url")
    assert tenant.calls() == []


def test_multi_window_percent(new_tenant: NewTenant) -> None:
    """Field bug 11, BUD-06: 99 % of a day's budget is told by the day's own use, a month's by its.

    Forty cents of fifteen dollars a day and a hundred a month are no 99 % of anything.
    """
    tenant = new_tenant(credit="100")
    for period, maximum in ((Period.DAY, "15"), (Period.MONTH, "100")):
        set_limit(tenant, maximum, period=period, thresholds=(2, 99))
    for _ in range(3):
        reply = costly(tenant, headers={"X-Sandbox-Usage": "prompt=0,cached=0,completion=9000"},
                       max_completion_tokens=9_000)  # fmt: skip
        assert reply.status == 200
    tenant.calls()
    told = [(fact["period"], fact["percent"]) for fact in tenant.told("limit_threshold")]
    assert told == [("day", "2")], "0.405 is 2.7 % of 15 and 0.4 % of 100"


def test_no_trust_bypass(new_tenant: NewTenant, house: House, scripts: Scripts) -> None:
    """Field bug 13, promise 1: the richest organisation's call is held whole; its caps stand."""
    tenant = new_tenant(credit="5000000")
    set_limit(tenant, "0.20", ScopeKind.KEY, tenant.key_id.hex)
    pauses: list[Pause] = []

    def slow(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        return ScriptedResponse(
            [delta("a"), pauses[-1], delta("", finish="stop"), usage_chunk(5, 9), DONE]
        )

    scripts["slow"] = slow
    body = chat_body(stream=True, max_completion_tokens=10_000)
    with tenant.raw(body, {"X-Sandbox-Script": "slow"}) as call:
        call.read_until(b'"a"')
        ((held,),) = house.query(
            "SELECT amount_nanos FROM hold WHERE organization_id = %s", tenant.organization_id
        )
        assert held >= 10_000 * 15_000
        (cap,) = counters(tenant)
        assert cap.held == held
        assert tenant.chat(max_completion_tokens=10_000).error["code"] == "balance_held"
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.read_until(b"[DONE]")
    assert tenant.chat(max_completion_tokens=14_000).error["code"] == "key_spend_limit_exceeded"
    tenant.check_books()


@pytest.mark.parametrize("how", ["correction", "delayed_cutoff", "key"])
def test_negative_blocks_next(
    new_tenant: NewTenant, house: House, scripts: Scripts, how: str
) -> None:
    """Field bug 14, NEG-01, NEG-07: what is used up or below zero refuses the very next call."""
    tenant = new_tenant(credit="0.02")
    if how == "correction":
        fields: dict[str, Any] = {"command_id": new_id(house), "amount": nanos("1"), "note": "x"}
        done = house.command(Correct(organization_id=tenant.organization_id, **fields))
        assert isinstance(done, Done)
    elif how == "delayed_cutoff":
        house.command(SetFloor(organization_id=tenant.organization_id, floor=nanos("0.01")))
        assert [costly(tenant).status for _ in range(2)] == [200, 200]
        assert tenant.spent() == 2 * COST > nanos("0.02")
    else:
        tenant.grant("50")
        set_limit(tenant, "0.0138", ScopeKind.KEY, tenant.key_id.hex)
        assert costly(tenant).status == 200
    spent = tenant.spent()
    for _ in range(3):
        reply = costly(tenant)
        assert (reply.status, reply.error["type"]) == (429, "insufficient_quota")
    assert tenant.spent() == spent
    tenant.check_books()


@pytest.mark.parametrize("cap", ["balance", *SCOPES])
def test_budget_error_not_retryable(new_tenant: NewTenant, cap: str) -> None:
    """Field bug 17, ERR-06, LIM-04: a client that retries what it may tries an empty budget once.

    Its code is no rate limit's; nothing in the answer says to come back.
    """
    tenant = new_tenant(credit="0.0001" if cap == "balance" else "100")
    if cap != "balance":
        set_limit(tenant, "0.0001", ScopeKind(cap), scope_refs(tenant)[ScopeKind(cap)])
    for stream in (False, True):
        with sync_client(tenant.house.base_url, tenant.key, max_retries=5) as (client, wire):
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "x"}],
                    max_completion_tokens=900,
                    stream=stream,
                    extra_headers=LABELS,
                )
            assert wire.count == 1
        error = caught.value
        assert (error.type, error.response.headers["x-should-retry"]) == (
            "insufficient_quota",
            "false",
        )
        assert "retry-after" not in error.response.headers
        wanted = "credit_balance_exhausted" if cap == "balance" else f"{cap}_spend_limit_exceeded"
        assert error.code == wanted


@pytest.mark.parametrize("kind", SCOPES)
def test_error_names_scope(new_tenant: NewTenant, kind: ScopeKind) -> None:
    """Field bug 33, BUD-05, BUD-10, ERR-02: a refusal names whose limit it was, figures and reset.

    Of eight limits on one call the one that stands in the way is told, no other.
    """
    tenant = new_tenant(credit="100")
    refs = scope_refs(tenant)
    for each, ref in refs.items():
        set_limit(tenant, "0.01" if each is kind else "50", each, ref, owner="ann@acme.example")
    reply = costly(tenant)
    error = reply.error
    assert error["code"] == f"{kind.value}_spend_limit_exceeded"
    whose = refs[kind] if kind.value in {"user", "feature", "environment", "tag", "run"} else ""
    assert f"The {kind.value} {whose}'s".replace(" 's", "'s") in error["message"]
    for part in ("monthly limit", "is 0.01", "0.00 used", "resets at 20"):
        assert part in error["message"]
    tenant.refusals(1)
    shown = tenant.get(f"/api/v1/calls/{reply.headers['x-request-id']}").json
    (figures,) = shown["decision"]["limits"]
    assert figures["scope"] == kind.value
    assert figures["owner"] == "ann@acme.example"


@pytest.mark.parametrize("measure", [Measure.MONEY, Measure.TOKENS])
def test_budget_is_not_a_rate(new_tenant: NewTenant, measure: Measure) -> None:
    """Field bug 34, BUD-02: all of a budget may be used at once, and nothing of it drips back."""
    tenant = new_tenant(credit="1000")
    whole_budget = "600" if measure is Measure.MONEY else 40_000_000
    set_limit(tenant, whole_budget, measure=measure)
    # Sixty dollars and some four million tokens a call: no rate would let ten of them through.
    orders = {"X-Sandbox-Usage": "prompt=0,cached=0,completion=3968000"}
    fields: dict[str, Any] = {"max_completion_tokens": 128_000, "n": 31}
    replies = at_once([partial(costly, tenant, headers=orders, **fields)] * 10)
    assert statuses(replies) == [200] * 10, [reply.body for reply in replies]
    assert tenant.spent() == 10 * 3_968_000 * 15_000
    error = costly(tenant, **fields).error
    word = "spend" if measure is Measure.MONEY else "token"
    assert (error["code"], error["type"]) == (
        f"organization_{word}_limit_exceeded",
        "insufficient_quota",
    )
    tenant.check_books()
