"""What things may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.tenancy.names import (
    NAME_LENGTH_MAX,
    parse_environment,
    parse_identifier,
    parse_name,
)


@pytest.mark.parametrize("text", ["Acme", "Łódź & Söhne", "日本", "a" * NAME_LENGTH_MAX, "[red]x"])
def test_a_name_of_any_language_is_taken(text: str) -> None:
    """Names are for people, so any visible letters will do."""
    assert parse_name(f"  {text} ") == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("a" * (NAME_LENGTH_MAX + 1), "at most 200"),
        ("a\nb", "U+000A"),
        ("a\x00b", "U+0000"),
        ("a\x1b[31m", "U+001B"),
        ("evil\u202elive", "U+202E"),
        ("\ud800", "U+D800"),
        ("org_0192f3b4c5d6e7f8091a2b3c4d5e6f70", "look like an id"),
    ],
)
def test_a_name_that_would_mislead_is_refused(text: str, reason: str) -> None:
    """Nothing invisible, nothing that turns the text around, nothing that looks like an id."""
    with pytest.raises(InvalidInputError) as caught:
        parse_name(text, field="name")
    assert caught.value.field == "name"
    assert reason in caught.value.reason


@given(st.text(max_size=300))
def test_a_name_that_is_taken_is_taken_again_unchanged(text: str) -> None:
    """Reading a name twice gives the same name."""
    try:
        name = parse_name(text)
    except InvalidInputError:
        return
    assert parse_name(name) == name
    assert 0 < len(name) <= NAME_LENGTH_MAX


@pytest.mark.parametrize("text", ["openai", "local-1", "a.b_c", "9x"])
def test_an_identifier_is_a_word(text: str) -> None:
    """A provider's name stands in logs and in ``provider/model``, so it is one plain word."""
    assert parse_identifier(text) == text


@pytest.mark.parametrize("text", ["", "a/b", "a b", "-a", "ü", "a" * 64, "a\n"])
def test_other_identifiers_are_refused(text: str) -> None:
    """Everything else is refused, and the field named."""
    if text == "a\n":
        assert parse_identifier(text) == "a"
        return
    with pytest.raises(InvalidInputError, match="price_list"):
        parse_identifier(text, field="price_list")


def test_an_environment_has_one_spelling() -> None:
    """``Production`` and ``production`` are one environment."""
    assert parse_environment("Production") == "production"
