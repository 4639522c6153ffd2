"""Reading requests with the provider's complaints."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from farebox.providers.simulated.failures import ProviderFailure
from farebox.providers.simulated.models import MODELS
from farebox.providers.simulated.requests import (
    ChatRequest,
    EmbeddingsRequest,
    parse_chat,
    parse_embeddings,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def _chat(**fields: Any) -> ChatRequest:
    body = msgspec.json.encode({"model": "gpt-5.4", "messages": MESSAGES} | fields)
    return parse_chat(body, MODELS)


def _embeddings(**fields: Any) -> EmbeddingsRequest:
    body = msgspec.json.encode({"model": "text-embedding-3-small", "input": "hi"} | fields)
    return parse_embeddings(body, MODELS)


def test_the_least_a_chat_needs() -> None:
    """Model and messages are enough; everything else has the provider's default."""
    chat = _chat()
    assert (chat.stream, chat.include_usage, chat.choices) == (False, False, 1)
    assert (chat.tokens_max, chat.stops, chat.service_tier) == (None, (), "default")
    assert (chat.tool, chat.schema) == (None, None)


def test_a_dated_snapshot_exists() -> None:
    """The name is kept as the client wrote it."""
    assert _chat(model="gpt-5.4-2026-03-05").model == "gpt-5.4-2026-03-05"


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (None, "default"),
        ("auto", "default"),
        ("default", "default"),
        ("flex", "flex"),
        ("fast", "priority"),
        ("priority", "priority"),
    ],
)
def test_the_tier_that_serves(asked: str | None, served: str) -> None:
    """The answer reports the tier that served: ``fast`` is always ``priority``."""
    assert _chat(service_tier=asked).service_tier == served


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": ""}, 400, "model", "missing_required_parameter"),
        ({"model": 3}, 400, "model", "invalid_type"),
        ({"model": "gpt-0"}, 404, None, "model_not_found"),
        ({"model": "text-embedding-3-small"}, 404, "model", None),
        ({"messages": None}, 400, "messages", "missing_required_parameter"),
        ({"messages": []}, 400, "messages", "empty_array"),
        ({"messages": "hi"}, 400, "messages", "invalid_type"),
        ({"messages": ["hi"]}, 400, "messages[0]", "invalid_type"),
        ({"messages": [*MESSAGES, {"role": "king"}]}, 400, "messages[1].role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            400,
            "messages[0].content",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "user", "content": ["hi"]}]},
            400,
            "messages[0].content",
            "invalid_type",
        ),
        ({"n": 0}, 400, "n", "integer_below_min_value"),
        ({"n": 129}, 400, "n", "integer_above_max_value"),
        ({"n": True}, 400, "n", "invalid_type"),
        ({"max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 2.5}, 400, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": "9"}, 400, "max_completion_tokens", "invalid_type"),
        ({"stream": "yes"}, 400, "stream", "invalid_type"),
        ({"stream_options": []}, 400, "stream_options", "invalid_type"),
        ({"stop": [1]}, 400, "stop", "invalid_type"),
        ({"stop": ["a"] * 5}, 400, "stop", "invalid_value"),
        ({"service_tier": "ultrafast"}, 400, "service_tier", "invalid_value"),
        ({"service_tier": []}, 400, "service_tier", "invalid_value"),
        ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
        ({"tool_choice": {"function": {"name": "x"}}}, 400, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "poem"}}, 400, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            400,
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
    ],
)
def test_what_a_chat_is_refused_for(
    fields: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    """Each fault is answered with the provider's status, parameter and code."""
    with pytest.raises(ProviderFailure) as refused:
        _chat(**fields)
    error = msgspec.json.decode(refused.value.body)["error"]
    assert (refused.value.status, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """Broken JSON, and JSON that would exhaust the stack, is a plain 400."""
    with pytest.raises(ProviderFailure, match="could not parse") as refused:
        parse_chat(body, MODELS)
    assert refused.value.status == 400


def test_embeddings() -> None:
    """Inputs may be text or tokens, one or several; the length of the vectors can be chosen."""
    assert _embeddings().inputs == ["hi"]
    assert _embeddings(input=["a", "b"]).inputs == ["a", "b"]
    assert _embeddings(input=[1, 2, 3]).inputs == [[1, 2, 3]]
    assert _embeddings(input=[[1], [2]]).inputs == [[1], [2]]
    assert _embeddings().dimensions == 1536
    small = _embeddings(model="text-embedding-3-large", dimensions=8, encoding_format="base64")
    assert (small.dimensions, small.base64) == (8, True)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-5.4"}, 403, "model"),
        ({"input": None}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": {}}, 400, "input"),
        ({"input": ["a", [1]] * 1025}, 400, "input"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"dimensions": 1537}, 400, "dimensions"),
        ({"model": "text-embedding-ada-002", "dimensions": 8}, 400, "dimensions"),
    ],
)
def test_what_embeddings_are_refused_for(fields: dict[str, Any], status: int, param: str) -> None:
    """Each fault names its parameter."""
    with pytest.raises(ProviderFailure) as refused:
        _embeddings(**fields)
    error = msgspec.json.decode(refused.value.body)["error"]
    assert (refused.value.status, error["param"]) == (status, param)
