"""What goes upstream is what is held: limits, tiers, one meaning for every key, bounds for all.

The provider is the simulated one behind real HTTP, so its request log is what left the gateway.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.support.mock_upstream import MockUpstream
from tests.support.tenants import NewTenant, Reply, Tenant, chat_body, nanos

MOCKED = "mock/gpt-5.4"
CHAT = "/v1/chat/completions"
INPUT, OUTPUT = 2_500, 15_000
IMAGE = "data:image/png;base64," + base64.b64encode(b"\x89PNG" * 5_000).decode()


def sent(mock: MockUpstream) -> dict[str, Any]:
    """The body that last went upstream."""
    body: dict[str, Any] = json.loads(mock.requests[-1].body)
    return body


def image(url: str) -> list[dict[str, object]]:
    """A message with text and an image."""
    parts = [{"type": "text", "text": "What is it?"}]
    return [{"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "limit", "upstream"),
    [
        ({}, 16_384, {"max_completion_tokens": 16_384}),
        ({"max_completion_tokens": None}, 16_384, {"max_completion_tokens": 16_384}),
        ({"n": 4}, 65_536, {"max_completion_tokens": 16_384, "n": 4}),
        ({"max_completion_tokens": 77}, 77, {"max_completion_tokens": 77}),
        ({"max_tokens": 77}, 77, {"max_completion_tokens": 77}),
        ({"max_tokens": 7, "max_completion_tokens": 70}, 70, {"max_completion_tokens": 70}),
    ],
    ids=str,
)
def test_the_limit_that_is_held_goes_upstream(
    new_tenant: NewTenant,
    mock: MockUpstream,
    fields: dict[str, Any],
    limit: int,
    upstream: dict[str, object],
    stream: bool,
) -> None:
    """Decision 10: the limit that is held goes up, in the one field that the provider knows."""
    tenant = new_tenant(credit="100")
    assert tenant.chat(model=MOCKED, stream=stream, **fields).status == 200
    body = sent(mock)
    assert body["service_tier"] == "default"
    assert body["model"] == "gpt-5.4"
    for name, value in upstream.items():
        assert body[name] == value
    assert "max_tokens" not in body
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)
    call = tenant.only_call()
    assert call.output_limit == limit
    assert call.held >= limit * OUTPUT
    tenant.check_books()


def test_a_small_balance_lowers_the_limit(new_tenant: NewTenant, mock: MockUpstream) -> None:
    """ENGINE.md, "Ceilings": a quarter of what is available, and that limit goes upstream."""
    tenant = new_tenant(credit="0.06")
    assert tenant.chat(model=MOCKED, n=2).status == 200
    quarter = nanos("0.06") // 4 // OUTPUT
    assert sent(mock)["max_completion_tokens"] == quarter // 2 == 500
    assert tenant.only_call().output_limit == quarter
    tenant.check_books()


def test_a_tier_that_is_named_stays(tenant: Tenant, mock: MockUpstream) -> None:
    """A client's own tier goes upstream as it is."""
    tenant.chat(model=MOCKED, service_tier="flex", max_completion_tokens=5)
    assert sent(mock)["service_tier"] == "flex"
    tenant.chat(model=MOCKED, service_tier=None, max_completion_tokens=5)
    assert sent(mock)["service_tier"] == "default"


def test_stream_options_are_kept(tenant: Tenant, mock: MockUpstream) -> None:
    """Usage is asked for upstream beside whatever else the client asked for."""
    options = {"include_usage": False, "include_obfuscation": False}
    reply = tenant.chat(model=MOCKED, stream=True, stream_options=options)
    assert sent(mock)["stream_options"] == options | {"include_usage": True}
    assert b'"usage":{' not in reply.body


@pytest.mark.parametrize(
    ("repeated", "name", "kept"),
    [
        (b'"max_completion_tokens":1,"max_completion_tokens":9', "max_completion_tokens", 9),
        (b'"max_completion_tokens":9,"max_completion_tok\\u0065ns":1', "max_completion_tokens", 1),
        (b'"n":1,"\\u006e":2', "n", 2),
        (b'"service_tier":"priority","service_tier":"flex"', "service_tier", "flex"),
    ],
)
def test_a_repeated_key_has_one_meaning(
    tenant: Tenant, mock: MockUpstream, repeated: bytes, name: str, kept: object
) -> None:
    """A key that is repeated or disguised means the same to the hold and to the provider."""
    body = b'{"model":"mock/gpt-5.4","messages":[{"role":"user","content":"x"}],%b}' % repeated
    assert tenant.post(CHAT, body).status == 200
    raw = mock.requests[-1].body
    assert raw.count(f'"{name}"'.encode()) == 1
    assert b"\\u00" not in raw
    assert sent(mock)[name] == kept


