"""Units and lanes: the words that prices are keyed by."""

from __future__ import annotations

import pytest

from farebox.rating.units import (
    INPUT_UNITS,
    OUTPUT_UNITS,
    TOOL_UNITS,
    Lane,
    UnpricedError,
    allowed_lanes,
    served_lane,
)


def test_no_unit_belongs_to_two_directions() -> None:
    """A token is prompt or completion, never both, so that totals cannot count it twice."""
    assert not INPUT_UNITS & OUTPUT_UNITS
    assert not (INPUT_UNITS | OUTPUT_UNITS) & TOOL_UNITS


@pytest.mark.parametrize(
    ("tier", "lane"),
    [
        (None, Lane.STANDARD),
        ("default", Lane.STANDARD),
        ("standard", Lane.STANDARD),
        ("flex", Lane.FLEX),
        ("priority", Lane.PRIORITY),
        ("fast", Lane.PRIORITY),
        ("scale", None),
        ("ultrafast", None),
        ("Flex", None),
        ("", None),
    ],
)
def test_an_answer_is_priced_by_the_tier_that_served_it(
    tier: str | None, lane: Lane | None
) -> None:
    """DED-13: each known tier of an answer is one lane; an unknown one is no lane at all."""
    assert served_lane(tier) is lane


def test_a_request_without_a_tier_holds_the_standard_lane_alone() -> None:
    """ENGINE.md: a request that names no tier is sent as standard, so only that is held."""
    assert allowed_lanes(None) == (Lane.STANDARD,)
    assert allowed_lanes("default") == (Lane.STANDARD,)


def test_a_request_may_be_served_in_every_lane_that_it_allows() -> None:
    """A downgraded priority request is billed as standard; auto leaves the choice to others."""
    assert set(allowed_lanes("priority")) == {Lane.STANDARD, Lane.PRIORITY}
    assert allowed_lanes("fast") == allowed_lanes("priority")
    assert allowed_lanes("flex") == (Lane.FLEX,)
    assert set(allowed_lanes("auto")) == {Lane.STANDARD, Lane.FLEX, Lane.PRIORITY}


@pytest.mark.parametrize("tier", ["scale", "ultrafast", "flexx", ""])
def test_a_tier_without_a_lane_is_refused(tier: str) -> None:
    """DESIGN.md decision 9: an unknown lane is refused and never charged at the standard rate."""
    with pytest.raises(UnpricedError) as caught:
        allowed_lanes(tier)
    assert caught.value.reason == "unpriced_lane"
    assert repr(tier) in caught.value.message
