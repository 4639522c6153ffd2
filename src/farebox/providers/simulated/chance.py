"""Chance that can be replayed: every draw follows from a seed and what it is drawn for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MASK: Final = 2**64 - 1
# Knuth's MMIX generator: the upper half of its state is even enough for cutting streams.
_MULTIPLIER: Final = 6364136223846793005
_INCREMENT: Final = 1442695040888963407


def digest(seed: int, purpose: str, data: bytes) -> bytes:
    """32 bytes that depend on nothing but the arguments."""
    key = (seed & _MASK).to_bytes(8, "big")
    return hashlib.blake2b(data, digest_size=32, key=key, person=purpose.encode()[:16]).digest()


def draws(start: bytes) -> Iterator[int]:
    """Endless whole numbers of 32 bits, from at least 8 bytes of a digest."""
    state = int.from_bytes(start[:8], "big")
    while True:
        state = (state * _MULTIPLIER + _INCREMENT) & _MASK
        yield state >> 32
