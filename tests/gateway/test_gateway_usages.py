"""Whatever the usage says: the charge is exact, or our own count stands in and says so.

Every test ends with ``check_books``: no open hold, each call one row, the sum of the charges is
what was spent, and everything recomputed from its own rows.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.endings import (
    INPUT,
    OUTPUT,
    STREAMED,
    ended,
    fault,
    script,
)
from tests.support.house import House
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
    NewTenant,
    Tenant,
    chat_body,
)

# What the usage says.


@STREAMED
def test_nil_usage_settles(new_tenant: NewTenant, stream: bool) -> None:
    """DED-14, field bugs 26, 35: without usage our own count is charged, marked estimated."""
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
def test_overshoot_has_named_bucket(new_tenant: NewTenant, stream: bool) -> None:
    """NEG-03, field bug 16: what fits nothing is absorbed by the operator, to the nanodollar."""
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
