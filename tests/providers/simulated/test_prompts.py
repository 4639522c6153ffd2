"""What of a request counts as prompt."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from farebox.providers.simulated.models import MODELS
from farebox.providers.simulated.prompts import Prompt, count_prompt
from farebox.providers.simulated.requests import parse_chat


def _bytes(text: str) -> int:
    """The dearest counter there can be: a token a byte."""
    return len(text.encode())


def _count(*messages: dict[str, Any], **fields: Any) -> Prompt:
    body = msgspec.json.encode({"model": "gpt-5.4", "messages": list(messages)} | fields)
    return count_prompt(parse_chat(body, MODELS), _bytes)


def test_the_arithmetic_of_messages() -> None:
    """Four tokens a message, one for a name, three to begin the answer, and the text."""
    assert _count({"role": "user", "content": "12345"}).tokens == 3 + 4 + 5
    two = _count({"role": "system", "content": "1"}, {"role": "user", "content": "12"})
    assert two.tokens == 3 + 4 + 1 + 4 + 2
    assert _count({"role": "user", "name": "al", "content": "1"}).tokens == 3 + 4 + 1 + 2 + 1
    assert _count({"role": "assistant", "content": None}).tokens == 3 + 4


def test_parts_that_are_no_text() -> None:
    """Images, sounds and files have sizes of their own; sound is reported apart."""
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    low = {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}
    sound = {"type": "input_audio", "input_audio": {"data": "x" * 4300 * 3, "format": "wav"}}
    named = {"type": "file", "file": {"file_id": "file-1"}}
    inline = {"type": "file", "file": {"file_data": "x" * 4000}}
    text = {"type": "text", "text": "123"}

    def parts(*content: dict[str, Any]) -> int:
        return _count({"role": "user", "content": list(content)}).tokens - 7

    assert parts(text) == 3
    assert parts(text, image) == 3 + 765
    assert parts(low) == 85
    assert parts(named) == 1000
    assert 1000 < parts(inline) < 1030
    heard = _count({"role": "user", "content": [sound]})
    assert heard.audio_tokens == heard.tokens - 7 == 4


def test_tools_and_schemas_are_prompt() -> None:
    """What the model reads before the messages is counted."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    plain = _count({"role": "user", "content": "1"}).tokens
    with_tools = _count({"role": "user", "content": "1"}, tools=tools).tokens
    assert with_tools == plain + 4 + len(msgspec.json.encode(tools))


def test_a_mark_is_no_part_of_the_prefix() -> None:
    """The same text with and without a breakpoint is the same prefix."""
    part = {"type": "text", "text": "123"}
    marked = part | {"prompt_cache_breakpoint": {"mode": "explicit"}}
    (_, plain) = _count({"role": "user", "content": [part]}).blocks
    (_, with_mark) = _count({"role": "user", "content": [marked]}).blocks
    assert plain.text == with_mark.text
    assert (plain.marked, with_mark.marked) == (False, True)
    assert plain.ends_turn


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text()), min_size=1
    )
)
def test_a_prompt_never_counts_more_than_its_bytes_and_four_a_message(
    turns: list[tuple[str, str]],
) -> None:
    """ENGINE.md, Ceilings: a bound by bytes and messages holds for text, whatever the counter."""
    prompt = _count(*({"role": role, "content": text} for role, text in turns))
    assert prompt.tokens <= 3 + sum(4 + len(text.encode()) for _, text in turns)
    assert prompt.tokens == 3 + sum(block.tokens for block in prompt.blocks)
