"""How answers are written down."""

from __future__ import annotations

from typing import Any

import msgspec

from farebox.providers.simulated.answers import Answer, Choice, text_pieces
from farebox.providers.simulated.bodies import DONE, Event, Head, events, json_body
from farebox.providers.simulated.chance import digest, draws

HEAD = Head(id="chatcmpl-1", created=1_790_000_000, model="gpt-5.4", service_tier="default")
USAGE: dict[str, object] = {"prompt_tokens": 1}
TEXT = Answer(
    (Choice(text_pieces(20), 20, "stop"), Choice(text_pieces(7), 7, "length")), reasoning_tokens=0
)
CALL = Answer((Choice(('{"city":"x"}',), 11, "tool_calls", "get_weather"),), reasoning_tokens=0)


def _events(answer: Answer, usage: dict[str, object] | None, *, ask: bool) -> list[Event]:
    return list(events(HEAD, answer, usage, draws(digest(0, "test", b"")), ask=ask))


def _read(events: list[Event]) -> list[dict[str, Any]]:
    assert events[-1].data == DONE
    texts = [event.data.decode() for event in events[:-1]]
    assert all(text.startswith("data: ") and text.endswith("\n\n") for text in texts)
    return [msgspec.json.decode(text.removeprefix("data: ")) for text in texts]


def test_the_json_body() -> None:
    """Every choice stands in its place with the fields that clients read."""
    body = msgspec.json.decode(json_body(HEAD, TEXT, USAGE))
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "usage"),
        *("service_tier", "system_fingerprint"),
    ]
    assert body["object"] == "chat.completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][1]["finish_reason"] == "length"
    message = body["choices"][0]["message"]
    assert message["content"] == "".join(TEXT.choices[0].pieces)
    assert (message["role"], message["refusal"]) == ("assistant", None)
    assert "usage" not in msgspec.json.decode(json_body(HEAD, TEXT, None))


def test_a_tool_call_in_the_body() -> None:
    """A call has no content, and its arguments are JSON text."""
    message = msgspec.json.decode(json_body(HEAD, CALL, USAGE))["choices"][0]["message"]
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"x"}'}


def test_a_stream_says_what_the_body_says() -> None:
    """Role first, then a token or a few at a time, then the reasons: together the same text."""
    chunks = _read(_events(TEXT, None, ask=False))
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)
    for index, choice in enumerate(TEXT.choices):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in own) == "".join(choice.pieces)
        assert [c["finish_reason"] for c in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == choice.finish_reason
        assert own[-1]["delta"] == {}


def test_usage_comes_last_and_only_when_asked() -> None:
    """Asked for, usage is one more chunk without choices, and null on all the others."""
    chunks = _read(_events(TEXT, USAGE, ask=True))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    silent = _read(_events(TEXT, None, ask=True))  # ordered: no usage
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in silent)


def test_a_streamed_tool_call() -> None:
    """The name comes first, the arguments after it."""
    chunks = _read(_events(CALL, None, ask=False))
    (first,) = chunks[0]["choices"][0]["delta"]["tool_calls"]
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    pieces = [
        call["function"]["arguments"]
        for chunk in chunks[1:]
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert "".join(pieces) == '{"city":"x"}'


def test_events_bring_all_the_tokens() -> None:
    """What the events bring adds up to the completion, whatever the text shows of it."""
    long = Answer((Choice(text_pieces(5), 5000, "stop"),), reasoning_tokens=0)
    short = Answer((Choice(text_pieces(5), 2, "stop"),), reasoning_tokens=0)
    for answer in (TEXT, CALL, long, short):
        brought = sum(event.tokens for event in _events(answer, None, ask=False))
        assert brought == answer.completion_tokens
