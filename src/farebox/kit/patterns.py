"""Patterns of names: a name means itself, a beginning with ``*`` every name that begins so."""

from __future__ import annotations

from typing import Final

PATTERN_LENGTH_MAX: Final = 256
"""No model has a longer name."""


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a name.

    >>> matches("gpt-5*", "gpt-5.4"), matches("gpt-5", "gpt-5.4"), matches("*", "any")
    (True, False, True)
    """
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return name == pattern


def is_pattern(text: str) -> bool:
    """Tell whether a text can be a pattern: no blanks, and ``*`` at its end alone.

    >>> is_pattern("gpt-5*"), is_pattern("*-mini"), is_pattern("")
    (True, False, False)
    """
    plain = text.removesuffix("*")
    return (
        0 < len(text) <= PATTERN_LENGTH_MAX
        and "*" not in plain
        and text.isprintable()
        and " " not in text
    )
