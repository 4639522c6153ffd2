"""False refusals of other gateways, over HTTP: leaked holds, counters that drift, stale caches.

Each test is one public bug report; ``tests/FIELD_BUGS.md`` has the whole list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farebox.kit.money import Nanos, format_amount
from farebox.ledger.commands import Correct
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.upstream import UpstreamNotReachedError, UpstreamTimeoutError
from tests.support.house import House
from tests.support.limits import COST, LABELS, costly, counters, scope_refs, set_limit
from tests.support.openai_clients import sync_client
from tests.support.scripted_upstream import (
    DONE,
    ScriptedResponse,
    Scripts,
    delta,
    event,
    usage_chunk,
)
from tests.support.tenants import MODEL, NewTenant, Tenant, chat_body, nanos, new_id, wait_for

Exit = Callable[[Tenant], object]


def _fault(order: str, **fields: Any) -> Exit:
    return lambda tenant: costly(tenant, headers={"X-Sandbox-Fault": order}, **fields)


def _script(name: str, **fields: Any) -> Exit:
    return lambda tenant: costly(tenant, headers={"X-Sandbox-Script": name}, **fields)


def _hang_up(order: str, until: bytes | None, *, stream: bool) -> Exit:
    """Go away: before the head, or after some text."""

    def leave(tenant: Tenant) -> None:
        headers = {**LABELS, "X-Sandbox-Fault": order} if order else {
            **LABELS, "X-Sandbox-Latency-Ms": "200"}  # fmt: skip
        before = len(tenant.house.query("SELECT FROM call"))
        with tenant.raw(chat_body(stream=stream, max_completion_tokens=40), headers) as call:
            if until is None:
                wait_for(lambda: tenant.open_holds() == 1)
            else:
                call.read_until(until)
            call.hang_up()
        wait_for(lambda: len(tenant.house.query("SELECT FROM call")) > before)

    return leave


EXITS: dict[str, Exit] = {
    "a whole answer": costly,
    "a stream": lambda tenant: costly(tenant, stream=True),
    "embeddings": lambda tenant: tenant.post(
        "/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}, LABELS
    ),
    "the provider's 400": _fault("status=400"),
    "the provider's 429": _fault("status=429"),
    "the provider's 500, streamed": _fault("status=500", stream=True),
    "our key refused": _fault("status=401"),
    "our quota used up": _fault("status=402"),
    "broken in the middle": _fault("drop_after=1"),
    "a stream broken before its first event": _fault("drop_after=0", stream=True),
    "a stream broken in the middle": _fault("drop_after=3", stream=True),
    "no usage": _fault("no_usage", max_completion_tokens=20),
    "no usage, streamed": _fault("no_usage", stream=True, max_completion_tokens=20),
    "more than was held": _fault("overrun=50", max_completion_tokens=20),
    "not reached": _script("not reached"),
    "no answer in time": _script("timeout", stream=True),
    "a fault of ours": _script("fault"),
    "an error in a stream": _script("error event", stream=True),
    "refused for its size": lambda tenant: costly(tenant, max_completion_tokens=120_000, n=100),
    "refused for a field": lambda tenant: costly(tenant, temperature=[]),
    "refused for its model": lambda tenant: costly(tenant, model="nothing"),
    "left before the head": _hang_up("", None, stream=True),
    "left in the middle": _hang_up("", b"data: ", stream=True),
    "left while it hangs": _hang_up("hang", None, stream=True),
}


def test_hold_leak_zero_after_all_exit_paths(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """Field bug 20, DED-14, DED-15: however a call ends, nothing of it stays held anywhere.

    Neither on the organisation nor on a grant, nor under any limit of money, tokens, calls or
    parallel calls; what is counted as used is what was charged.
    """
    error = event({"error": {"message": "overloaded", "type": "server_error"}})
    scripts |= {
        "not reached": lambda _: UpstreamNotReachedError("x"),
        "timeout": lambda _: UpstreamTimeoutError("x"),
        "fault": lambda _: RuntimeError("a fault of ours"),
        "error event": lambda _: ScriptedResponse([delta("one two"), error]),
    }
    tenant = new_tenant(credit="100")
    for kind, ref in scope_refs(tenant).items():
        set_limit(tenant, "90", kind, ref)
        set_limit(tenant, 10**8, kind, ref, measure=Measure.TOKENS)
        set_limit(tenant, 1_000, kind, ref, measure=Measure.CALLS)
        set_limit(tenant, 1, kind, ref, measure=Measure.PARALLEL, period=Period.TOTAL)
    for name, leave in EXITS.items():
        leave(tenant)
        wait_for(lambda: tenant.open_holds() == 0)
        views = counters(tenant)
        assert {view.held for view in views} == {0}, name
        calls = tenant.calls()
        used = {
            Measure.MONEY: sum(call.charge for call in calls),
            Measure.TOKENS: sum(call.input_tokens + call.output_tokens for call in calls),
            Measure.CALLS: len(calls),
            Measure.PARALLEL: 0,
        }
        assert {view.used - used[view.rule.measure] for view in views} == {0}, name
        sql = "SELECT reserved_nanos FROM organization WHERE id = %s"
        assert house.query(sql, tenant.organization_id) == [(0,)], name
        sql = "SELECT sum(reserved_nanos) FROM credit_grant WHERE organization_id = %s"
        assert house.query(sql, tenant.organization_id)[0][0] == 0, name
    assert costly(tenant).status == 200, "one call at a time, and none is running"
    tenant.check_books()


def test_enforced_number_equals_shown_number(new_tenant: NewTenant, house: House) -> None:
    """Field bugs 22, 23, LIM-10, BUD-02: what refuses a call is what is shown, to the nanodollar.

    A limit raised to exactly what is shown as used plus the next hold lets that call through, and
    a nanodollar less does not; streams, faults and estimates before it change nothing.
    """
    tenant = new_tenant(credit="100")
    set_limit(tenant, "50", ScopeKind.KEY, tenant.key_id.hex)
    for fields, headers in (
        ({}, {}),
        ({"stream": True}, {}),
        ({"stream": True}, {"X-Sandbox-Fault": "drop_after=4"}),
        ({}, {"X-Sandbox-Fault": "status=500"}),
        ({"max_completion_tokens": 30}, {"X-Sandbox-Fault": "no_usage"}),
        ({"max_completion_tokens": 30}, {"X-Sandbox-Fault": "overrun=70"}),
    ):
        costly(tenant, headers=headers, **fields)
    calls = tenant.calls()
    (view,) = counters(tenant)
    assert view.used == sum(call.charge for call in calls) == tenant.spent()
    set_limit(tenant, _text(view.used), ScopeKind.KEY, tenant.key_id.hex)
    assert costly(tenant).status == 429
    needed = tenant.refusals(1)[0][1]
    for short in (1, 0):
        set_limit(tenant, _text(view.used + needed - short), ScopeKind.KEY, tenant.key_id.hex)
        reply = costly(tenant)
        assert reply.status == (429 if short else 200)
        if short:
            assert f"{_text(view.used)} used" in reply.error["message"]
            assert f"needs up to {_text(needed)}" in reply.error["message"]
    (after,) = counters(tenant)
    assert after.used == view.used + COST
    tenant.check_books()


def test_cache_is_never_authority(tenant: Tenant, house: House) -> None:
    """Field bug 27, promise 1: what a gateway remembers of a key decides nothing about money.

    Whatever changes in the database counts for the very next call, in either direction.
    """
    organization = tenant.organization_id

    def switch(table: str, change: str, subject: object) -> None:
        house.execute(f"UPDATE {table} SET {change} WHERE id = %s", subject)

    assert costly(tenant).status == 200
    changes: list[tuple[Callable[[], object], Callable[[], object], str]] = [
        (
            lambda: set_limit(tenant, "0.0001", ScopeKind.USER),
            lambda: set_limit(tenant, None, ScopeKind.USER),
            "user_spend_limit_exceeded",
        ),
        (
            lambda: switch("organization", "active = false", organization),
            lambda: switch("organization", "active = true", organization),
            "billing_not_active",
        ),
        (
            lambda: switch("project", "archived_at = farebox_now()", tenant.project_id),
            lambda: switch("project", "archived_at = NULL", tenant.project_id),
            "invalid_api_key",
        ),
        (
            lambda: house.command(
                Correct(
                    organization_id=organization,
                    command_id=new_id(house),
                    amount=nanos("4.98"),
                    note="x",
                )
            ),
            lambda: tenant.grant("5"),
            "credit_balance_negative",
        ),
    ]
    for away, back, code in changes:
        away()
        assert costly(tenant).error["code"] == code
        back()
        assert costly(tenant).status == 200, code
    tenant.check_books()


def test_operation_id_vs_attempt_id(tenant: Tenant, scripts: Scripts) -> None:
    """Field bug 68, ATT-06: a client's retries are attempts of one operation, and can be told.

    Each attempt is a call of its own with its own id; the client's request id is common to them,
    the retry count is not; what is charged is the attempt that was answered.
    """
    answers = iter([500, 503, 200])

    def script(_: Any) -> ScriptedResponse:
        status = next(answers)
        if status != 200:
            return ScriptedResponse([b'{"error":{"message":"x"}}'], status=status)
        return ScriptedResponse([delta("a", finish="stop"), usage_chunk(10, 2), DONE])

    scripts["flaky"] = script
    headers = {"X-Sandbox-Script": "flaky", "X-Client-Request-Id": "operation-1"}
    with sync_client(tenant.house.base_url, tenant.key) as (client, wire):
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_headers=headers,
        )
        assert list(stream)
        assert wire.count == 3
    costly(tenant, headers={"X-Client-Request-Id": "operation-2"})
    calls = tenant.calls()
    assert len({call.id for call in calls}) == 4
    first = [call for call in calls if call.client_request_id == "operation-1"]
    assert [(call.retry_count, call.state) for call in first] == [
        (0, "released"),
        (1, "released"),
        (2, "settled"),
    ]
    assert [bool(call.charge) for call in first] == [False, False, True]
    operations = {call.client_request_id for call in calls if call.retry_count == 0}
    assert operations == {"operation-1", "operation-2"}
    tenant.check_books()


def _text(amount: int) -> str:
    return format_amount(Nanos(amount))
