"""Which models a project may call: an allow list of names and beginnings (ORG-17).

The same patterns as in limits: a name means itself, a beginning with ``*`` every name that begins
so. A refusal is no billing matter: the model is not allowed, whatever the balance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from farebox.kit.errors import InvalidInputError
from farebox.kit.patterns import PATTERN_LENGTH_MAX, is_pattern, matches

PATTERNS_MAX: Final = 200
"""A longer list is better written with beginnings."""


def parse_models(texts: Iterable[str], *, field: str = "allowed_models") -> tuple[str, ...]:
    """Read an allow list: without doubles, in the order given.

    Raises:
        InvalidInputError: Something is no pattern, or there are too many.
    """
    found: dict[str, None] = {}
    for text in texts:
        pattern = text.strip()
        if not is_pattern(pattern):
            raise InvalidInputError(
                field,
                "must be names such as gpt-5.4 or beginnings such as gpt-5*, without blanks, of at "
                f"most {PATTERN_LENGTH_MAX} characters (got {pattern[:40]!r})",
            )
        found[pattern] = None
    if len(found) > PATTERNS_MAX:
        raise InvalidInputError(field, f"must be at most {PATTERNS_MAX} patterns")
    return tuple(found)


def allows(patterns: Sequence[str] | None, model: str) -> bool:
    """Whether a list allows a model; None allows every one, an empty list none.

    >>> allows(("gpt-5*",), "gpt-5.4"), allows(("gpt-5",), "gpt-5.4"), allows(None, "any")
    (True, False, True)
    """
    if patterns is None:
        return True
    return any(matches(pattern, model) for pattern in patterns)
