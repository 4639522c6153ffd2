"""What the simulated model says."""

from __future__ import annotations

from typing import Any

import msgspec
import splintr

from farebox.providers.simulated.answers import (
    TEXT_TOKENS_MAX,
    Answer,
    compose,
    example,
    text_pieces,
)
from farebox.providers.simulated.models import MODELS
from farebox.providers.simulated.requests import parse_chat
from tests.support.mock_upstream import count_tokens

CHANCE = bytes(range(32))
FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": FUNCTION}]


def _answer(
    ordered_tokens: int | None = None, ordered_reasoning: int | None = None, **fields: Any
) -> Answer:
    message = {"role": "user", "content": "hi"}
    body = msgspec.json.encode({"model": "gpt-5.4", "messages": [message]} | fields)
    chat = parse_chat(body, MODELS)
    return compose(chat, ordered_tokens, ordered_reasoning, CHANCE, count_tokens)


def test_a_piece_is_a_token_wherever_the_text_is_cut() -> None:
    """A gateway that counts the streamed text with the o200k vocabulary comes to what is billed."""
    encoder = splintr.Tokenizer.from_pretrained("o200k_base")
    for tokens in range(300):
        assert len(encoder.encode_ordinary("".join(text_pieces(tokens)))) == tokens


def test_the_text_says_that_it_is_simulated() -> None:
    """Nobody takes a sandbox answer for a model's."""
    assert "".join(text_pieces(8)) == "This is a simulated answer from the sandbox"


def test_the_text_holds_more_than_ascii() -> None:
    """A stream cut within a character is something that a client must bear."""
    assert not "".join(text_pieces(100)).isascii()


def test_a_natural_answer_stays_under_its_limit() -> None:
    """Either limit holds, says so in the finish reason, and the lower of two wins."""
    for fields in ({"max_tokens": 5}, {"max_completion_tokens": 5, "max_tokens": 9}):
        answer = _answer(**fields)
        assert answer.completion_tokens == 5
        assert answer.choices[0].finish_reason == "length"
    free = _answer()
    assert free.choices[0].finish_reason == "stop"
    assert 24 <= free.completion_tokens <= 96


def test_several_choices_are_all_billed() -> None:
    """The completion is the sum over n choices."""
    answer = _answer(n=3, max_tokens=4)
    assert [choice.tokens for choice in answer.choices] == [4, 4, 4]
    assert answer.completion_tokens == 12
    assert [c.tokens for c in _answer(10, n=3).choices] == [4, 3, 3]


def test_an_ordered_completion_decides_the_length() -> None:
    """The text is as long as the ordered completion, up to a bound; the bill is not bounded."""
    assert len(_answer(200).choices[0].pieces) == 200
    long = _answer(10**15)
    assert long.completion_tokens == 10**15
    assert len(long.choices[0].pieces) == TEXT_TOKENS_MAX
    assert _answer(0).choices[0].pieces == ()


def test_an_ordered_completion_at_the_limit_ends_by_length() -> None:
    """The finish reason of an ordered answer is the one a real one of that length would have."""
    assert _answer(9, max_tokens=10).choices[0].finish_reason == "stop"
    assert _answer(10, max_tokens=10).choices[0].finish_reason == "length"
    assert _answer(110, max_tokens=10).choices[0].finish_reason == "length"


def test_reasoning_is_a_hidden_part_of_the_completion() -> None:
    """Reasoning tokens are billed, count against the limit, and are never shown."""
    answer = _answer(reasoning_effort="low", max_completion_tokens=70)
    assert answer.reasoning_tokens == 64
    assert answer.choices[0].tokens == 6
    assert answer.completion_tokens == 70
    starved = _answer(reasoning_effort="high", max_completion_tokens=70)
    assert starved.choices[0].pieces == ()
    assert starved.choices[0].finish_reason == "length"
    ordered = _answer(100, 90)
    assert (ordered.completion_tokens, len(ordered.choices[0].pieces)) == (100, 10)


def test_a_stop_sequence_ends_the_text_before_it() -> None:
    """The text never holds the stop sequence."""
    answer = _answer(stop=["simulated", "nowhere"])
    assert "".join(answer.choices[0].pieces) == "This is a "
    assert answer.choices[0].finish_reason == "stop"
    assert _answer(stop="This").choices[0].pieces == ()


def test_a_forced_function_is_called() -> None:
    """A named function ends with ``stop``, a required one with ``tool_calls``, as at OpenAI."""
    named = {"type": "function", "function": {"name": "get_weather"}}
    (choice,) = _answer(tools=TOOLS, tool_choice=named).choices
    assert choice.tool_name == "get_weather"
    assert "".join(choice.pieces) == '{"city":"simulated"}'
    assert choice.finish_reason == "stop"
    (choice,) = _answer(tools=TOOLS, tool_choice="required").choices
    assert choice.finish_reason == "tool_calls"
    (choice,) = _answer(50, tools=TOOLS, tool_choice="required").choices
    assert (choice.tokens, choice.tool_name) == (50, "get_weather")
    (choice,) = _answer(tools=TOOLS, tool_choice="required", max_tokens=2).choices
    assert (choice.tokens, choice.finish_reason) == (2, "length")


def test_a_function_that_is_only_offered_is_not_called() -> None:
    """With ``auto`` the simulated model answers in text."""
    assert _answer(tools=TOOLS, tool_choice="auto").choices[0].tool_name is None


def test_a_schema_is_answered_with_fitting_json() -> None:
    """Structured output can be parsed by the client's own model."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"enum": ["a", "b"]},
            "size": {"type": ["integer", "null"]},
            "ok": {"type": "boolean"},
            "parts": {"type": "array", "items": {"anyOf": [{"type": "number"}]}},
            "none": {"type": "null"},
            "fixed": {"const": 7},
        },
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    (choice,) = _answer(response_format=wanted).choices
    assert msgspec.json.decode("".join(choice.pieces)) == {
        "name": "simulated",
        "kind": "a",
        "size": 1,
        "ok": True,
        "parts": [1],
        "none": None,
        "fixed": 7,
    }
    (choice,) = _answer(response_format=wanted, max_tokens=3).choices
    assert (choice.tokens, choice.finish_reason) == (3, "length")
    (choice,) = _answer(response_format={"type": "json_object"}).choices
    assert "".join(choice.pieces) == "{}"


def test_a_schema_that_contains_itself_ends() -> None:
    """A deep schema gives a bounded example."""
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    for _ in range(100):
        schema = {"type": "object", "properties": {"inner": schema}}
    assert len(str(example(schema))) < 500
    assert example({"type": "array"}) == []
    assert example("nonsense") is None
