"""However the provider ends a call: it is charged once and exactly, and the books agree.

Every test ends with ``check_books``: no open hold, each call one row, the sum of the charges is
what was spent, and everything recomputed from its own rows.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamTimeoutError,
)
from tests.support.endings import (
    INPUT,
    OUTPUT,
    SHORT,
    STREAMED,
    ended,
    events_of_a_short_stream,
    fault,
    released,
    script,
)
from tests.support.house import House
from tests.support.mock_upstream import MockUpstream
from tests.support.scripted_upstream import (
    JSON,
    ScriptedResponse,
    Scripts,
    delta,
    event,
)
from tests.support.tenants import (
    NewTenant,
    Tenant,
    add_provider,
    chat_body,
    wait_for,
)

# The provider says no.


@STREAMED
@pytest.mark.parametrize("status", [400, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529])
def test_a_provider_refuses(tenant: Tenant, status: int, stream: bool) -> None:
    """DED-14: a provider's error is passed on with its status and costs nothing."""
    reply = tenant.chat(fault(f"status={status}"), stream=stream)
    assert reply.status == status
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert reply.headers["content-type"].startswith("application/json")
    released(tenant, reply, f"upstream_status_{status}", status)


@STREAMED
@pytest.mark.parametrize(
    ("order", "status", "code"),
    [
        ("status=401", 502, "upstream_credentials_refused"),
        ("status=403", 502, "upstream_credentials_refused"),
        ("status=407", 502, "upstream_credentials_refused"),
        ("status=429,code=insufficient_quota", 503, "upstream_quota_exhausted"),
        ("status=429,code=credit_balance_exhausted", 503, "upstream_quota_exhausted"),
        ("status=400,code=billing_hard_limit_reached", 503, "upstream_quota_exhausted"),
        ("status=403,code=billing_not_active", 503, "upstream_quota_exhausted"),
        ("status=402", 503, "upstream_quota_exhausted"),
    ],
)
def test_what_is_the_operators_is_not_the_tenants(
    tenant: Tenant, order: str, status: int, code: str, stream: bool
) -> None:
    """ERR-08: our key and our quota at the provider never look like the tenant's own."""
    reply = tenant.chat(fault(order), stream=stream)
    assert (reply.status, reply.error["code"], reply.error["type"]) == (
        status,
        code,
        "server_error",
    )
    assert "operator" in reply.error["message"]
    assert reply.headers["x-should-retry"] == "false"
    call = ended(tenant, reply)
    assert (call.state, call.charge) == ("released", 0)
    # The doctor tells it by the call's id alone.
    assert (call.reason == code) == (code == "upstream_quota_exhausted")


@STREAMED
def test_a_region_that_is_not_served(tenant: Tenant, scripts: Scripts, stream: bool) -> None:
    """ERR-09: 403 with the region's code, tried once and free; no trouble with keys or money."""
    code = "unsupported_country_region_territory"
    body = b'{"error":{"message":"Country not supported","code":"%s"}}' % code.encode()
    scripts["region"] = lambda _: ScriptedResponse([body], status=403, headers=JSON)
    reply = tenant.chat(script("region"), stream=stream)
    assert (reply.status, reply.error["code"], reply.error["type"]) == (
        403,
        code,
        "request_forbidden",
    )
    released(tenant, reply, "upstream_region_unsupported", 403)


@STREAMED
@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (301, b"", 502, "status 301"),
        (200 + 104, b"", 502, "status 304"),
        (502, b"<html>Bad gateway</html>", 502, "status 502"),
        (503, b"", 503, "status 503"),
        (500, b"\xff\xfe", 500, "status 500"),
        (400, b'{"detail":"field x is wrong"}', 400, "field x is wrong"),
        (422, b'{"error":"no such thing"}', 422, "no such thing"),
        (400, b'{"object":"error","message":"too long","code":400}', 400, "too long"),
        (400, b'{"error":{"code":["insufficient_quota"],"message":"odd","type":{}}}', 400, "odd"),
        (429, b'{"error":{"message":"in organization org-Ab12Cd34 on TPM"}}', 429, "TPM"),
        (400, b"[" * 100_000, 400, "status 400"),
    ],
    ids=range(11),
)
def test_errors_of_other_shapes(
    tenant: Tenant, scripts: Scripts, status: int, body: bytes, kind: int, said: str, stream: bool
) -> None:
    """A provider's page or foreign JSON becomes an error that clients can read; no name of ours."""
    scripts["odd"] = lambda _: ScriptedResponse(
        [body], status=status, headers=(("content-type", "text/html"), ("retry-after", "7"))
    )
    reply = tenant.chat(script("odd"), stream=stream)
    assert reply.status == kind
    assert said in reply.json["error"]["message"]
    assert b"org-Ab12Cd34" not in reply.body
    released(tenant, reply, f"upstream_status_{status}", status)


