"""Simulated embeddings: vectors of length one that depend on the input alone."""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from farebox.providers.simulated.requests import EmbeddingsRequest


def count_inputs(wanted: EmbeddingsRequest, count_tokens: Callable[[str], int]) -> int:
    """The tokens of all inputs; one given as tokens counts as many."""
    return sum(count_tokens(one) if isinstance(one, str) else len(one) for one in wanted.inputs)


def embed(wanted: EmbeddingsRequest) -> list[dict[str, Any]]:
    """The ``data`` of an embeddings answer, as numbers or as base64 of little-endian floats."""
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(one, wanted.model, wanted.dimensions, base64=wanted.base64),
        }
        for index, one in enumerate(wanted.inputs)
    ]


def _encoded(one: str | list[int], model: str, dimensions: int, *, base64: bool) -> object:
    data = one.encode() if isinstance(one, str) else msgspec.json.encode(one)
    source = hashlib.blake2b(data, person=b"embedding", key=model.encode()[:64]).digest()
    vector = _vector(source, dimensions)
    return _base64(vector) if base64 else msgspec.Raw(_numbers(vector))


@lru_cache(maxsize=256)
def _vector(source: bytes, dimensions: int) -> bytes:
    """The vector as 32 bit floats of this machine."""
    raw = array("h", hashlib.shake_256(source).digest(2 * dimensions))
    if sys.byteorder == "big":
        raw.byteswap()
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return array("f", [value / norm for value in raw]).tobytes()


@lru_cache(maxsize=256)
def _numbers(vector: bytes) -> bytes:
    return msgspec.json.encode(array("f", vector).tolist())


def _base64(vector: bytes) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
