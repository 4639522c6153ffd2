"""Refusals as the official clients meet them: the right exception, code and number of attempts.

A billing refusal is tried once (ERR-06, field bug 17); what helps to wait for may be tried again;
nothing that is refused costs anything (ERR-11) or makes the gateway look ill (ERR-05).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest

from farebox.ledger.commands import Done, SetLimit
from farebox.ledger.limits import Measure, Period
from farebox.storage.catalogue_store import changing_catalogue
from tests.support.house import House
from tests.support.openai_clients import sync_client
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptedResponse,
    Scripts,
    delta,
    usage_chunk,
)
from tests.support.tenants import (
    MODEL,
    NewTenant,
    Tenant,
    call_id,
    chat_body,
    nanos,
    wait_for,
)

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]


def refused(
    tenant: Tenant,
    kind: type[openai.APIStatusError],
    *,
    attempts: int = 1,
    key: str | None = None,
    stream: bool = False,
    **fields: Any,
) -> Any:
    """Make a call that is refused; gives the client's exception."""
    with sync_client(tenant.house.base_url, key or tenant.key) as (client, wire):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(
                **{"model": MODEL, "messages": HELLO, "stream": stream, **fields}
            )
        assert wire.count == attempts
        assert type(caught.value) is kind
        assert (caught.value.request_id or "").startswith("req_")
    return caught.value


def facts(error: Any) -> tuple[object, object, object]:
    """Code, type and param of an exception."""
    return error.code, error.type, error.param


# Keys.


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_nobody_made(tenant: Tenant, stream: bool) -> None:
    """ERR-04: a wrong key is 401 invalid_api_key, tried once, whatever its form."""
    last = "2" if tenant.key[-1] != "2" else "3"
    for key in ("sk-nothing", tenant.key[:-1] + last, "fbx_live_" + "1" * 44, "x" * 5_000):
        error = refused(tenant, openai.AuthenticationError, key=key, stream=stream)
        assert facts(error) == ("invalid_api_key", "invalid_request_error", None)
        assert key not in error.message


def test_no_key_and_an_admin_key(tenant: Tenant, house: House) -> None:
    """ERR-04: without a key it is 401 with the header to send; an admin key calls no model."""
    reply = tenant.post("/v1/chat/completions", chat_body(), key="")
    assert (reply.status, reply.error["code"]) == (401, None)
    assert "Authorization: Bearer" in reply.error["message"]
    for scheme in ("Basic", "bearer", "Bearer  ", "Token"):
        reply = tenant.post(
            "/v1/chat/completions", chat_body(), {"Authorization": f"{scheme} nothing"}, key=""
        )
        assert reply.status == 401
    admin = str(house.facts["admin_key"])
    assert refused(tenant, openai.AuthenticationError, key=admin).code == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/gpt-5.4"])
def test_revoke_effective_within_T(  # noqa: N802 - the T of the bug's own name: no time at all
    tenant: Tenant, path: str
) -> None:
    """Field bug 61, ORG-18: the first charged call after a revocation is refused, without a wait.

    What charges nothing may trust a key for a second.
    """
    made = tenant.new_key()
    charged = path.endswith("completions")

    def ask() -> int:
        if charged:
            return tenant.post(path, chat_body(), key=made.text).status
        return tenant.get(path, key=made.text).status

    assert [ask() for _ in range(3)] == [200, 200, 200]
    tenant.revoke(made.id)
    if charged:
        error = refused(tenant, openai.AuthenticationError, key=made.text)
        assert facts(error) == ("invalid_api_key", "invalid_request_error", None)
        assert "revoked" in error.message
        tenant.refusals(1)
    wait_for(lambda: ask() != 200)
    assert ask() == 401
    assert tenant.get("/v1/models").status == 200


def test_an_expired_key(tenant: Tenant, house: House) -> None:
    """A key opens nothing from its instant on."""
    ((now,),) = house.query("SELECT farebox_now()")
    made = tenant.new_key(expires_at=now + timedelta(seconds=2))

    def status() -> int:
        return tenant.post("/v1/chat/completions", chat_body(), key=made.text).status

    assert status() == 200
    wait_for(lambda: status() != 200)
    error = refused(tenant, openai.AuthenticationError, key=made.text)
    assert error.code == "invalid_api_key"
    assert "expired" in error.message


