"""Patterns of names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.kit.patterns import PATTERN_LENGTH_MAX, is_pattern, matches


@settings(deadline=None)
@given(st.text(alphabet="ab*-", max_size=6), st.text(alphabet="ab-", max_size=6))
def test_a_pattern_means_itself_or_what_begins_so(pattern: str, name: str) -> None:
    """ORG-17: exact, or a beginning with a star; a star elsewhere means nothing special."""
    if pattern.endswith("*"):
        assert matches(pattern, name) == (name[: len(pattern) - 1] == pattern[:-1])
    else:
        assert matches(pattern, name) == (name == pattern)


@pytest.mark.parametrize("text", ["", "a b", "a*b", "**", "a\n", "x" * (PATTERN_LENGTH_MAX + 1)])
def test_what_is_no_pattern(text: str) -> None:
    """Blanks, stars before the end, nothing at all, and too much."""
    assert not is_pattern(text)
    assert is_pattern("gpt-5*")
    assert is_pattern("*")