@pytest.mark.parametrize(
    "part",
    [
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"},"type":"text"}',
        b'{"ty\\u0070e":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}',
        b'{"type":"text","text":"x","\\u0074ype":"image_url","image_url":{"url":"data:,"}}',
        b'{"image_url":{"url":"data:image/png;base64,AAAA"}}',
    ],
    ids=["repeated", "escaped", "both", "without a type"],
)
def test_a_disguised_image_is_bounded(tenant: Tenant, mock: MockUpstream, part: bytes) -> None:
    """However an image is written, either it is bounded as one or it does not go up as one."""
    body = b'{"model":"mock/gpt-5.4","messages":[{"role":"user","content":[%b]}],"n":1}' % part
    before = len(mock.requests)
    reply = tenant.post(CHAT, body)
    if len(mock.requests) == before:
        assert reply.status in {400, 429}
        return
    raw = mock.requests[-1].body
    (message,) = json.loads(raw)["messages"]
    assert raw.count(b'"type"') == 1
    call = tenant.calls()[-1]
    if message["content"][0]["type"] != "text":
        # An image of gpt-5.4 is thousands of tokens at most, whatever its bytes.
        assert call.held - call.output_limit * OUTPUT > 10_000 * INPUT


def test_an_inline_image_is_held_at_the_models_maximum(tenant: Tenant, mock: MockUpstream) -> None:
    """An image's data is not text: twenty-odd kilobytes of it are not held as tokens."""
    reply = tenant.chat(model=MOCKED, messages=image(IMAGE), max_completion_tokens=10)
    assert reply.status == 200, reply.body
    assert sent(mock)["messages"] == image(IMAGE)
    call = tenant.only_call()
    assert 12_000 * INPUT < call.held < 14_000 * INPUT
    assert call.charge < call.held
    tenant.check_books()


def test_prompts_that_only_the_window_bounds(new_tenant: NewTenant, mock: MockUpstream) -> None:
    """An image's address or a file is bounded by the whole window, and held so."""
    tenant = new_tenant(credit="1.00")
    window = 1_050_000
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:;base64,AA"}}
    for messages in (
        image("https://example.com/a.png"),
        [{"role": "user", "content": [file]}],
        [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}],
    ):
        reply = tenant.chat(model=MOCKED, messages=messages, max_completion_tokens=10)
        assert (reply.status, reply.error["code"]) == (429, "credit_balance_exhausted")
    for _, needed, _ in tenant.refusals(3):
        assert needed > window * INPUT
    assert tenant.calls() == []
    rich = new_tenant(credit="100")
    reply = rich.chat(model=MOCKED, messages=image("https://example.com/a.png"))
    assert reply.status == 200, reply.body
    assert rich.only_call().held > window * INPUT
    assert mock.requests


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "web_search"}]}, "price"),
        ({"web_search_options": {}}, "search"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}
                        ],
                    }
                ]
            },
            "audio",
        ),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, "audio"),
        ({"prompt_cache_options": {"ttl": "12h"}}, "cache"),
    ],
    ids=range(5),
)
def test_what_has_no_bound_is_refused(tenant: Tenant, fields: dict[str, Any], said: str) -> None:
    """Decision 10: no known bound or price: 400 with what is missing and the way out."""
    reply = tenant.chat(max_completion_tokens=10, **fields)
    assert reply.status == 400, reply.body
    assert said in reply.error["message"].lower(), reply.error
    assert tenant.calls() == []


def test_a_longer_cache_cannot_be_hidden(tenant: Tenant) -> None:
    """An escape in the retention's name does not hide its price."""
    body = (
        b'{"model":"gpt-5.4","messages":[{"role":"user","content":"x"}],'
        b'"prompt_cache_options":{"ttl":"1\\u0032h"}}'
    )
    assert tenant.post(CHAT, body).status == 400


# Counting.

WORDS = "The quick brown fox jumps over the lazy dog. "


