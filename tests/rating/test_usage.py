"""From usage objects, as providers really send them, to a partition that adds up."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.rating.units import Unit
from farebox.rating.usage import COUNT_MAX, Usage, UsageInvalidError, normalize_usage

# Usage objects as sent, and what they mean; the first column says where the trap is.
CHAT = {
    "OpenAI, nothing special": (
        {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
        {Unit.INPUT: 19, Unit.OUTPUT: 10},
        0,
    ),
    "OpenAI, all details, all zero (47: zero is not missing)": (
        {
            "prompt_tokens": 19,
            "completion_tokens": 0,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        {Unit.INPUT: 19},
        0,
    ),
    "everything zero": (
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {},
        0,
    ),
    "vLLM: details are null": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "total_tokens": 12,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
        {Unit.INPUT: 5, Unit.OUTPUT: 7},
        0,
    ),
    "counts inside the details are null": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "total_tokens": None,
            "prompt_tokens_details": {"cached_tokens": None, "cached_tokens_details": None},
        },
        {Unit.INPUT: 5, Unit.OUTPUT: 7},
        0,
    ),
    "cached tokens are part of the prompt (40, 44: not billed twice, not in full)": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {"reasoning_tokens": 256},
        },
        {Unit.INPUT: 86, Unit.CACHED_INPUT: 1920, Unit.OUTPUT: 300},
        256,
    ),
    "GPT-5.6: reads and writes are both part of the prompt (41, 42, 45)": (
        {
            "prompt_tokens": 2600,
            "completion_tokens": 1,
            "total_tokens": 2601,
            "prompt_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 400},
        },
        {Unit.INPUT: 200, Unit.CACHED_INPUT: 2000, Unit.CACHE_WRITE: 400, Unit.OUTPUT: 1},
        0,
    ),
    "a total of writes without its split is a write (45)": (
        {
            "prompt_tokens": 400,
            "completion_tokens": 0,
            "prompt_tokens_details": {"cache_write_tokens": 400},
        },
        {Unit.CACHE_WRITE: 400},
        0,
    ),
    "writes for 12 hours are told apart": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 0,
            "prompt_tokens_details": {
                "cache_write_tokens": 900,
                "cache_write_tokens_details": {"ttl_30m_tokens": 600, "ttl_12h_tokens": 300},
            },
        },
        {Unit.INPUT: 100, Unit.CACHE_WRITE: 600, Unit.CACHE_WRITE_LONG: 300},
        0,
    ),
    "audio: parts of both, text is the rest": (
        {
            "prompt_tokens": 130,
            "completion_tokens": 220,
            "total_tokens": 350,
            "prompt_tokens_details": {"audio_tokens": 100, "text_tokens": 30, "cached_tokens": 0},
            "completion_tokens_details": {"audio_tokens": 180, "text_tokens": 40},
        },
        {Unit.INPUT: 30, Unit.AUDIO_INPUT: 100, Unit.OUTPUT: 40, Unit.AUDIO_OUTPUT: 180},
        0,
    ),
    "audio and cached overlap, the split is told": (
        {
            "prompt_tokens": 130,
            "completion_tokens": 0,
            "prompt_tokens_details": {
                "audio_tokens": 100,
                "cached_tokens": 64,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 64},
            },
        },
        {Unit.INPUT: 30, Unit.AUDIO_INPUT: 36, Unit.CACHED_AUDIO_INPUT: 64},
        0,
    ),
    "audio and cached overlap, the split is not told: text first": (
        {
            "prompt_tokens": 130,
            "completion_tokens": 0,
            "prompt_tokens_details": {"audio_tokens": 100, "cached_tokens": 64},
        },
        {Unit.CACHED_INPUT: 30, Unit.AUDIO_INPUT: 66, Unit.CACHED_AUDIO_INPUT: 34},
        0,
    ),
    "images: text first, then images, then audio": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 9,
            "prompt_tokens_details": {"image_tokens": 50, "audio_tokens": 30, "cached_tokens": 75},
            "completion_tokens_details": {"image_tokens": 4},
        },
        {
            Unit.CACHED_INPUT: 20,
            Unit.CACHED_IMAGE_INPUT: 50,
            Unit.AUDIO_INPUT: 25,
            Unit.CACHED_AUDIO_INPUT: 5,
            Unit.OUTPUT: 5,
            Unit.IMAGE_OUTPUT: 4,
        },
        0,
    ),
    "writes larger than the text reach into images and audio": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "prompt_tokens_details": {
                "image_tokens": 50,
                "audio_tokens": 30,
                "cache_write_tokens": 90,
            },
        },
        {Unit.CACHE_WRITE: 90, Unit.AUDIO_INPUT: 10},
        0,
    ),
    "cached images are told": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "prompt_tokens_details": {
                "image_tokens": 50,
                "cached_tokens": 60,
                "cached_tokens_details": {"image_tokens": 40},
            },
        },
        {
            Unit.INPUT: 30,
            Unit.CACHED_INPUT: 20,
            Unit.IMAGE_INPUT: 10,
            Unit.CACHED_IMAGE_INPUT: 40,
        },
        0,
    ),
    "xAI: reasoning is beside the completion, the total tells": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        {Unit.INPUT: 26, Unit.CACHED_INPUT: 6, Unit.OUTPUT: 103},
        94,
    ),
    "Gemini: thoughts are in the total alone": (
        {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 530},
        {Unit.INPUT: 10, Unit.OUTPUT: 520},
        0,
    ),
    "Anthropic's compatible endpoint: cached tokens one level higher": (
        {"prompt_tokens": 50, "completion_tokens": 1, "cached_tokens": 40},
        {Unit.INPUT: 10, Unit.CACHED_INPUT: 40, Unit.OUTPUT: 1},
        0,
    ),
    "the details win over the level above, zero too": (
        {
            "prompt_tokens": 50,
            "completion_tokens": 1,
            "cached_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        {Unit.INPUT: 50, Unit.OUTPUT: 1},
        0,
    ),
    "rejected predictions are in the completion already": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 100,
            "completion_tokens_details": {
                "accepted_prediction_tokens": 30,
                "rejected_prediction_tokens": 60,
            },
        },
        {Unit.INPUT: 10, Unit.OUTPUT: 100},
        0,
    ),
    "whole numbers written with a point": (
        {"prompt_tokens": 10.0, "completion_tokens": 2.0},
        {Unit.INPUT: 10, Unit.OUTPUT: 2},
        0,
    ),
    "fields nobody knows": (
        {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5, "queue_time": "soon"},
        {Unit.INPUT: 1, Unit.OUTPUT: 1},
        0,
    ),
}


@pytest.mark.parametrize("name", CHAT)
def test_usage_normalizer_fixtures(name: str) -> None:
    """Field bugs 39 to 47: every token of a recorded usage object is counted exactly once."""
    raw, counts, reasoning = CHAT[name]
    usage = normalize_usage(raw, flavor="chat")
    assert dict(usage.units) == counts
    assert usage.reasoning_tokens == reasoning
    # A JSON round trip changes nothing: the object is read as it comes off the wire.
    assert normalize_usage(json.loads(json.dumps(raw)), flavor="chat") == usage


def test_embeddings_have_input_only() -> None:
    """An embeddings usage has a prompt and no completion."""
    raw = {"prompt_tokens": 8, "total_tokens": 8}
    assert dict(normalize_usage(raw, flavor="embeddings").units) == {Unit.INPUT: 8}
    raw = {"prompt_tokens": 8}
    assert normalize_usage(raw, flavor="embeddings").output_total == 0


OK = {"prompt_tokens": 100, "completion_tokens": 50}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt_tokens": None}, "prompt_tokens"),
        ({"completion_tokens": None}, "completion_tokens"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"prompt_tokens": "100"}, "prompt_tokens"),
        ({"prompt_tokens": True}, "prompt_tokens"),
        ({"prompt_tokens": 0.5}, "prompt_tokens"),
        ({"prompt_tokens": float("nan")}, "prompt_tokens"),
        ({"prompt_tokens": float("inf")}, "prompt_tokens"),
        ({"prompt_tokens": 1e300}, "prompt_tokens"),
        ({"prompt_tokens": [100]}, "prompt_tokens"),
        ({"prompt_tokens": COUNT_MAX + 1}, "prompt_tokens"),
        ({"total_tokens": 149}, "total_tokens"),
        ({"prompt_tokens_details": []}, "prompt_tokens_details"),
        ({"prompt_tokens_details": "none"}, "prompt_tokens_details"),
        ({"completion_tokens_details": 3}, "completion_tokens_details"),
        ({"cached_tokens": 101}, "cached_tokens"),
        ({"prompt_tokens_details": {"cached_tokens": 101}}, "cached_tokens"),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, "prompt_tokens_details.cached_tokens"),
        (
            {"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 41}},
            "cached_tokens",
        ),
        ({"prompt_tokens_details": {"audio_tokens": 60, "image_tokens": 41}}, "prompt_tokens"),
        ({"prompt_tokens_details": {"audio_tokens": 60, "text_tokens": 41}}, "prompt_tokens"),
        (
            {"prompt_tokens_details": {"cached_tokens": 9, "cached_tokens_details": 9}},
            "cached_tokens_details",
        ),
        (
            {
                "prompt_tokens_details": {
                    "cached_tokens": 9,
                    "cached_tokens_details": {"audio_tokens": 1},
                }
            },
            "cached_tokens_details.audio_tokens",
        ),
        (
            {
                "prompt_tokens_details": {
                    "cached_tokens": 9,
                    "cached_tokens_details": {"image_tokens": 1},
                }
            },
            "cached_tokens_details.image_tokens",
        ),
        (
            {
                "prompt_tokens_details": {
                    "audio_tokens": 50,
                    "cached_tokens": 9,
                    "cached_tokens_details": {"audio_tokens": 10},
                }
            },
            "cached_tokens_details",
        ),
        (
            {
                "prompt_tokens_details": {
                    "audio_tokens": 95,
                    "cached_tokens": 9,
                    "cached_tokens_details": {"audio_tokens": 1},
                }
            },
            "cached_tokens",
        ),
        (
            {
                "prompt_tokens_details": {
                    "cache_write_tokens": 9,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 5, "ttl_12h_tokens": 5},
                }
            },
            "cache_write_tokens_details",
        ),
        ({"completion_tokens_details": {"reasoning_tokens": 51}}, "reasoning_tokens"),
        (
            {"completion_tokens_details": {"audio_tokens": 30, "reasoning_tokens": 21}},
            "reasoning_tokens",
        ),
        ({"completion_tokens_details": {"audio_tokens": 51}}, "completion_tokens_details"),
        (
            {
                "completion_tokens_details": {
                    "accepted_prediction_tokens": 30,
                    "rejected_prediction_tokens": 21,
                }
            },
            "prediction_tokens",
        ),
    ],
)
def test_a_usage_that_contradicts_itself_is_refused(change: dict[str, object], field: str) -> None:
    """A usage object that cannot be true is an error that names the field, never a guess."""
    with pytest.raises(UsageInvalidError) as caught:
        normalize_usage(OK | change, flavor="chat")
    assert field in caught.value.field
    assert caught.value.code == "usage_invalid"


@pytest.mark.parametrize("raw", [None, 3, "usage", [], True])
def test_what_is_no_object_is_refused(raw: object) -> None:
    """A missing usage is the caller's case to handle, never zero."""
    with pytest.raises(UsageInvalidError):
        normalize_usage(raw, flavor="chat")


