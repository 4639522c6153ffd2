"""Wherever the client goes: what was generated is charged once, and the books agree.

Every test ends with ``check_books``: no open hold, each call one row, the sum of the charges is
what was spent, and everything recomputed from its own rows.
"""

from __future__ import annotations

import asyncio
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
    usage,
    usage_chunk,
    whole,
)
from tests.support.tenants import (
    NewTenant,
    chat_body,
    wait_for,
)


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
    assert house.gateway.server is not None


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
            house.run(asyncio.sleep(0.2))
            gone.hang_up()
        house.run(asyncio.sleep(0.2))
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.read_until(b"[DONE]")
    assert left == []
    assert [row.reason for row in tenant.calls() if row.charge] == ["usage_missing"]
    tenant.check_books()
