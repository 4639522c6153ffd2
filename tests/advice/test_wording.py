"""How the doctor writes; the examples in this room's docstrings are true."""

from __future__ import annotations

import doctest
import shlex
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.advice import complaints, error_codes, wording


@pytest.mark.parametrize("module", [wording, complaints, error_codes])
def test_examples_are_true(module: object) -> None:
    """An example in a docstring gives what it says."""
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=50))
def test_a_name_is_one_word_of_a_command(name: str) -> None:
    """A command that is copied names the very organisation, whatever it is called."""
    assert shlex.split(f"x {wording.quoted(name)}") == ["x", name]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second ago"), (119, "119 seconds ago"), (120, "2 minutes ago"),
     (7_199, "119 minutes ago"), (7_200, "2 hours ago"), (172_799, "47 hours ago"),
     (172_800, "2 days ago"), (-5, "now")],
)  # fmt: skip
def test_ages_are_short(seconds: int, text: str) -> None:
    """Every figure has its age, in the unit that fits."""
    assert wording.ago(timedelta(seconds=seconds)) == text
