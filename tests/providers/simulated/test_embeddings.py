"""Simulated embeddings."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import msgspec
import pytest

from farebox.providers.simulated.embeddings import count_inputs, embed
from farebox.providers.simulated.models import MODELS
from farebox.providers.simulated.requests import parse_embeddings


def _vectors(**fields: Any) -> list[Any]:
    body = msgspec.json.encode({"model": "text-embedding-3-small", "input": "hi"} | fields)
    data = msgspec.json.encode(embed(parse_embeddings(body, MODELS)))
    items = msgspec.json.decode(data)
    assert [item["index"] for item in items] == list(range(len(items)))
    assert {item["object"] for item in items} == {"embedding"}
    return [item["embedding"] for item in items]


def test_vectors_have_length_one_and_depend_on_the_input() -> None:
    """The same text has the same vector, another text another one."""
    (one, same, other) = _vectors(input=["a", "a", "b"])
    assert one == same
    assert one != other
    assert len(one) == 1536
    assert math.hypot(*one) == pytest.approx(1.0, abs=1e-3)
    assert _vectors(input="a", model="text-embedding-3-large")[0][:3] != one[:3]


def test_both_encodings_hold_the_same_numbers() -> None:
    """Base64 is the little-endian floats that the numbers are."""
    (numbers,) = _vectors(dimensions=256)
    (packed,) = _vectors(dimensions=256, encoding_format="base64")
    assert list(struct.unpack("<256f", base64.b64decode(packed))) == pytest.approx(numbers)


def test_inputs_are_counted() -> None:
    """Text is counted, tokens count as many as they are."""
    body = b'{"model":"text-embedding-3-small","input":["abc",[1,2,3,4]]}'
    assert count_inputs(parse_embeddings(body, MODELS), len) == 7