def prompt_of(mock: MockUpstream) -> int:
    """The tokens that the provider billed last for a prompt."""
    usage: Any = mock.billed[-1].usage
    return int(usage["prompt_tokens"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_bound_in_bytes_that_is_too_wide_is_counted(
    new_tenant: NewTenant, mock: MockUpstream, stream: bool
) -> None:
    """ENGINE.md, "Ceilings": what the money does not cover in bytes it may cover in tokens."""
    text = WORDS * 400  # 18,000 bytes, 4,000 tokens
    tenant = new_tenant(credit="0.02")
    reply = tenant.chat(
        model=MOCKED,
        stream=stream,
        messages=[{"role": "user", "content": text}],
        max_completion_tokens=100,
    )
    assert reply.status == 200, reply.body
    call = tenant.only_call()
    assert 4_000 * INPUT < call.held - 100 * OUTPUT < 4_200 * INPUT
    assert sent(mock)["messages"] == [{"role": "user", "content": text}]


@pytest.mark.parametrize("prefix", ["", "data:", "DATA:image/png;base64,", "data: "])
def test_counting_is_not_fooled_by_a_prefix(new_tenant: NewTenant, prefix: str) -> None:
    """A text that begins like an inline image is a text, and every token of it is held."""
    tenant = new_tenant(credit="0.005")
    reply = tenant.chat(
        messages=[{"role": "user", "content": prefix + WORDS * 400}], max_completion_tokens=10
    )
    assert (reply.status, reply.error["code"]) == (429, "credit_balance_exhausted")
    ((_, needed, _),) = tenant.refusals(1)
    assert needed > 4_000 * INPUT


def count_and_bytes(new_tenant: NewTenant, **fields: Any) -> tuple[Reply, int]:
    """A call that is counted; gives what it needed."""
    tenant = new_tenant(credit="0.001")
    reply = tenant.chat(max_completion_tokens=10, **fields)
    ((_, needed, _),) = tenant.refusals(1)
    return reply, needed


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": WORDS * 50}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": WORDS * 50}}},
        {"documents": [{"text": WORDS * 50}]},
        {"functions": [{"name": "f", "description": WORDS * 50}]},
        {"messages": [{"role": "user", "content": "x", "name": WORDS * 50}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"a": WORDS * 50}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": WORDS * 50}]}]},
        {"messages": [{"role": "user", WORDS * 50: 1}]},
    ],
    ids=range(8),
)
def test_everything_that_may_enter_the_prompt_is_counted(
    new_tenant: NewTenant, fields: dict[str, Any]
) -> None:
    """Whatever part of the request carries a text, its tokens are in the bound."""
    reply, needed = count_and_bytes(new_tenant, **fields)
    assert reply.status == 429
    assert needed > 50 * 10 * INPUT


@pytest.mark.parametrize(
    "more",
    [b'"x":1e400', b'"x":' + b"[" * 400 + b"]" * 400, b'"content":"y","content":"z"'],
    ids=["number", "deep", "repeated"],
)
@pytest.mark.parametrize("credit", ["0.001", "5.00"])
@pytest.mark.parametrize("order", ["no_usage", "drop_after=4"])
def test_messages_that_cannot_be_read_whole(
    new_tenant: NewTenant, more: bytes, credit: str, order: str
) -> None:
    """Where counting or estimating meets what JSON readers cannot read, money stays exact."""
    tenant = new_tenant(credit=credit)
    text = (WORDS * 20).encode()
    body = (
        b'{"model":"gpt-5.4","stream":true,"max_completion_tokens":20,'
        b'"messages":[{"role":"user","content":"%b",%b}]}' % (text, more)
    )
    reply = tenant.post(CHAT, body, {"X-Sandbox-Fault": order})
    assert reply.status in {200, 400, 429}, reply.body
    for call in tenant.calls():
        assert call.state in {"settled", "released"}
        assert call.charge <= call.held
    tenant.check_books()


def test_an_embeddings_tier_is_held_too(tenant: Tenant) -> None:
    """A tier in an embeddings request that has no price is refused, not sent up unheld."""
    body = {"model": "text-embedding-3-small", "input": "x", "service_tier": "priority"}
    reply = tenant.post("/v1/embeddings", body)
    assert (reply.status, reply.error["param"]) == (400, "service_tier")


def test_embeddings_without_usage(tenant: Tenant) -> None:
    """Texts and tokens alike are counted where the provider says nothing (DED-11)."""
    for value, tokens in ((["one two"] * 3, 18), ([11, 12, 13, 14], 8), ([[1, 2], [3]], 11)):
        body = {"model": "text-embedding-3-small", "input": value}
        reply = tenant.post("/v1/embeddings", body, {"X-Sandbox-Fault": "no_usage"})
        assert reply.status == 200, reply.body
        call = tenant.calls()[-1]
        assert (call.estimated, call.input_tokens) == (True, tokens)
        assert call.charge == tokens * 20
    tenant.check_books()


def test_a_limit_beyond_any_price_is_refused(tenant: Tenant) -> None:
    """A bound that overflows what money can be is 400 or a plain lack of money, never a fault."""
    for model in ("gpt-5.4-pro", "o1-pro", "gpt-5.4"):
        reply = tenant.post(CHAT, chat_body(model=model, max_tokens=100_000_000, n=128))
        assert reply.status in {400, 404, 429}, reply.body
    assert tenant.calls() == []
