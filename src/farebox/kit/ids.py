"""Identifiers: time-sortable UUIDs (version 7, RFC 9562) and the prefixed text that people see.

The time and the randomness come in as arguments, so the core stays pure and a simulation can
replay every id.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from farebox.kit.errors import InvalidInputError

RANDOM_BYTES: Final = 10
"""Random bytes that one id takes."""

PREFIXES: Final = frozenset(
    {
        *("org", "proj", "key", "req", "grant", "prov", "acct", "price", "user", "node", "cmd"),
        *("svc", "inv", "tier", "plan"),
    }
)
"""What an id may be of; ``req`` is a call (its text is the answer's ``x-request-id``)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_TEXT: Final = re.compile(r"(?:(?P<prefix>[a-z]+)_)?(?P<hex>[0-9a-f]{32})")


def uuid7(at: datetime, random: bytes) -> UUID:
    """Make a version 7 UUID: 48 bits of Unix milliseconds, then randomness.

    Args:
        at: The instant it carries; an aware datetime.
        random: :data:`RANDOM_BYTES` bytes.
    """
    assert len(random) == RANDOM_BYTES, len(random)
    return uuid7_from_millis((at - _EPOCH) // timedelta(milliseconds=1), random)


def uuid7_from_millis(unix_ms: int, random: bytes) -> UUID:
    """The same from Unix milliseconds; the hot path calls this one."""
    tail = int.from_bytes(random, "big")
    return UUID(
        int=(unix_ms & (2**48 - 1)) << 80
        | 0x7 << 76
        | (tail >> 68) << 64
        | 0b10 << 62
        | (tail & (2**62 - 1))
    )


def format_id(prefix: str, value: UUID) -> str:
    """Write an id as people see it, for example ``org_0192f...`` (32 hexadecimal digits)."""
    assert prefix in PREFIXES, prefix
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str, *, field: str) -> UUID:
    """Read an id, with or without its prefix.

    Raises:
        InvalidInputError: Not 32 hexadecimal digits, or the prefix of another kind of thing.
    """
    match = _TEXT.fullmatch(text.strip().lower().replace("-", ""))
    if match is None or match["prefix"] not in {None, prefix}:
        raise InvalidInputError(field, f"must look like {prefix}_ and 32 hexadecimal digits")
    return UUID(match["hex"])


def looks_like_id(prefix: str, text: str) -> bool:
    """Tell whether the text is an id of that kind rather than a name."""
    return text.startswith(f"{prefix}_") and _TEXT.fullmatch(text) is not None
