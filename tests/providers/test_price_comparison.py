"""Our table against the calculator of genai-prices, over every OpenAI model and lane."""

from __future__ import annotations

from functools import cache

import msgspec

from farebox.providers.price_catalogue import import_catalogue
from farebox.providers.price_comparison import (
    NO_LANE,
    NO_MODEL,
    NO_UNIT,
    UNEXPLAINED,
    USAGES,
    Difference,
    compare_openai,
)
from farebox.rating.price_book import PriceBook, PriceVersion
from farebox.rating.units import Lane, Unit


@cache
def versions() -> tuple[PriceVersion, ...]:
    """The imported versions."""
    return import_catalogue().versions


def compare(rows: list[PriceVersion]) -> list[Difference]:
    """The differences of a book of these rows."""
    return compare_openai(PriceBook(rows, [], revision=1))


def test_every_difference_has_its_reason() -> None:
    """DESIGN.md decision 9: our table agrees with theirs but where it refuses on purpose."""
    differences = compare(list(versions()))
    assert [each for each in differences if each.reason == UNEXPLAINED] == []
    assert {each.reason for each in differences} == {NO_LANE, NO_MODEL, NO_UNIT}
    # Where we do charge, the two never differ: every difference is a refusal of ours.
    assert {each.ours for each in differences} == {None}


def test_their_silent_fallback_is_seen() -> None:
    """Trap: a lane without a price, or before its first, costs the standard price there."""
    differences = compare(list(versions()))
    lanes = {(each.model, each.lane) for each in differences if each.reason == NO_LANE}
    assert ("gpt-5.4-nano", Lane.PRIORITY) in lanes
    assert ("gpt-5.4", Lane.BATCH) in lanes  # before 14 October 2026
    in_time = {
        (each.model, each.lane)
        for each in differences
        if each.reason == NO_LANE and each.at.isoformat() >= "2026-10-14"
    }
    assert ("gpt-5.4", Lane.BATCH) not in in_time


def test_audio_without_a_price_is_seen() -> None:
    """Trap: audio tokens of a model without an audio price cost what text does there."""
    audio = next(usage for usage in USAGES if usage.count(Unit.AUDIO_INPUT) == 500)
    found = {each.model for each in compare(list(versions())) if each.usage == audio}
    assert "gpt-4o-audio-preview" in found
    assert "gpt-audio" not in found


def faults(rows: list[PriceVersion]) -> set[tuple[str, Lane]]:
    """Where a comparison finds a fault."""
    return {(each.model, each.lane) for each in compare(rows) if each.reason == UNEXPLAINED}


def change(model: str, lane: Lane, **changes: object) -> list[PriceVersion]:
    """The imported rows with one of them changed."""
    return [
        msgspec.structs.replace(row, **changes)
        if (row.provider, row.model, row.lane) == ("openai", model, lane)
        else row
        for row in versions()
    ]


def test_a_wrong_price_is_found() -> None:
    """A single nano per token off in one lane is a fault of that lane alone."""
    (row,) = (
        each
        for each in versions()
        if (each.provider, each.model, each.lane) == ("openai", "gpt-5.4", Lane.FLEX)
    )
    wrong = tuple(
        (unit, price + 10**6 if unit is Unit.OUTPUT else price) for unit, price in row.base
    )
    assert faults(change("gpt-5.4", Lane.FLEX, base=wrong)) == {("gpt-5.4", Lane.FLEX)}


def test_a_wrong_threshold_is_found() -> None:
    """The long-context line one token off is a fault."""
    rows = change("gpt-5.4", Lane.STANDARD, long_context_over=272_001)
    assert faults(rows) == {("gpt-5.4", Lane.STANDARD)}


def test_a_lost_unit_is_found() -> None:
    """A price that the catalogue lists and the table lacks is a fault, not a refusal on purpose."""
    (row,) = (
        each
        for each in versions()
        if (each.provider, each.model, each.lane) == ("openai", "gpt-4", Lane.STANDARD)
    )
    without = tuple((unit, price) for unit, price in row.base if unit is not Unit.OUTPUT)
    assert faults(change("gpt-4", Lane.STANDARD, base=without)) == {("gpt-4", Lane.STANDARD)}


def test_a_lost_lane_is_found() -> None:
    """A lane that the catalogue lists and the table lacks is a fault."""
    rows = [
        row
        for row in versions()
        if (row.provider, row.model, row.lane) != ("openai", "gpt-5.4", Lane.PRIORITY)
    ]
    assert faults(rows) == {("gpt-5.4", Lane.PRIORITY)}
