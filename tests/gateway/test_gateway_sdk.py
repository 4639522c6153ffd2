"""The official OpenAI clients: they work by changing one line, and every figure is exact.

Expected charges are worked out here by hand from the published prices, in whole nanodollars.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from farebox.kit.money import format_amount
from tests.support.openai_clients import async_client, sync_client
from tests.support.tenants import MODEL, NewTenant, Tenant, call_id, nanos

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]

# Nanodollars a token: gpt-5.4, standard, to 272,000 tokens of prompt and beyond it.
INPUT, CACHED, OUTPUT = 2_500, 250, 15_000
LONG_INPUT, LONG_CACHED, LONG_OUTPUT = 5_000, 500, 22_500


def ordering(usage: str) -> dict[str, str]:
    """The header that has the simulated provider report a usage."""
    return {"X-Sandbox-Usage": usage}


@pytest.fixture
def client(tenant: Tenant) -> Iterator[openai.OpenAI]:
    """The synchronous client of the tenant."""
    with sync_client(tenant.house.base_url, tenant.key) as (client, _):
        yield client


def test_a_json_call_says_what_it_cost(tenant: Tenant, client: openai.OpenAI) -> None:
    """DED-06, DED-08: headers carry the id, the exact charge and what is left; the API agrees."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        extra_headers=ordering("prompt=4808,cached=0,completion=10"),
    )
    answer = raw.parse()
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4808, 10)
    charge = 4808 * INPUT + 10 * OUTPUT
    assert raw.headers["x-farebox-charge"] == "0.01217" == format_amount(nanos("0.01217"))
    assert nanos(raw.headers["x-farebox-charge"]) == charge
    assert nanos(raw.headers["x-farebox-balance"]) == nanos("5.00") - charge
    assert answer._request_id == raw.headers["x-request-id"]

    found = tenant.get(f"/api/v1/calls/{raw.headers['x-request-id']}").json
    assert found["id"] == raw.headers["x-request-id"]
    assert found["charge"] == "0.01217"
    assert found["status"] == "settled"
    assert [(line["unit"], line["quantity"], line["amount"]) for line in found["lines"]] == [
        ("input", 4808, "0.01202"),
        ("output", 10, "0.00015"),
    ]
    call = tenant.only_call()
    assert (call.charge, call.cost, call.absorbed) == (charge, charge, 0)
    tenant.check_books()


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_carries_its_cost_where_usage_was_asked_for(
    tenant: Tenant, client: openai.OpenAI, asked: bool
) -> None:
    """DED-15: the usage chunk is there with its exact cost, or not there at all."""
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    stream = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        stream=True,
        extra_headers=ordering("prompt=1001,cached=0,completion=7"),
        **options,
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.startswith("This is a simulated")
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    charge = 1001 * INPUT + 7 * OUTPUT
    if asked:
        (last,) = with_usage
        assert last is chunks[-1]
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.model_extra is not None
        assert Decimal(str(last.usage.model_extra["cost"])) * 10**9 == charge
    else:
        assert with_usage == []
        assert all(chunk.choices for chunk in chunks)
    call = tenant.only_call()
    assert (call.charge, call.streamed, call.estimated) == (charge, True, False)
    found = tenant.get(f"/api/v1/calls/{stream.response.headers['x-request-id']}").json
    assert nanos(found["charge"]) == charge
    tenant.check_books()


def test_the_cost_is_written_digit_by_digit(tenant: Tenant) -> None:
    """A charge that no binary float can hold stands in the stream exactly."""
    reply = tenant.chat(
        ordering("prompt=333333,cached=111111,completion=77777"),
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=80_000,
    )
    charge = 222_222 * LONG_INPUT + 111_111 * LONG_CACHED + 77_777 * LONG_OUTPUT
    (usage,) = [line for line in reply.body.split(b"\n\n") if b'"usage":{' in line]
    cost = json.loads(usage.removeprefix(b"data: "), parse_float=Decimal)["usage"]["cost"]
    assert cost * 10**9 == charge
    assert f'"cost":{format_amount(nanos(str(cost)))}'.encode() in usage
    assert tenant.only_call().charge == charge


async def test_the_asynchronous_client(tenant: Tenant) -> None:
    """The asynchronous client gets the same, streamed and whole."""
    async with async_client(tenant.house.base_url, tenant.key) as (client, wire):
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO, extra_headers=ordering("prompt=5,cached=0,completion=2")
        )
        assert nanos(raw.headers["x-farebox-charge"]) == 5 * INPUT + 2 * OUTPUT
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=ordering("prompt=5,cached=0,completion=2"),
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 7
        models = await client.models.list()
        assert MODEL in {model.id for model in models.data}
        vectors = await client.embeddings.create(model="text-embedding-3-small", input="hello")
        assert len(vectors.data[0].embedding) == 1536
        assert wire.count == 4
    assert len(tenant.calls()) == 3
    tenant.check_books()


def test_embeddings_are_charged(tenant: Tenant, client: openai.OpenAI) -> None:
    """Field bug 6: every endpoint charges; text-embedding-3-small costs 20 nanodollars a token."""
    raw = client.embeddings.with_raw_response.create(
        model="text-embedding-3-small",
        input=["first", "second"],
        extra_headers=ordering("prompt=1234"),
    )
    assert len(raw.parse().data) == 2
    assert nanos(raw.headers["x-farebox-charge"]) == 1234 * 20
    call = tenant.only_call()
    assert (call.endpoint, call.input_tokens, call.output_tokens) == ("embeddings", 1234, 0)
    tenant.check_books()


