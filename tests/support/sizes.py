"""How much the long tests do: the size that was promised, or what the environment asks for."""

from __future__ import annotations

import os


def size(name: str, usual: int) -> int:
    """A count from the environment.

    Args:
        name: What it counts; ``FAREBOX_TEST_`` is put before it.
        usual: What it is where nobody says otherwise.
    """
    text = os.environ.get(f"FAREBOX_TEST_{name}", "")
    if not text:
        return usual
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"FAREBOX_TEST_{name} must be a whole number of 1 or more, not {text!r}")
    return int(text)