def test_a_key_of_an_archived_project(tenant: Tenant, house: House) -> None:
    """An archived project's keys open nothing; the message says which project's key to use."""
    assert tenant.chat().status == 200
    house.execute("UPDATE project SET archived_at = now() WHERE id = %s", tenant.project_id)
    error = refused(tenant, openai.AuthenticationError)
    assert error.code == "invalid_api_key"
    assert "archived" in error.message


def test_a_suspended_organisation(tenant: Tenant, house: House) -> None:
    """A suspended organisation is told so once, in the provider's own word."""
    house.execute("UPDATE organization SET active = false WHERE id = %s", tenant.organization_id)
    error = refused(tenant, openai.RateLimitError)
    assert facts(error) == ("billing_not_active", "billing_not_active", None)


# Models and prices.


def test_an_unknown_model(tenant: Tenant) -> None:
    """ERR-04: 404 model_not_found, never 429."""
    for model in ("gpt-nothing", "no-such/gpt-5.4", "simulated/", "x\0y", "\u20ac" * 200):
        error = refused(tenant, openai.NotFoundError, model=model)
        assert facts(error) == ("model_not_found", "invalid_request_error", "model")


def test_a_lane_without_a_price(tenant: Tenant) -> None:
    """Decision 9: a tier that has no price is refused, never charged as standard."""
    error = refused(tenant, openai.BadRequestError, model="gpt-5.4-nano", service_tier="priority")
    assert error.param == "service_tier"
    assert tenant.calls() == []


def test_a_model_that_is_taken_off_sale(tenant: Tenant, house: House) -> None:
    """A price change is found out at admission, and the call is rated anew, not refused."""

    async def touch() -> None:
        connection = await house.database.connector("touch").connect()
        async with connection, changing_catalogue(connection):
            pass

    for _ in range(3):
        house.run(touch())
        assert tenant.chat().status == 200
    assert [call.state for call in tenant.calls()] == ["settled"] * 3


# Money.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("credit", [None, "0.001"])
def test_an_exhausted_balance(new_tenant: NewTenant, credit: str | None, stream: bool) -> None:
    """ERR-01, ERR-03, ERR-06, NEG-01: 429 insufficient_quota, one attempt, says what to do."""
    tenant = new_tenant(credit=credit)
    error = refused(tenant, openai.RateLimitError, max_completion_tokens=10_000, stream=stream)
    assert facts(error) == ("credit_balance_exhausted", "insufficient_quota", None)
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers
    assert "Add credits" in error.message
    ((code, needed, refusal_id),) = tenant.refusals(1)
    assert code == "credit_balance_exhausted"
    assert needed > 10_000 * 15_000
    found = tenant.get(f"/api/v1/calls/{error.request_id}")
    assert found.json["status"] == "refused"
    assert found.json["charge"] == "0.00"
    assert refusal_id.hex in error.request_id
    assert tenant.calls() == []
    tenant.check_books()


def test_a_top_up_opens_the_gate_at_once(new_tenant: NewTenant) -> None:
    """NEG-12: the first call after a grant goes through with the same key."""
    tenant = new_tenant(credit=None)
    refused(tenant, openai.RateLimitError)
    tenant.grant("1.00")
    assert tenant.chat().status == 200
    tenant.check_books()


def test_expired_credit_is_no_credit(new_tenant: NewTenant, house: House) -> None:
    """ERR-01, ERR-02: from its instant on a grant pays for nothing, though no job has run."""
    tenant = new_tenant(credit=None)
    ((now,),) = house.query("SELECT farebox_now()")
    tenant.grant("1.00", expires_at=now + timedelta(seconds=2))
    assert tenant.chat().status == 200
    wait_for(lambda: tenant.chat().status != 200)
    error = refused(tenant, openai.RateLimitError)
    assert facts(error) == ("credit_balance_expired", "insufficient_quota", None)
    assert "Your credit has expired" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    tenant.check_books()