def test_the_models_list_and_one_of_it(client: openai.OpenAI) -> None:
    """Every model on sale is listed under its plain name, once, and found by it."""
    models = list(client.models.list())
    names = [model.id for model in models]
    assert len(names) == len(set(names)) > 20
    assert {MODEL, "gpt-5.4-mini", "text-embedding-3-small"} <= set(names)
    assert client.models.retrieve(MODEL).owned_by == "simulated"
    assert client.models.retrieve(f"simulated/{MODEL}").id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-nothing")
    assert caught.value.code == "model_not_found"


def test_several_choices_are_held_and_charged(tenant: Tenant, client: openai.OpenAI) -> None:
    """N = 3 holds three times the limit, goes upstream as it is, and is charged as reported."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        n=3,
        max_completion_tokens=5,
        extra_headers={"X-Farebox-Feature": "choices"},
    )
    assert len(answer.choices) == 3
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, n=3, max_completion_tokens=5, stream=True
    )
    chunks = list(stream)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}
    assert sum(bool(c.finish_reason) for chunk in chunks for c in chunk.choices) == 3
    for call in tenant.calls():
        assert call.output_limit == 15
        assert call.output_tokens == 15
        assert call.charge == 15 * OUTPUT + call.input_tokens * INPUT
    tenant.check_books()


def test_tools_stop_words_and_structured_answers(tenant: Tenant, client: openai.OpenAI) -> None:
    """What goes upstream is what the client sent: tools, stop words and schemas work."""
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    called = client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[tool], tool_choice="required"
    )
    (call,) = called.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "simulated"}
    stopped = client.chat.completions.create(model=MODEL, messages=HELLO, stop=[" answer"])
    assert stopped.choices[0].message.content == "This is a simulated"
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[tool], tool_choice="required", stream=True
    )
    parts = [
        part.function.arguments or ""
        for chunk in stream
        for choice in chunk.choices
        for part in choice.delta.tool_calls or []
        if part.function is not None
    ]
    assert json.loads("".join(parts)) == {"city": "simulated"}
    assert all(call.state == "settled" for call in tenant.calls())
    tenant.check_books()


@pytest.mark.parametrize(
    ("usage", "charge"),
    [
        ("prompt=272000,cached=0,completion=1", 272_000 * INPUT + OUTPUT),
        ("prompt=272001,cached=0,completion=1", 272_001 * LONG_INPUT + LONG_OUTPUT),
        ("prompt=2006,cached=1920,completion=0", 86 * INPUT + 1_920 * CACHED),
        ("prompt=2006,cached=2006,completion=0", 2_006 * CACHED),
        ("prompt=10,cached=0,completion=90,reasoning=80", 10 * INPUT + 90 * OUTPUT),
        ("prompt=0,cached=0,completion=0", 0),
    ],
)
def test_every_part_of_a_usage_has_its_price(
    tenant: Tenant, client: openai.OpenAI, usage: str, charge: int
) -> None:
    """DED-09: cached, long and hidden tokens each cost what they cost, and a zero costs nothing."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, extra_headers=ordering(usage)
    )
    assert nanos(raw.headers["x-farebox-charge"]) == charge
    call = tenant.only_call()
    assert (call.charge, call.estimated) == (charge, False)
    tenant.check_books()


@pytest.mark.parametrize(
    ("tier", "lane", "price"),
    [
        (None, "standard", (INPUT, OUTPUT)),
        ("default", "standard", (INPUT, OUTPUT)),
        ("auto", "standard", (INPUT, OUTPUT)),
        ("flex", "flex", (1_250, 7_500)),
        ("priority", "priority", (5_000, 30_000)),
        ("fast", "priority", (5_000, 30_000)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_tier_that_served_is_charged(
    tenant: Tenant, tier: str | None, lane: str, price: tuple[int, int], stream: bool
) -> None:
    """DED-13: each tier has its own price rows, and the answer's own word decides."""
    fields: dict[str, object] = {} if tier is None else {"service_tier": tier}
    reply = tenant.chat(
        ordering("prompt=100,cached=0,completion=10"),
        stream=stream,
        max_completion_tokens=10,
        **fields,
    )
    assert reply.status == 200, reply.body
    call = tenant.only_call()
    assert (call.lane, call.charge) == (lane, 100 * price[0] + 10 * price[1])
    assert (call.estimated, call.id) == (False, call_id(reply))
    dearest = 30_000 if tier in {"priority", "fast", "auto"} else price[1]
    assert call.held >= 10 * dearest
    tenant.check_books()


def test_a_model_can_be_named_with_its_provider(new_tenant: NewTenant) -> None:
    """A prefix chooses the provider and does not go upstream."""
    tenant = new_tenant()
    with sync_client(tenant.house.base_url, tenant.key) as (client, wire):
        answer = client.chat.completions.create(model=f"simulated/{MODEL}", messages=HELLO)
    assert answer.model == MODEL
    assert wire.count == 1
    assert tenant.only_call().model == MODEL
