"""Bodies: read once, forwarded as they came, and bounded by what they say."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway.bodies import CallBody, read_chat, read_embeddings
from farebox.gateway.openai_errors import GatewayError

HELLO = [{"role": "user", "content": "Say hello."}]


def chat(**fields: object) -> CallBody:
    """A chat body, read."""
    return read_chat(raw(**fields))


def raw(**fields: object) -> bytes:
    """A chat body as bytes."""
    return json.dumps({"model": "gpt-5.4", "messages": HELLO, **fields}).encode()


def complaint(body: bytes) -> GatewayError:
    """The error that a body raises."""
    with pytest.raises(GatewayError) as caught:
        read_chat(body)
    return caught.value


def test_what_is_read() -> None:
    """Every field that the gateway needs is found; the rest is only carried."""
    body = chat(
        stream=True,
        stream_options={"include_usage": True, "x": 1},
        service_tier="flex",
        user="u",
        metadata={"a": "b", "n": 5},
        n=3,
        max_completion_tokens=40,
        tools=[{"type": "function"}, {"type": "custom"}],
        prediction={"type": "content", "content": "abc"},
        modalities=["text", "audio"],
        temperature=0.5,
    )
    assert (body.model, body.stream, body.include_usage) == ("gpt-5.4", True, True)
    assert (body.service_tier, body.user, body.metadata) == ("flex", "u", {"a": "b"})
    facts = body.facts
    assert (facts.choices, facts.output_limit, facts.tools) == (3, 40, 2)
    assert facts.predicted_bytes == len('{"type": "content", "content": "abc"}')
    assert facts.audio_output
    assert body.forced_stream_options() == {"include_usage": True, "x": 1}


@pytest.mark.parametrize(
    ("fields", "choices"),
    [({}, 1), ({"n": 2}, 2), ({"best_of": 5}, 5), ({"n": 2, "best_of": 5}, 5), ({"n": None}, 1)],
    ids=str,
)
def test_choices(fields: dict[str, object], choices: int) -> None:
    """ENGINE.md, "Ceilings": as many answers are held as may be generated."""
    assert chat(**fields).facts.choices == choices


def test_the_body_goes_on_as_it_came() -> None:
    """Values are forwarded byte for byte, numbers and spaces included; changes replace fields."""
    body = read_chat(
        b'{ "model" : "gpt-5.4" , "temperature": 0.10, "seed": 123456789012345678901234567890,'
        b'"messages": [ {"role":"user","content":"caf\\u00e9"} ], "x": {"y" :[ 1.0 ]} }'
    )
    out = body.encode({"model": "other", "max_completion_tokens": 5, "x": None})
    assert b'"temperature":0.10' in out
    assert b"123456789012345678901234567890" in out
    assert json.loads(out) == {
        "model": "other",
        "temperature": 0.10,
        "seed": 123456789012345678901234567890,
        "messages": [{"role": "user", "content": "caf\u00e9"}],
        "max_completion_tokens": 5,
    }


def test_plain_messages_are_not_written_again() -> None:
    """Where all is text the messages' own bytes go up, whatever is in the text."""
    text = 'say "content": [1] and \\ "type": "image_url"'
    messages = b'[ {"role": "user",  "content": %b} ]' % json.dumps(text).encode()
    body = read_chat(b'{"model":"gpt-5.4","messages":%b}' % messages)
    assert bytes(body.fields["messages"]) == messages
    assert not body.facts.unbounded


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        [
            *("model", "messages", "stream", "n", "tools", "user", "metadata", "modalities"),
            *("stream_options", "prediction", "max_tokens", "service_tier", "web_search_options"),
            *("prompt_cache_options", "safety_identifier", "models", "functions", "best_of"),
        ]
    ),
)
def test_no_value_of_a_field_is_a_fault_of_ours(value: Any, name: str) -> None:
    """Any JSON value in any field is taken or refused with a GatewayError, never anything else."""
    document = {"model": "gpt-5.4", "messages": HELLO, "stream": True, name: value}
    with suppress(GatewayError):
        body = read_chat(json.dumps(document).encode())
        assert isinstance(body.encode({}), bytes)
        body.forced_stream_options()


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_are_a_fault_of_ours(data: bytes) -> None:
    """Any bytes at all are refused with a sentence, in both endpoints."""
    for read in (read_chat, read_embeddings):
        with pytest.raises(GatewayError) as caught:
            read(data)
        assert caught.value.status == 400


def test_of_a_repeated_key_the_last_counts_everywhere() -> None:
    """The bound and what goes upstream cannot mean different values."""
    body = read_chat(b'{"n":9,"model":"a","messages":[{}],"model":"b","\\u006e":2,"stream":false}')
    assert (body.model, body.facts.choices) == ("b", 2)
    assert json.loads(body.encode({})) == {
        "n": 2,
        "model": "b",
        "messages": [{}],
        "stream": False,
    }


@pytest.mark.parametrize(
    "options",
    [b'{"ttl":"12h"}', b'{"ttl":"1\\u0032h"}', b'{"a":{"b":["12h"]}}', b'{"ttl":"9","ttl":"12h"}'],
)
def test_a_longer_cache_is_seen(options: bytes) -> None:
    """However it is written, a longer cache retention is held at its price."""
    document = b'{"model":"a","messages":[{}],"prompt_cache_options":%b}' % options
    assert read_chat(document).facts.long_cache_writes
    assert not chat(prompt_cache_options={"ttl": "30m"}).facts.long_cache_writes


def test_the_bytes_bound_the_text() -> None:
    """The whole body is in the bound: every part of it may enter the prompt."""
    plain = raw()
    assert read_chat(plain).facts.text_bytes == len(plain)
    messages = [{"role": "user", "content": [{"type": "text", "text": "\u00e9", "x": 1e22}]}]
    data = json.dumps({"model": "m", "messages": messages}).encode()
    assert read_chat(data).facts.text_bytes >= len(data)


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("x", 1),
        ([1, 2, 3], 1),
        (["x", "y"], 2),
        ([[1], [2], [3]], 3),
        ([1, [2], "x"], 2),
        ({}, 1),
        (None, 1),
    ],
    ids=str,
)
def test_embeddings_inputs_are_counted(value: object, inputs: int) -> None:
    """One flat list of tokens is one input; of anything else each entry is one."""
    body = read_embeddings(json.dumps({"model": "m", "input": value}).encode())
    assert body.facts.messages == inputs
    assert body.facts.embeddings


def test_deep_values_that_nobody_reads() -> None:
    """What is not read may be as deep as JSON readers can take, and goes on as it is."""
    deep = b"[" * 300 + b"]" * 300
    body = read_chat(b'{"model":"m","messages":[{}],"x":%b}' % deep)
    assert body.encode({}).endswith(deep + b"}")
    error = complaint(b'{"model":"m","messages":[{}],"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    assert "nested too deeply" in error.message


def test_numbers_out_of_range() -> None:
    """A number that no reader can hold is refused where it is read, and carried where it is not."""
    assert chat().fields.keys() == {"model", "messages"}
    body = read_chat(b'{"model":"m","messages":[{}],"temperature":1e400}')
    assert isinstance(body.fields["temperature"], msgspec.Raw)
    assert complaint(b'{"model":"m","messages":[{}],"n":1e400}').param == "n"