def test_a_monthly_limit(new_tenant: NewTenant, house: House) -> None:
    """ERR-03: the refusal names the limit's figures, its reset and what to do."""
    tenant = new_tenant(credit="100")
    result = house.command(
        SetLimit(organization_id=tenant.organization_id, period=Period.MONTH, maximum=nanos("0.50"))
    )
    assert isinstance(result, Done), result
    assert tenant.chat(max_completion_tokens=10_000).status == 200
    used = tenant.spent()
    error = refused(tenant, openai.RateLimitError, max_completion_tokens=33_400)
    assert facts(error) == ("organization_spend_limit_exceeded", "insufficient_quota", None)
    assert error.response.headers["x-should-retry"] == "false"
    for part in ("0.50", f"{used / 10**9:.6f}".rstrip("0"), "resets at 20", "Raise the limit"):
        assert part in error.message
    tenant.check_books()


@pytest.mark.parametrize("limited", [False, True])
def test_held_money_is_waited_for(
    new_tenant: NewTenant, house: House, scripts: Scripts, limited: bool
) -> None:
    """Decision 5: what only open holds block waits in order and goes on when the hold ends."""
    tenant = new_tenant(credit="100" if limited else "0.20")
    if limited:
        house.command(
            SetLimit(
                organization_id=tenant.organization_id,
                period=Period.MONTH,
                maximum=nanos("0.20"),
            )
        )
    pauses: list[Pause] = []
    scripts["hold"] = holding(pauses)
    with tenant.raw(chat_body(stream=True, max_completion_tokens=10_000), script("hold")) as call:
        call.read_until(b"first")
        replies: list[Any] = []
        waiting = threading.Thread(
            target=lambda: replies.append(tenant.chat(max_completion_tokens=10_000))
        )
        waiting.start()
        time.sleep(0.3)
        assert replies == []
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        waiting.join(10)
        call.read_until(b"[DONE]")
    assert replies[0].status == 200, replies[0].body
    assert [row.state for row in tenant.calls()] == ["settled", "settled"]
    tenant.check_books()


