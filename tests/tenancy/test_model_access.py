"""Which models a project may call."""

from __future__ import annotations

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.tenancy.model_access import PATTERNS_MAX, allows, parse_models


def test_a_list_allows_what_it_names() -> None:
    """ORG-17: nothing set allows every model, an empty list none."""
    assert allows(None, "anything")
    assert not allows((), "anything")
    patterns = parse_models([" gpt-5* ", "gpt-4o", "gpt-4o"])
    assert patterns == ("gpt-5*", "gpt-4o")
    for model, allowed in (
        ("gpt-5.4-mini", True),
        ("gpt-4o", True),
        ("gpt-4o-mini", False),
        ("GPT-5.4", False),
        ("", False),
    ):
        assert allows(patterns, model) is allowed, model


@pytest.mark.parametrize(
    "texts", [[""], ["a b"], ["*a"], ["x" * 300], [str(n) for n in range(PATTERNS_MAX + 1)]]
)
def test_a_wrong_list_is_named(texts: list[str]) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInputError) as caught:
        parse_models(texts)
    assert caught.value.field == "allowed_models"
