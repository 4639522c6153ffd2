"""However a call ends: its hold ends, it is charged once and exactly, and the books agree.

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
from tests.support.house import House
from tests.support.mock_upstream import MockUpstream
from tests.support.scripted_upstream import (
    DONE,
    JSON,
    Pause,
    ScriptedResponse,
    Scripts,
    delta,
    event,
    usage,
    usage_chunk,
    whole,
)
from tests.support.tenants import (
    CallRow,
    NewTenant,
    Reply,
    Tenant,
    add_provider,
    call_id,
    chat_body,
    wait_for,
)

INPUT, OUTPUT = 2_500, 15_000
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


def fault(text: str, **more: str) -> dict[str, str]:
    """The header that orders a fault from the simulated provider."""
    return {"X-Sandbox-Fault": text, **more}


def script(name: str) -> dict[str, str]:
    """The header that names a script."""
    return {"X-Sandbox-Script": name}


def ended(tenant: Tenant, reply: Reply | None = None) -> CallRow:
    """The one call there was, in books that agree."""
    call = tenant.only_call()
    tenant.check_books()
    if reply is not None:
        assert call.id == call_id(reply)
    return call


def released(tenant: Tenant, reply: Reply, reason: str, status: int) -> None:
    """It cost nothing, and its row says why (DED-14, ERR-11)."""
    call = ended(tenant, reply)
    assert (call.state, call.charge, call.cost, call.reason) == ("released", 0, 0, reason)
    assert call.http_status == status
    assert tenant.spent() == 0


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
def test_no_head_arrives(
    tenant: Tenant,
    scripts: Scripts,
    error: Exception,
    status: int,
    code: str,
    reason: str,
    stream: bool,
) -> None:
    """DED-14: not reached, broken before the first byte, or a fault of ours: nothing is charged."""
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


SHORT = 12
"""Completion tokens of a short stream: some ten events."""


def events_of_a_short_stream(tenant: Tenant) -> int:
    """How many events the simulated provider makes of it."""
    reply = tenant.chat(stream=True, max_completion_tokens=SHORT)
    return reply.body.count(b"data: ")


@pytest.mark.parametrize("asked", [False, True], ids=["plain", "with usage"])
def test_a_stream_breaks_off_after_every_event(new_tenant: NewTenant, asked: bool) -> None:
    """DED-14, DED-15: broken after any event, what was generated is charged once, or nothing."""
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


# The client goes.


def test_a_client_hangs_up_on_a_silent_stream(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """DED-15: wherever the client hangs up, the upstream is closed and the tokens charged."""
    words = ["one", " two", " three", " four"]
    for told in range(len(words) + 1):
        responses: list[ScriptedResponse] = []

        def silent(
            _: Any, told: int = told, kept: list[ScriptedResponse] = responses
        ) -> ScriptedResponse:
            pieces = [delta(word) for word in words[:told]]
            kept.append(ScriptedResponse([delta(""), *pieces, Pause(), *pieces]))
            return kept[0]

        scripts["silent"] = silent
        tenant = new_tenant()
        with tenant.raw(chat_body(stream=True), script("silent")) as call:
            assert call.read_events(told + 1) == told + 1
            call.hang_up()
        row = ended(tenant)
        assert (row.state, row.reason, row.http_status) == ("settled", "client_disconnected", 499)
        assert (row.estimated, row.output_tokens) == (True, told)
        assert row.charge == row.input_tokens * INPUT + told * OUTPUT
        assert row.input_tokens > 0
        assert responses[0].closed.is_set()
    assert house.gateway.app is not None


@pytest.mark.parametrize("index", range(1, 9))
def test_a_client_hangs_up_on_a_flowing_stream(new_tenant: NewTenant, index: int) -> None:
    """Hung up at any event of a running stream: charged once, for what was generated at most."""
    tenant = new_tenant()
    headers = {"X-Sandbox-Latency-Ms": "event=20"}
    with tenant.raw(chat_body(stream=True, max_completion_tokens=24), headers) as call:
        call.read_events(index)
        call.hang_up()
    row = ended(tenant)
    assert (row.state, row.reason) == ("settled", "client_disconnected")
    assert row.output_tokens <= 24
    assert row.charge == row.input_tokens * INPUT + row.output_tokens * OUTPUT


def test_a_finished_answer_waits_for_its_usage(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """ENGINE.md, "The end of a call": finished, then hung up: the provider's usage is charged."""
    tenant = new_tenant()
    pauses: list[Pause] = []

    def finishing(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        head = [delta("Hello"), delta("", finish="stop")]
        return ScriptedResponse([*head, pauses[0], usage_chunk(1_000, 500), DONE])

    scripts["finishing"] = finishing
    with tenant.raw(chat_body(stream=True), script("finishing")) as call:
        call.read_until(b"Hello")
        house.run(pauses[0].reached.wait())
        call.hang_up()
        house.run(_later(pauses[0], 0.3))
    row = ended(tenant)
    assert (row.estimated, row.reason, row.http_status) == (False, "client_disconnected", 499)
    assert row.charge == 1_000 * INPUT + 500 * OUTPUT


def test_a_finished_answer_does_not_wait_for_ever(new_tenant: NewTenant, scripts: Scripts) -> None:
    """Without usage after two seconds the metered tokens are charged."""
    tenant = new_tenant()
    scripts["never"] = lambda _: ScriptedResponse(
        [delta("one two"), delta("", finish="stop"), Pause(), usage_chunk(9, 9), DONE]
    )
    with tenant.raw(chat_body(stream=True), script("never")) as call:
        call.read_until(b"one two")
        call.hang_up()
    row = ended(tenant)
    assert (row.estimated, row.output_tokens) == (True, 2)
    assert row.reason == "client_disconnected"


async def _later(pause: Pause, seconds: float) -> None:
    await asyncio.sleep(seconds)
    pause.over.set()


def test_a_client_hangs_up_before_the_head(new_tenant: NewTenant) -> None:
    """Field bug 49: gone before the first byte, a stream is closed and only its prompt charged."""
    tenant = new_tenant()
    for order in (fault("hang"), {"X-Sandbox-Latency-Ms": "60000"}):
        with tenant.raw(chat_body(stream=True), order) as call:
            wait_for(lambda: tenant.open_holds() == 1)
            call.hang_up()
        row = tenant.calls()[-1]
        assert (row.reason, row.http_status, row.estimated) == ("client_disconnected", 499, True)
        assert row.output_tokens == 0
        assert 0 < row.charge == row.input_tokens * INPUT
    tenant.check_books()


def test_a_json_call_outlives_its_client(new_tenant: NewTenant) -> None:
    """ADR 8: the provider bills a whole answer whether or not we listen: it is charged once."""
    tenant = new_tenant()
    orders = {"X-Sandbox-Latency-Ms": "300", "X-Sandbox-Usage": "prompt=50,cached=0,completion=5"}
    with tenant.raw(chat_body(), orders) as call:
        wait_for(lambda: tenant.open_holds() == 1)
        call.hang_up()
    row = ended(tenant)
    assert (row.state, row.charge, row.estimated) == ("settled", 50 * INPUT + 5 * OUTPUT, False)


@STREAMED
def test_a_client_that_goes_while_it_waits_for_money(
    new_tenant: NewTenant, house: House, scripts: Scripts, stream: bool
) -> None:
    """ENGINE.md: an admission whose client is gone is withdrawn, and its call never leaves."""
    tenant = new_tenant(credit="0.20")
    pauses: list[Pause] = []

    def hold(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        return ScriptedResponse([delta("first"), pauses[0], delta("", finish="stop"), DONE])

    left: list[str] = []

    def leaves(_: Any) -> ScriptedResponse:
        left.append("upstream")
        return ScriptedResponse([whole(usage(1, 1))], headers=JSON)

    scripts["hold"], scripts["leaves"] = hold, leaves
    with tenant.raw(chat_body(stream=True, max_completion_tokens=10_000), script("hold")) as call:
        call.read_until(b"first")
        body = chat_body(stream=stream, max_completion_tokens=10_000)
        with tenant.raw(body, script("leaves")) as gone:
            house.run(_nap(0.2))
            gone.hang_up()
        house.run(_nap(0.2))
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.read_until(b"[DONE]")
    assert left == []
    assert [row.reason for row in tenant.calls() if row.charge] == ["usage_missing"]
    tenant.check_books()


async def _nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


# What the usage says.


@STREAMED
def test_no_usage(new_tenant: NewTenant, stream: bool) -> None:
    """Field bugs 26, 35: an answer without usage is charged by our own count, marked estimated."""
    tenant = new_tenant()
    reply = tenant.chat(fault("no_usage"), stream=stream, max_completion_tokens=12)
    call = ended(tenant, reply)
    assert (call.state, call.estimated, call.reason) == ("settled", True, "usage_missing")
    assert (call.output_tokens, call.absorbed) == (12, 0)
    assert call.charge == call.input_tokens * INPUT + 12 * OUTPUT


GARBAGE: list[Any] = [
    {},
    [],
    "many",
    7,
    True,
    {"prompt_tokens": -1, "completion_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": -1},
    {"prompt_tokens": "5", "completion_tokens": 5},
    {"prompt_tokens": 5},
    {"completion_tokens": 5},
    {"prompt_tokens": 5.5, "completion_tokens": 5},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 2**63, "completion_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": 2**53},
    {"prompt_tokens": 2**53, "completion_tokens": 0},
    {"prompt_tokens": 10**400, "completion_tokens": 5},
    {"prompt_tokens": 10**8, "completion_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 3},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -6}},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": 5},
    {"prompt_tokens": 5, "completion_tokens": 5, "completion_tokens_details": {"audio_tokens": 9}},
]


@STREAMED
def test_usage_that_cannot_be(tenant: Tenant, scripts: Scripts, stream: bool) -> None:
    """Impossible usage is never billed and never loses the charge: our own count stands in."""
    for number, garbage in enumerate(GARBAGE):

        def answer(_: Any, garbage: Any = garbage) -> ScriptedResponse:
            if not stream:
                return ScriptedResponse([whole(garbage, "one two three")], headers=JSON)
            last = event({"choices": [], "usage": garbage})
            head = [delta("one two three"), delta("", finish="stop")]
            return ScriptedResponse([*head, last, DONE])

        scripts["garbage"] = answer
        reply = tenant.chat(
            script("garbage"), stream=stream, stream_options={"include_usage": True}
        )
        assert reply.status == 200, garbage
        assert b"one two three" in reply.body
        assert not stream or b"[DONE]" in reply.body
        call = tenant.calls()[number]
        assert (call.state, call.estimated, call.output_tokens) == ("settled", True, 3), garbage
        assert call.charge == call.input_tokens * INPUT + 3 * OUTPUT
        assert call.reason.startswith(("usage_invalid", "usage_missing")), call.reason
    tenant.check_books()


@STREAMED
@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b"[]", b"null", b"[" * 100_000])
def test_good_answers_that_are_no_json(
    tenant: Tenant, scripts: Scripts, body: bytes, stream: bool
) -> None:
    """A good status with an unreadable body is passed on and charged by our own count."""
    scripts["unread"] = lambda _: ScriptedResponse([body], headers=JSON)
    reply = tenant.chat(script("unread"), stream=stream)
    assert (reply.status, reply.body) == (200, body)
    call = ended(tenant, reply)
    assert (call.state, call.estimated, call.reason) == ("settled", True, "usage_missing")
    assert call.charge == call.input_tokens * INPUT > 0