@STREAMED
@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (UpstreamNotReachedError("x"), 502, "upstream_not_reached", "upstream_not_reached"),
        (UpstreamBrokenError("x"), 502, "upstream_error", "upstream_broken"),
        (UpstreamTimeoutError("x"), 504, "upstream_error", "upstream_timeout"),
        (RuntimeError("a fault of ours"), 500, "internal_error", "interrupted"),
    ],
    ids=["not reached", "broken", "timeout", "fault"],
)
def test_hold_released_on_crash(
    tenant: Tenant,
    scripts: Scripts,
    error: Exception,
    status: int,
    code: str,
    reason: str,
    stream: bool,
) -> None:
    """DED-14, field bug 25: not reached, broken before the first byte, or a fault of ours.

    Whatever it was, nothing is charged and the whole hold comes back.
    """
    scripts["none"] = lambda _: error
    reply = tenant.chat(script("none"), stream=stream)
    assert (reply.status, reply.error["code"]) == (status, code)
    call = ended(tenant, reply)
    assert (call.state, call.charge, call.reason) == ("released", 0, reason)


def test_a_server_that_is_not_there(tenant: Tenant, house: House) -> None:
    """A provider whose port is closed is 502, and its secret is nowhere in the answer."""
    add_provider(house, "nobody", "http://127.0.0.1:9/v1")
    for stream in (False, True):
        reply = tenant.chat(model="nobody/gpt-5.4", stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "upstream_not_reached")
    assert [call.reason for call in tenant.calls()] == ["upstream_not_reached"] * 2
    tenant.check_books()


# The answer breaks off.


def test_a_json_answer_breaks_off(tenant: Tenant) -> None:
    """Field bug 50: nobody said what half an answer used, so nothing is billed for it."""
    reply = tenant.chat(fault("drop_after=1"))
    assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    released(tenant, reply, "upstream_broken", 502)


def test_an_error_with_status_200(tenant: Tenant, scripts: Scripts) -> None:
    """Some providers report a failure in a good answer: it is none, and costs nothing."""
    body = b'{"error":{"message":"overloaded","code":503}}'
    scripts["error"] = lambda _: ScriptedResponse([body], headers=JSON)
    for stream in (False, True):
        reply = tenant.chat(script("error"), stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    assert [(call.state, call.charge) for call in tenant.calls()] == [("released", 0)] * 2
    tenant.check_books()


@pytest.mark.parametrize("asked", [False, True], ids=["plain", "with usage"])
def test_interrupted_stream_settles_to_best_evidence(new_tenant: NewTenant, asked: bool) -> None:
    """DED-14, DED-15, field bug 28: broken after any event, what was generated is charged once.

    Never the hold; the provider's own usage where it had come; nothing where there was no text.
    """
    options = {"stream_options": {"include_usage": True}} if asked else {}
    fields: dict[str, Any] = {"stream": True, "max_completion_tokens": SHORT, **options}
    whole_stream = new_tenant()
    # Upstream there is always a usage chunk and an end mark.
    count = events_of_a_short_stream(whole_stream) + 1
    full = whole_stream.only_call()
    charges = []
    for after in range(count + 1):
        tenant = new_tenant()
        reply = tenant.chat(fault(f"drop_after={after}"), **fields)
        assert reply.status == 200
        call = ended(tenant, reply)
        charges.append(call.charge)
        assert call.absorbed == 0
        assert call.charge <= full.charge
        if after >= count - 1:  # the usage had come
            assert (call.charge, call.estimated) == (full.charge, False)
            continue
        # Broken before its end: an error event tells the client so, and no end mark comes.
        assert b'"error":{' in reply.body.split(b"data: ")[-1]
        assert b"[DONE]" not in reply.body
        assert call.reason == "upstream_broken"
        if call.output_tokens:
            assert call.estimated
            assert call.charge == call.input_tokens * INPUT + call.output_tokens * OUTPUT
        else:
            assert (call.state, call.charge) == ("released", 0)
    assert charges == sorted(charges)
    assert charges[0] == 0


def test_an_event_that_reports_an_error(tenant: Tenant, scripts: Scripts) -> None:
    """An error in the middle of a stream is passed on once, and ends what is charged."""
    error = event({"error": {"message": "overloaded", "type": "server_error"}})
    scripts["error"] = lambda _: ScriptedResponse([delta("one two three"), error, delta(" four")])
    reply = tenant.chat(script("error"), stream=True)
    assert reply.body.count(b'"overloaded"') == 1
    call = ended(tenant, reply)
    assert (call.reason, call.estimated, call.output_tokens) == ("upstream_broken", True, 4)

    scripts["error"] = lambda _: ScriptedResponse([error])
    reply = tenant.chat(script("error"), stream=True)
    assert reply.body.count(b'"overloaded"') == 1
    assert reply.body.count(b'"error"') == 1
    assert [(c.state, c.charge) for c in tenant.calls()][1] == ("released", 0)
    tenant.check_books()


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [b"\n\n\n"],
        [b": comment\n\n"],
        [b'data: {"choices":[{"delta":{},"index":0}]}\n\n'],
        [b"data: not json\n\n"],
        [b'data: {"choices":[{"delta":{"content":"cut o'],
        [b"<html>no stream</html>"],
        [b"\xff\xfe\x00"],
    ],
    ids=range(9),
)
def test_a_stream_that_is_none(tenant: Tenant, scripts: Scripts, pieces: list[bytes]) -> None:
    """A stream that ends without any end mark has broken off; with no text it costs nothing."""
    scripts["none"] = lambda _: ScriptedResponse(pieces)
    reply = tenant.chat(script("none"), stream=True)
    assert reply.status == 200
    assert b'"code":"upstream_error"' in reply.body
    call = ended(tenant, reply)
    assert (call.state, call.charge, call.reason) == ("released", 0, "upstream_broken")


