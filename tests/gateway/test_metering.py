"""Estimates: near the truth, never above the bound, and never a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway.bodies import read_chat, read_embeddings
from farebox.gateway.metering import (
    MESSAGE_TOKENS,
    PIECE_CHARACTERS,
    OutputMeter,
    answer_text,
    estimated_usage,
    prompt_tokens,
)
from farebox.rating.units import Unit
from farebox.system.token_counter import count_o200k
from tests.support.scripted_upstream import delta, event


def words(text: str) -> int:
    """A counter that is easy to check."""
    return len(text.split())


async def chat_tokens(messages: Any, count: Any = words, **fields: object) -> int:
    """The estimate for a chat prompt."""
    document = {"model": "m", "messages": messages, **fields}
    return await prompt_tokens(read_chat(json.dumps(document).encode()), count)


async def test_the_prompt_is_counted() -> None:
    """Contents, names, arguments and tools count; roles, types and image data do not."""
    messages = [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": [{"type": "text", "text": " three"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,a b c"}}]},
    ]
    assert await chat_tokens(messages) == 3 + 3 * MESSAGE_TOKENS
    tools = [{"type": "function", "function": {"name": "x"}}]
    counted = words(json.dumps(tools)) - 1 + 3 + 3 * MESSAGE_TOKENS
    assert await chat_tokens(messages, tools=tools) in {counted, counted + 1}


async def test_a_text_that_begins_like_an_image() -> None:
    """It is a text, and is charged."""
    assert await chat_tokens([{"role": "user", "content": "data: one two"}]) == 3 + MESSAGE_TOKENS


async def test_tokens_given_as_numbers() -> None:
    """An embeddings input of token numbers is as long as it says."""
    for value, tokens in (([5, 6, 7], 3), ([[5], [6, 7]], 3), ("a b", 2), (["a", "b c"], 2)):
        body = read_embeddings(json.dumps({"model": "m", "input": value}).encode())
        assert await prompt_tokens(body, words) == min(
            tokens + body.facts.messages * MESSAGE_TOKENS, body.facts.text_bytes
        )


@pytest.mark.parametrize("extra", ['"x":1e999', '"x":' + "[" * 500 + "]" * 500])
async def test_what_cannot_be_decoded_is_counted_as_text(extra: str) -> None:
    """An estimate never fails: the call behind it must have an end."""
    raw = f'{{"model":"m","messages":[{{"role":"user","content":"one two",{extra}}}]}}'
    assert await prompt_tokens(read_chat(raw.encode()), words) >= 2


async def test_a_long_prompt_is_counted_not_measured() -> None:
    """A megabyte of words is counted piece by piece: bytes would be four times too many."""
    text = "The quick brown fox jumps over the lazy dog. " * 30_000
    tokens = await chat_tokens([{"role": "user", "content": text}], count_o200k)
    assert 290_000 < tokens < 310_000
    assert len(text) > 10 * PIECE_CHARACTERS


async def test_never_above_the_bound() -> None:
    """An estimate may not be more than the bytes that were held."""
    for count in (lambda text: 10**9, words):
        tokens = await chat_tokens([{"role": "user", "content": "x"}] * 50, count)
        assert tokens <= len(json.dumps({"model": "m"})) + 50 * 40


def test_the_meter_reads_only_when_asked() -> None:
    """Events wait unread; asked twice, nothing counts twice."""
    meter = OutputMeter(words)
    for data in (delta("one two"), b"data: rubbish\n\n", delta(" three"), event({})):
        meter.add(data)
    assert meter.tokens() == 3
    assert meter.tokens() == 3
    meter.add(delta(" four"))
    assert meter.tokens() == 4


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"choices": [{"message": {"content": "a", "refusal": "b"}}]}, "ab"),
        ({"choices": [{"message": {"content": None}}, None, 5, {}]}, ""),
        ({"choices": "x"}, ""),
        ({"error": {"message": "an error is no answer"}}, ""),
        ([], ""),
        (None, ""),
    ],
    ids=range(6),
)
def test_the_text_of_a_whole_answer(document: object, text: str) -> None:
    """Only what the model wrote counts; an error's text does not (field bug 48)."""
    assert answer_text(document) == text


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "tool_calls", "function"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_no_answer_is_a_fault_of_ours(document: Any) -> None:
    """Any JSON at all may stand in an answer."""
    assert isinstance(answer_text(document), str)


def test_an_estimated_usage() -> None:
    """Zeros leave no line."""
    assert estimated_usage(5, 0).units == ((Unit.INPUT, 5),)
    assert estimated_usage(0, 0).units == ()
