"""What the headers of a call name: all within their limits, or refused by the header's name."""

from __future__ import annotations

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.operations.attribution import (
    HEADERS,
    LABEL_CHARACTERS_MAX,
    NAMELESS,
    TAGS_MAX,
    Names,
    read_names,
    read_tags,
)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", {}),
        (" , ,", {}),
        ("a=b", {"a": "b"}),
        (" a = b , c=", {"a": "b", "c": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1,a=2", {"a": "2"}),
        ("a=b;c", {"a": "b;c"}),
    ],
)
def test_tags(text: str, tags: dict[str, str]) -> None:
    """``k=v,k=v`` with blanks wherever people put them."""
    assert read_tags(text) == tags


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=b",
        ",a",
        "a=" + "x" * 300,
        "a=" + "x" * 5_000,
        ",".join(f"k{number}=v" for number in range(TAGS_MAX + 1)),
    ],
)
def test_tags_that_are_none(text: str) -> None:
    """A malformed or endless header is refused by its name."""
    with pytest.raises(InvalidInputError) as caught:
        read_tags(text)
    assert caught.value.field == "X-Farebox-Tags"


def test_every_header_that_names_a_scope_is_read() -> None:
    """ATT-01: each by its name; the same tags in another order name the same."""
    values = ("ada", "chat", "test", "crawl/page", "b=2,a=1")
    headers = {name.lower(): text for name, text in zip(HEADERS, values, strict=True)}
    expected = Names(
        user="ada",
        feature="chat",
        environment="test",
        run="crawl/page",
        tags=(("a", "1"), ("b", "2")),
    )
    assert read_names(headers) == expected
    assert read_names(headers | {"x-farebox-tags": "a=1, b=2"}) == expected
    assert read_names({"x-farebox-user": " ", "x-other": "y"}) == NAMELESS


@pytest.mark.parametrize("header", [name for name in HEADERS if name != "X-Farebox-Tags"])
def test_a_name_that_is_too_long_is_refused(header: str) -> None:
    """The message names the header, its length and the limit."""
    with pytest.raises(InvalidInputError, match="has 201 characters; send at most 200") as caught:
        read_names({header.lower(): "x" * (LABEL_CHARACTERS_MAX + 1)})
    assert caught.value.field == header