def test_held_money_that_does_not_come_back(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """LIM-02, LIM-04: then it is a rate_limit_error with retry-after, and may be tried again."""
    tenant = new_tenant(credit="0.20")
    pauses: list[Pause] = []
    scripts["hold"] = holding(pauses)
    with tenant.raw(chat_body(stream=True, max_completion_tokens=10_000), script("hold")) as call:
        call.read_until(b"first")
        with sync_client(house.base_url, tenant.key, max_retries=0) as (client, wire):
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(
                    model=MODEL, messages=HELLO, max_completion_tokens=10_000
                )
            assert wire.count == 1
        error = caught.value
        assert facts(error) == ("balance_held", "rate_limit_error", None)
        assert int(error.response.headers["retry-after"]) == 2
        assert "x-should-retry" not in error.response.headers
        assert tenant.refusals(1)[0][0] == "balance_held"

        def end_after_the_next_refusal() -> None:
            tenant.refusals(2)
            house.loop.call_soon_threadsafe(pauses[0].over.set)

        # The shipped client tries again by itself, and that helps.
        threading.Thread(target=end_after_the_next_refusal).start()
        with sync_client(house.base_url, tenant.key) as (client, wire):
            client.chat.completions.create(
                model=MODEL, messages=HELLO, max_completion_tokens=10_000
            )
            assert wire.count == 2
        call.read_until(b"[DONE]")
    tenant.check_books()


def holding(pauses: list[Pause]) -> Callable[[Any], ScriptedResponse]:
    """A stream that stops after its first words until it is told to go on."""

    def script(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        return ScriptedResponse(
            [
                delta("first"),
                pauses[-1],
                delta(" last"),
                delta("", finish="stop"),
                usage_chunk(10, 2),
                DONE,
            ]
        )

    return script


def script(name: str) -> dict[str, str]:
    """The header that names a script."""
    return {"X-Sandbox-Script": name}


# Health.


def test_quota_rate_and_failure_are_series_of_their_own(
    new_tenant: NewTenant, house: House
) -> None:
    """ERR-10: three kinds of trouble, three series; none of them counts under another."""
    tenant = new_tenant(credit="1")

    def series() -> dict[str, float]:
        page = tenant.get("/metrics", key="").body.decode()
        lines = (line.rpartition(" ") for line in page.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in lines if "_created" not in name}

    before = series()
    assert tenant.chat(max_completion_tokens=100_000).status == 429
    house.command(
        SetLimit(
            organization_id=tenant.organization_id,
            period=Period.TOTAL,
            measure=Measure.PARALLEL,
            maximum=0,
        )
    )
    assert tenant.chat().error["code"] == "rate_limit_exceeded"
    house.command(
        SetLimit(
            organization_id=tenant.organization_id,
            period=Period.TOTAL,
            measure=Measure.PARALLEL,
            maximum=None,
        )
    )
    assert tenant.chat({"X-Sandbox-Fault": "status=500"}).status == 500
    assert tenant.chat({"X-Sandbox-Fault": "drop_after=3"}, stream=True).status == 200
    assert tenant.chat({"X-Sandbox-Fault": "no_usage"}, max_completion_tokens=5).status == 200
    tenant.calls()

    def counted() -> dict[str, float]:
        now = series()
        watched = ("farebox_refusals_total", "farebox_failed_calls_total")
        changed = {name: value - before.get(name, 0) for name, value in now.items()}
        return {n: v for n, v in changed.items() if v and n.startswith(watched)}

    wait_for(lambda: len(counted()) == 4)
    assert counted() == {
        'farebox_refusals_total{code="credit_balance_exhausted"}': 1,
        'farebox_refusals_total{code="rate_limit_exceeded"}': 1,
        'farebox_failed_calls_total{reason="upstream_status_500"}': 1,
        'farebox_failed_calls_total{reason="upstream_broken"}': 1,
    }


def test_health_stays_green_under_refusals(new_tenant: NewTenant, house: House) -> None:
    """ERR-05, ERR-10: refusals are a series of their own and no sign of illness."""
    tenant = new_tenant(credit=None)
    for _ in range(5):
        assert tenant.chat().status == 429
    assert tenant.get("/healthz", key="").status == 200
    ready = tenant.get("/readyz", key="")
    assert (ready.status, ready.json) == (200, {"status": "ready"})
    page = tenant.get("/metrics", key="").body.decode()
    assert 'farebox_refusals_total{code="credit_balance_exhausted"}' in page
    assert "farebox_open_calls 0.0" in page
    assert len(tenant.refusals(5)) == 5


# The native API.


def test_a_call_of_somebody_else_is_not_found(new_tenant: NewTenant) -> None:
    """Decision 18: another tenant's id is 404 like one that never was, as problem+json."""
    tenant, other = new_tenant(), new_tenant()
    theirs = other.chat().headers["x-request-id"]
    for path in (theirs, "req_" + "0" * 32, "org_" + "0" * 32, "nonsense", "%00", "../calls"):
        reply = tenant.get(f"/api/v1/calls/{path}")
        assert reply.status == 404, path
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json["status"] == 404
        assert reply.json["code"] in {"not_found", "unknown_url"}
    reply = tenant.get(f"/api/v1/calls/{theirs}", key="sk-wrong")
    assert (reply.status, reply.json["code"]) == (401, "invalid_api_key")
    assert other.get(f"/api/v1/calls/{theirs}").json["id"] == theirs


def test_the_request_id_of_a_refusal_explains_it(tenant: Tenant) -> None:
    """ERR-07: every refusal's request id is one that the explanation accepts."""
    reply = tenant.chat(max_completion_tokens=1_000_000)
    assert reply.status == 429
    assert tenant.refusals(1)[0][2] == call_id(reply)
    shown = tenant.get(f"/api/v1/calls/{reply.headers['x-request-id']}").json
    assert shown["id"] == reply.headers["x-request-id"]
    assert shown["message"] == reply.error["message"]