def test_embeddings_with_another_total_are_refused() -> None:
    """There is nothing but the prompt in an embeddings total."""
    with pytest.raises(UsageInvalidError, match="total_tokens"):
        normalize_usage({"prompt_tokens": 8, "total_tokens": 9}, flavor="embeddings")


@pytest.mark.parametrize(
    ("counts", "reasoning"),
    [({Unit.INPUT: -1}, 0), ({Unit.INPUT: COUNT_MAX + 1}, 0), ({Unit.OUTPUT: 1}, 2), ({}, 1)],
)
def test_a_usage_is_never_made_of_impossible_counts(
    counts: dict[Unit, int], reasoning: int
) -> None:
    """Whoever makes a usage by hand meets the same limits as a provider."""
    with pytest.raises(UsageInvalidError):
        Usage.of(counts, reasoning_tokens=reasoning)


def test_a_usage_keeps_the_order_of_the_units() -> None:
    """Line items come in one order, however the counts were gathered."""
    usage = Usage.of({Unit.WEB_SEARCH: 1, Unit.OUTPUT: 2, Unit.INPUT: 3, Unit.CACHED_INPUT: 0})
    assert usage.units == ((Unit.INPUT, 3), (Unit.OUTPUT, 2), (Unit.WEB_SEARCH, 1))
    assert (usage.input_total, usage.output_total) == (3, 2)
    assert (usage.count(Unit.WEB_SEARCH), usage.count(Unit.CACHED_INPUT)) == (1, 0)


