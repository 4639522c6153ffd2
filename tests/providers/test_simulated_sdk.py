"""The simulated provider as the official OpenAI client sees it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.mock_upstream import running_mock_upstream


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """The official client; it believes it talks to its maker."""
    with (
        running_mock_upstream() as base_url,
        openai.OpenAI(base_url=base_url, api_key="sk-x", max_retries=0) as client,
    ):
        yield client


def test_a_completion(client: openai.OpenAI) -> None:
    """The client's own types accept the answer."""
    answer = client.chat.completions.create(
        model="gpt-5.4", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=9
    )
    assert answer.choices[0].message.content == "This is a simulated answer from the sandbox."
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.service_tier == "default"
    assert answer.choices[0].finish_reason == "length"


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    """The client puts the stream together and finds the usage in the last chunk."""
    stream = client.chat.completions.create(
        model="gpt-5.4",
        messages=[{"role": "user", "content": "hi"}],
        max_completion_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "This is a simulated answer from the sandbox."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9


def test_a_tool_call(client: openai.OpenAI) -> None:
    """A forced function arrives as a call with arguments."""
    parameters: dict[str, object] = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
    }
    answer = client.chat.completions.create(
        model="gpt-5.4",
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        tool_choice="required",
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert answer.choices[0].finish_reason == "tool_calls"


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself and unpacks it."""
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [len(item.embedding) for item in answer.data] == [1536, 1536]
    assert answer.usage.total_tokens == 2


def test_the_models(client: openai.OpenAI) -> None:
    """The list of models is a list of models."""
    assert "gpt-5.4" in {model.id for model in client.models.list()}


def test_refusals_are_the_clients_own_errors(client: openai.OpenAI) -> None:
    """An unknown model and an ordered rate limit raise what they raise at OpenAI."""
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-0", messages=[{"role": "user", "content": "hi"}])
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(
            model="gpt-5.4",
            messages=[{"role": "user", "content": "hi"}],
            extra_headers={"X-Sandbox-Fault": "status=429"},
        )
    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.request_id is not None


def test_a_broken_stream_is_an_error_for_the_client(client: openai.OpenAI) -> None:
    """A stream that breaks does not look like one that ended."""
    stream = client.chat.completions.create(
        model="gpt-5.4",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        extra_headers={"X-Sandbox-Fault": "drop_after=3"},
    )
    with pytest.raises(Exception, match=r"(?i)incomplete|peer closed|connection"):
        list(stream)
