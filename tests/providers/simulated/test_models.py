"""Which models there are and how they cache."""

from __future__ import annotations

import pytest

from farebox.providers.simulated.models import (
    MODELS,
    caches_at_breakpoints,
    keeps_cache_for_a_day,
    without_date,
)


def test_a_dated_snapshot_belongs_to_its_model() -> None:
    """A date at the end is taken off; other names stay."""
    assert without_date("gpt-4o-2024-08-06") == "gpt-4o"
    assert without_date("gpt-4o-mini") == "gpt-4o-mini"
    assert {without_date(model) for model in MODELS} == MODELS


@pytest.mark.parametrize(
    ("model", "breakpoints", "day"),
    [
        ("gpt-5.6-sol", True, False),
        ("gpt-6-luna", True, False),
        ("gpt-6.1-sol-2026-11-01", True, False),
        ("gpt-5.5-pro", False, True),
        ("gpt-5.4", False, True),
        ("gpt-5", False, True),
        ("gpt-4.1-mini", False, True),
        ("gpt-4o", False, False),
        ("o3", False, False),
    ],
)
def test_the_generations_of_the_prompt_cache(model: str, breakpoints: bool, day: bool) -> None:
    """GPT-5.6 and later cache at breakpoints; of the older ones some keep a prefix for a day."""
    assert caches_at_breakpoints(model) is breakpoints
    assert keeps_cache_for_a_day(model) is day