@STREAMED
def test_a_lane_that_nobody_knows(tenant: Tenant, scripts: Scripts, stream: bool) -> None:
    """ENGINE.md, "Ceilings": an unknown tier is charged at the dearest lane held, marked so."""

    def answer(_: Any) -> ScriptedResponse:
        if not stream:
            return ScriptedResponse([whole(usage(10, 5), service_tier="turbo")], headers=JSON)
        last = usage_chunk(10, 5, service_tier="turbo")
        return ScriptedResponse([delta("x", finish="stop"), last, DONE])

    scripts["lane"] = answer
    tenant.chat(script("lane"), stream=stream, service_tier="priority", max_completion_tokens=9)
    call = ended(tenant)
    assert (call.lane, call.estimated, call.reason) == ("priority", True, "unknown_service_tier")
    assert call.charge == 10 * 5_000 + 5 * 30_000


@STREAMED
@pytest.mark.parametrize(("tier", "lane"), [("priority", "priority"), ("flex", "flex")])
def test_a_lane_that_is_not_reported(
    tenant: Tenant, scripts: Scripts, tier: str, lane: str, stream: bool
) -> None:
    """Where the answer does not say which of several lanes served it, the dearest is charged."""

    def answer(_: Any) -> ScriptedResponse:
        if not stream:
            return ScriptedResponse([whole(usage(10, 5))], headers=JSON)
        return ScriptedResponse([delta("x", finish="stop"), usage_chunk(10, 5), DONE])

    scripts["lane"] = answer
    tenant.chat(script("lane"), stream=stream, service_tier=tier, max_completion_tokens=9)
    call = ended(tenant)
    assert (call.lane, call.estimated) == (lane, tier == "priority")


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