@st.composite
def usage_objects(draw: st.DrawFn) -> dict[str, object]:
    """Usage objects that are true: made from parts, so that no part is larger than its whole."""
    count = st.integers(0, 10**6)
    text, image, audio = draw(count), draw(count), draw(count)
    prompt = text + image + audio
    cached = draw(st.integers(0, prompt))
    written = draw(st.integers(0, prompt - cached))
    out_text, out_audio, hidden = draw(count), draw(count), draw(st.integers(0, 1000))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": out_text + out_audio,
        "total_tokens": prompt + out_text + out_audio + hidden,
        "prompt_tokens_details": {
            "image_tokens": image,
            "audio_tokens": audio,
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "cache_write_tokens_details": {"ttl_12h_tokens": draw(st.integers(0, written))},
        },
        "completion_tokens_details": {
            "audio_tokens": out_audio,
            "reasoning_tokens": draw(st.integers(0, out_text + hidden)),
        },
    }


@given(raw=usage_objects())
def test_disjoint_token_partition(raw: dict[str, object]) -> None:
    """Field bugs 41 and 44: the units add up to what the provider says, no token twice or lost."""
    usage = normalize_usage(raw, flavor="chat")
    counts = dict(usage.units)
    details = raw["prompt_tokens_details"]
    assert isinstance(details, dict)
    assert usage.input_total == raw["prompt_tokens"]
    assert usage.input_total + usage.output_total == raw["total_tokens"]
    cached = (Unit.CACHED_INPUT, Unit.CACHED_IMAGE_INPUT, Unit.CACHED_AUDIO_INPUT)
    assert sum(counts.get(unit, 0) for unit in cached) == details["cached_tokens"]
    written = (Unit.CACHE_WRITE, Unit.CACHE_WRITE_LONG)
    assert sum(counts.get(unit, 0) for unit in written) == details["cache_write_tokens"]
    assert (
        counts.get(Unit.AUDIO_INPUT, 0) + counts.get(Unit.CACHED_AUDIO_INPUT, 0)
        <= (details["audio_tokens"])
    )
    assert all(count > 0 for count in counts.values())
    assert [unit for unit, _ in usage.units] == [unit for unit in Unit if unit in counts]
    assert usage.reasoning_tokens <= counts.get(Unit.OUTPUT, 0)


KEYS = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "cached_tokens",
        "cached_tokens_details",
        "cache_write_tokens",
        "cache_write_tokens_details",
        "ttl_12h_tokens",
        "audio_tokens",
        "image_tokens",
        "text_tokens",
        "reasoning_tokens",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=20,
)


@given(raw=ANYTHING, flavor=st.sampled_from(["chat", "embeddings"]))
def test_whatever_an_upstream_sends_is_read_or_refused(
    raw: object, flavor: Literal["chat", "embeddings"]
) -> None:
    """No usage object, however broken, does anything but give a true partition or one error."""
    try:
        usage = normalize_usage(raw, flavor=flavor)
    except UsageInvalidError:
        return
    assert isinstance(raw, dict)
    assert usage.input_total == raw["prompt_tokens"]
    assert all(0 < count <= COUNT_MAX for _, count in usage.units)