# In the right order.


@STREAMED
def test_the_charge_is_in_the_database_when_the_end_arrives(
    tenant: Tenant, house: House, stream: bool
) -> None:
    """Promise 2: what the client can see of an answer's end, the database has already seen."""
    orders = {"X-Sandbox-Usage": "prompt=40,cached=0,completion=4"}
    for number in range(1, 6):
        with tenant.raw(chat_body(stream=stream), orders) as call:
            call.read_until(b'"finish_reason":"' if stream else b"HTTP/1.1 200")
            sql = "SELECT count(*), sum(charge_nanos)::bigint FROM call WHERE organization_id = %s"
            charged = number * (40 * INPUT + 4 * OUTPUT)
            assert house.query(sql, tenant.organization_id) == [(number, charged)]
            assert tenant.open_holds() == 0
            call.read_until(b"[DONE]" if stream else b"chatcmpl")
    tenant.check_books()


# Over real HTTP to the provider.


@pytest.mark.parametrize(
    ("name", "orders", "told", "outcome"),
    [
        ("late", {"X-Sandbox-Latency-Ms": "60000"}, 0, "closed"),
        ("dripping", {"X-Sandbox-Latency-Ms": "event=40"}, 4, "closed"),
        ("silent", {"X-Sandbox-Fault": "hang,drop_after=4"}, 4, "closed"),
    ],
)
def test_the_provider_sees_the_client_go(
    new_tenant: NewTenant,
    house: House,
    mock: MockUpstream,
    name: str,
    orders: dict[str, str],
    told: int,
    outcome: str,
) -> None:
    """On disconnect the connection to the provider is closed, so that it stops working for us."""
    add_provider(house, name, mock.ordering(orders))
    tenant = new_tenant()
    before = len(mock.billed)
    body = chat_body(model=f"{name}/gpt-5.4", stream=True, max_completion_tokens=30)
    with tenant.raw(body) as call:
        if told:
            call.read_events(told)
        else:
            wait_for(lambda: len(mock.requests) > 0 and tenant.open_holds() == 1)
            house.run(asyncio.sleep(0.1))
        call.hang_up()
    row = ended(tenant)
    assert (row.reason, row.estimated) == ("client_disconnected", True)
    assert row.output_tokens <= 30
    wait_for(lambda: len(mock.billed) > before and mock.billed[-1].outcome == outcome)


@STREAMED
@pytest.mark.parametrize(
    ("name", "fault_text"),
    [("teapot", "status=503"), ("cut", "drop_after=0"), ("usageless", "no_usage")],
)
def test_faults_over_http(
    tenant: Tenant, house: House, mock: MockUpstream, name: str, fault_text: str, stream: bool
) -> None:
    """The same endings, with a socket between: released, or charged by our own count."""
    name = f"{name}-{stream}"
    add_provider(house, name, mock.ordering({"X-Sandbox-Fault": fault_text}))
    reply = tenant.chat(model=f"{name}/gpt-5.4", stream=stream, max_completion_tokens=12)
    call = ended(tenant, reply)
    if fault_text == "no_usage":
        assert (call.state, call.estimated, call.output_tokens) == ("settled", True, 12)
        return
    assert (call.state, call.charge) == ("released", 0)
    if fault_text == "status=503":
        assert reply.status == 503
    elif stream:
        assert b'"upstream_error"' in reply.body
    else:
        assert reply.status == 502