# More than was held.


@STREAMED
def test_an_overrun_that_fits(tenant: Tenant, stream: bool) -> None:
    """Decision 7: usage beyond a hold is charged where it fits the balance, and told."""
    reply = tenant.chat(fault("overrun=100"), stream=stream, max_completion_tokens=10)
    call = ended(tenant, reply)
    assert call.output_tokens == 110
    assert call.charge == call.input_tokens * INPUT + 110 * OUTPUT > call.held
    assert call.absorbed == 0
    (told,) = tenant.told("overrun")
    assert told["absorbed_nanos"] == "0"


@STREAMED
def test_an_overrun_that_does_not_fit(new_tenant: NewTenant, stream: bool) -> None:
    """NEG-03: what fits nothing is absorbed by the operator, and every nanodollar is accounted."""
    tenant = new_tenant(credit="0.0012")
    reply = tenant.chat(fault("overrun=1000"), stream=stream, max_completion_tokens=10)
    assert reply.status == 200, reply.body
    call = ended(tenant, reply)
    metered = call.input_tokens * INPUT + 1_010 * OUTPUT
    assert call.charge + call.absorbed == metered == call.cost
    assert call.charge == 1_200_000
    (told,) = tenant.told("overrun")
    assert told["absorbed_nanos"] == str(metered - 1_200_000)
    if not stream:
        assert reply.headers["x-farebox-charge"] == "0.0012"
        assert reply.headers["x-farebox-balance"] == "0.00"
    page = tenant.get("/metrics").body.decode()
    assert "farebox_overruns_total" in page


def test_calls_in_flight_end_at_a_zero_balance(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """NEG-02: a stream that began before the balance reached zero runs to its end."""
    tenant = new_tenant(credit="0.30")
    pauses: list[Pause] = []

    def slow(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        end = [delta("", finish="stop"), usage_chunk(10, 9_000), DONE]
        return ScriptedResponse([delta("first"), pauses[0], *end])

    scripts["slow"] = slow
    with tenant.raw(chat_body(stream=True, max_completion_tokens=10_000), script("slow")) as call:
        call.read_until(b"first")
        reply = tenant.chat(
            {"X-Sandbox-Usage": "prompt=10,cached=0,completion=9500"}, max_completion_tokens=9_500
        )
        assert reply.status == 200
        assert tenant.chat(max_completion_tokens=9_000).status == 429
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.read_until(b"[DONE]")
    assert tenant.spent() == 20 * INPUT + (9_000 + 9_500) * OUTPUT
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
            house.run(_nap(0.1))
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
