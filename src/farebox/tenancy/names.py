"""What things may be called: names that people type, read in tables and paste into commands."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from farebox.kit.errors import InvalidInputError

NAME_LENGTH_MAX: Final = 200
"""Longer names fit neither a table nor a document."""

EMAIL_LENGTH_MAX: Final = 254
"""The longest address that mail can be sent to (RFC 5321)."""

SENTENCE_LENGTH_MAX: Final = 500
"""A purpose or a reason; documents are kept elsewhere."""

_EMAIL: Final = re.compile(r"[^\s@]+@[^\s@]+")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ID_LIKE: Final = re.compile(r"[a-z]+_[0-9a-f]{32}")

# Control, surrogate, private-use, unassigned, line and paragraph separators; also the marks that
# turn the direction of what follows, with which a name could pose as another.
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_DIRECTION_MARKS: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def parse_name(text: str, *, field: str = "name") -> str:
    """Read the name of an organisation, project or key: the text without outer spaces, composed.

    Raises:
        InvalidInputError: It is empty, longer than :data:`NAME_LENGTH_MAX` characters, has
            characters that cannot be seen, or looks like an id, which would make it ambiguous.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not name:
        raise InvalidInputError(field, "must not be empty")
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidInputError(field, f"must have at most {NAME_LENGTH_MAX} characters")
    for character in name:
        if unicodedata.category(character) in _FORBIDDEN or character in _DIRECTION_MARKS:
            raise InvalidInputError(
                field, f"must not hold the invisible character U+{ord(character):04X}"
            )
    if not any(unicodedata.category(character)[0] in "LNPS" for character in name):
        raise InvalidInputError(field, "must have a visible character")
    if _ID_LIKE.fullmatch(name):
        raise InvalidInputError(field, "must not look like an id")
    return name


def parse_identifier(text: str, *, field: str = "name") -> str:
    """Read the name of a provider or an account, which also stands in logs and file names.

    Raises:
        InvalidInputError: It is not 1 to 63 letters, digits, dots, dashes and underscores.
    """
    stripped = text.strip()
    if not _IDENTIFIER.fullmatch(stripped):
        raise InvalidInputError(
            field,
            "must be 1 to 63 letters, digits, dots, dashes or underscores,"
            f" beginning with a letter or digit (got {stripped[:40]!r})",
        )
    return stripped


def parse_environment(text: str, *, field: str = "environment") -> str:
    """Read the name of an environment such as ``production``; see :func:`parse_identifier`."""
    return parse_identifier(text, field=field).lower()


def parse_email(text: str, *, field: str = "email") -> str:
    """Read an e-mail address, as it was written: it is compared without regard to case.

    Raises:
        InvalidInputError: It is none.
    """
    address = text.strip()
    plain = address.isprintable() and _EMAIL.fullmatch(address)
    if not plain or len(address) > EMAIL_LENGTH_MAX:
        raise InvalidInputError(field, "must be an address such as ada@example.org")
    return address


def parse_sentence(text: str, *, field: str) -> str:
    """Read a line of text that may be empty: a purpose, an owner, a reason.

    Raises:
        InvalidInputError: It is longer than :data:`SENTENCE_LENGTH_MAX` characters, or has
            characters that cannot be seen.
    """
    sentence = unicodedata.normalize("NFC", text.strip())
    if len(sentence) > SENTENCE_LENGTH_MAX or not sentence.isprintable():
        raise InvalidInputError(
            field, f"must have at most {SENTENCE_LENGTH_MAX} characters, on one line"
        )
    return sentence
