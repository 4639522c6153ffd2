"""Counting a prompt: everything that may enter it is in the count, and what is counted is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway.bodies import CallBody, read_chat, read_embeddings
from farebox.gateway.bounding import count_prompt, may_count
from farebox.gateway.openai_errors import GatewayError
from farebox.rating.price_book import ModelFacts
from farebox.system.token_counter import count_o200k

FACTS = ModelFacts(provider="openai", model="m", counts_o200k=True)
PNG = "data:image/png;base64," + "A" * 4_000


def chat(messages: Any, **fields: object) -> CallBody:
    """A chat body, read."""
    return read_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
async def test_no_text_is_left_out(texts: list[str]) -> None:
    """The count is at least the tokens of all contents, wherever they stand."""
    messages = [
        {"role": "user", "content": text if i % 2 else [{"type": "text", "text": text}]}
        for i, text in enumerate(texts)
    ]
    counted = await count_prompt(chat(messages), count_o200k)
    assert counted >= sum(map(count_o200k, texts))


@pytest.mark.parametrize(
    "content",
    ["data:" + "one " * 500, [{"type": "text", "text": "data:" + "one " * 500}]],
    ids=["string", "part"],
)
async def test_a_text_that_begins_like_an_image(content: object) -> None:
    """It counts whole: otherwise a prompt of any size could be held at nothing."""
    assert await count_prompt(chat([{"role": "user", "content": content}]), count_o200k) > 500


async def test_an_inline_images_data_does_not_count() -> None:
    """It is bounded by the model's maximum; what stands beside it counts."""
    image = {"type": "image_url", "image_url": {"url": PNG, "detail": "one two"}}
    body = chat([{"role": "user", "content": [image]}])
    counted = await count_prompt(body, lambda text: len(text.split()))
    assert 2 <= counted < 40


async def test_unknown_fields_count_at_their_bytes() -> None:
    """Nobody knows whether they enter the prompt."""
    plain = await count_prompt(chat([{"content": "x"}]), count_o200k)
    more = await count_prompt(chat([{"content": "x"}], documents=["y" * 300]), count_o200k)
    assert more - plain == len('["' + "y" * 300 + '"]')


async def test_what_is_counted_is_sent() -> None:
    """Counted parts are written again, so that a repeated key means one thing."""
    body = read_chat(
        b'{"model":"m","messages":[{"role":"user","content":"short","content":"long text"}],'
        b'"tools":[{"type":"function","function":{"a":"b","a":"c"}}]}'
    )
    await count_prompt(body, count_o200k)
    sent = body.encode({})
    assert sent.count(b'"content"') == 1
    assert b'"a":"c"' in sent
    assert b'"b"' not in sent


@pytest.mark.parametrize("extra", ['"x":1e999', '"x":' + "[" * 2_000 + "]" * 2_000])
async def test_what_cannot_be_counted_is_refused_by_name(extra: str) -> None:
    """Before any hold, so it costs nothing."""
    raw = f'{{"model":"m","messages":[{{"role":"user","content":"one two",{extra}}}]}}'
    with pytest.raises(GatewayError) as caught:
        await count_prompt(read_chat(raw.encode()), count_o200k)
    assert caught.value.status == 400


async def test_long_prompts_are_counted_in_a_thread() -> None:
    """The count is the same."""
    text = "one two three. " * 30_000
    counted = await count_prompt(chat([{"role": "user", "content": text}]), count_o200k)
    assert abs(counted - count_o200k(text)) < 100


async def test_embeddings_given_as_tokens() -> None:
    """A token given as a number is at least one token."""
    body = read_embeddings(b'{"model":"m","input":[1,22,333,4444]}')
    assert await count_prompt(body, count_o200k) >= 4


@pytest.mark.parametrize(
    ("fields", "content", "may"),
    [
        ({}, "x", True),
        ({}, [{"type": "image_url", "image_url": {"url": PNG}}], True),
        ({}, [{"type": "image_url", "image_url": {"url": "https://x"}}], False),
        ({}, [{"type": "input_audio"}], False),
    ],
    ids=range(4),
)
def test_when_counting_helps(fields: dict[str, object], content: object, may: bool) -> None:
    """Only text, and only for models that are known to count so."""
    body = chat([{"role": "user", "content": content}], **fields)
    assert may_count(body, FACTS) is may
    assert not may_count(body, ModelFacts(provider="openai", model="m"))
