"""The text of an API key: made from 256 random bits, shown once, kept as a digest.

The secret has full entropy, so a plain SHA-256 is as safe as a slow hash and costs the hot path a
microsecond. The alphabet leaves out the four characters that are easily taken for others, and has
no sign that would end a word, so a key is copied whole or not at all.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

SECRET_BYTES: Final = 32
"""Random bytes that one key takes."""

KEY_LENGTH_MAX: Final = 128
"""A longer text is no key and is not looked at."""

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS: Final = frozenset(_ALPHABET)
_SECRET_LENGTH: Final = 44  # 58 ** 44 > 2 ** 256
_SHOWN_OF_SECRET: Final = 4
_KEY: Final = re.compile(rf"fbx_(?P<kind>live|test|admin)_[{_ALPHABET}]{{{_SECRET_LENGTH}}}")


class KeyKind(StrEnum):
    """What a key opens; it can be read off the key's first letters."""

    LIVE = "live"
    """Calls that are charged with real credit."""
    TEST = "test"
    """Calls in a sandbox."""
    ADMIN = "admin"
    """The management API; never calls a model."""


class KeyState(StrEnum):
    """Whether a key opens anything, and if not, why; the first reason that holds."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    PROJECT_ARCHIVED = "project_archived"
    ORGANIZATION_INACTIVE = "organization_inactive"


def make_key(kind: KeyKind, secret: bytes) -> str:
    """Write a key.

    Args:
        kind: What it opens.
        secret: :data:`SECRET_BYTES` random bytes.
    """
    return f"fbx_{kind}_{secret_text(secret)}"


def secret_text(secret: bytes) -> str:
    """Write :data:`SECRET_BYTES` random bytes in letters and digits that are not mistaken."""
    assert len(secret) == SECRET_BYTES, len(secret)
    number = int.from_bytes(secret, "big")
    letters = []
    for _ in range(_SECRET_LENGTH):
        number, place = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(reversed(letters))


def is_secret_text(text: str) -> bool:
    """Tell whether a text may have been written by :func:`secret_text`."""
    return len(text) == _SECRET_LENGTH and set(text) <= _LETTERS


def looks_like_key(text: str) -> bool:
    """Tell whether the text has the form of a key; nothing else needs to be looked up."""
    return len(text) <= KEY_LENGTH_MAX and _KEY.fullmatch(text) is not None


def kind_of(text: str) -> KeyKind | None:
    """What a key says it opens; None for a text that is no key."""
    match = _KEY.fullmatch(text) if len(text) <= KEY_LENGTH_MAX else None
    return None if match is None else KeyKind(match["kind"])


def digest(text: str) -> bytes:
    """The SHA-256 under which a key is kept and found; 32 bytes, for any text at all."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def shown_prefix(text: str) -> str:
    """The beginning of a key that may be shown, enough to tell keys apart.

    >>> shown_prefix(make_key(KeyKind.LIVE, bytes(32)))
    'fbx_live_1111'
    """
    assert looks_like_key(text), "not a key"
    return text[: text.rindex("_") + 1 + _SHOWN_OF_SECRET]


def key_state(
    now: datetime,
    *,
    revoked_at: datetime | None,
    expires_at: datetime | None,
    project_archived_at: datetime | None,
    organization_active: bool,
) -> KeyState:
    """What a key is worth at an instant; each bound counts from its instant on."""
    if revoked_at is not None:
        return KeyState.REVOKED
    if expires_at is not None and expires_at <= now:
        return KeyState.EXPIRED
    if project_archived_at is not None and project_archived_at <= now:
        return KeyState.PROJECT_ARCHIVED
    return KeyState.ACTIVE if organization_active else KeyState.ORGANIZATION_INACTIVE
