"""Settings of alerts: what can be meant."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.advice.anomalies import PROJECTS_MAX, AlertSettings, checked_settings
from farebox.kit.errors import InvalidInputError
from farebox.kit.money import AMOUNT_NANOS_MAX, Nanos

GOOD: list[dict[str, Any]] = [
    {},
    {"repeats_per_minute": 6, "user_calls_min": 30, "run_calls_min": 3},
    {"hour_minimum": Nanos(0), "day_minimum": AMOUNT_NANOS_MAX},
]
BAD: list[tuple[str, Any]] = [
    ("spending_times_percent", 100),
    ("run_times_percent", 100_001),
    ("user_times_percent", 0),
    ("run_calls_min", 2),
    ("run_calls_min", 31),
    ("user_calls_min", 29),
    ("repeats_per_minute", 5),
    ("hour_minimum", Nanos(-1)),
    ("day_minimum", Nanos(AMOUNT_NANOS_MAX + 1)),
    ("stop_repeats_projects", (UUID(int=1),) * (PROJECTS_MAX + 1)),
]


@pytest.mark.parametrize("changes", GOOD)
def test_settings_that_can_be_meant(changes: dict[str, Any]) -> None:
    """The defaults among them."""
    settings = structs.replace(AlertSettings(), **changes)
    assert checked_settings(settings) == settings


@pytest.mark.parametrize(("field", "value"), BAD)
def test_settings_that_cannot_be_meant(field: str, value: object) -> None:
    """The error names the field and the span."""
    with pytest.raises(InvalidInputError) as caught:
        checked_settings(structs.replace(AlertSettings(), **{field: value}))
    assert caught.value.field == field


def test_a_project_may_stop_where_others_only_tell() -> None:
    """ANO-01: stopping is a setting of the organisation, or of single projects."""
    mine, other = UUID(int=1), UUID(int=2)
    assert not AlertSettings().stops(mine)
    some = AlertSettings(stop_repeats_projects=(mine,))
    assert (some.stops(mine), some.stops(other)) == (True, False)
    assert AlertSettings(stop_repeats=True).stops(other)
