"""The usage object."""

from __future__ import annotations

from typing import Any

import msgspec

from farebox.providers.simulated.directives import parse_directives
from farebox.providers.simulated.usage import Usage, report_chat, report_embeddings


def _chat(usage: Usage, orders: str = "") -> dict[str, Any]:
    headers = (("x-sandbox-usage", orders),) if orders else ()
    report = report_chat(usage, parse_directives(headers).usage)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report.body))
    return decoded


def test_the_object_of_chat_completions() -> None:
    """Every field that the provider always reports is there, cached tokens of zero included."""
    assert _chat(Usage(prompt=2006, completion=300, cached=1920, reasoning=64)) == {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 64,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_cache_writes_are_reported_only_where_they_are_billed() -> None:
    """The field is there, zero included, for models that bill writes; the others lack it."""
    assert "cache_write_tokens" not in _chat(Usage(prompt=1))["prompt_tokens_details"]
    written = _chat(Usage(prompt=1, cache_write=0))
    assert written["prompt_tokens_details"]["cache_write_tokens"] == 0


def test_orders_replace_counts_and_the_total_follows() -> None:
    """An ordered count stands where the natural one stood; the total is of what is reported."""
    usage = _chat(Usage(prompt=9, completion=9), "prompt=4808,cached=0,completion=10,audio_out=2")
    assert usage["prompt_tokens"] == 4808
    assert usage["completion_tokens"] == 10
    assert usage["total_tokens"] == 4818
    assert usage["completion_tokens_details"]["audio_tokens"] == 2
    assert _chat(Usage(prompt=1), "total=7")["total_tokens"] == 7


def test_rubbish_is_reported_and_logged_as_ordered() -> None:
    """What cannot be counted stands in the answer as ordered and is left out of the total."""
    usage = _chat(Usage(prompt=1, completion=5), "prompt=abc,cached=-1")
    assert usage["prompt_tokens"] == "abc"
    assert usage["prompt_tokens_details"]["cached_tokens"] == -1
    assert usage["total_tokens"] == 5
    orders = parse_directives((("x-sandbox-usage", "prompt=99999999999999999999,reasoning=1.5"),))
    report = report_chat(Usage(prompt=1, completion=1), orders.usage)
    assert report.billed["prompt"] == 99999999999999999999
    assert report.billed["total"] == 100000000000000000000
    assert report.billed["reasoning"] == 1.5
    assert b'"total_tokens":100000000000000000000' in msgspec.json.encode(report.body)


def test_a_natural_count_may_be_larger_than_the_encoder_takes() -> None:
    """Counts that follow from ordered ones are written whatever their size."""
    usage = Usage(prompt=1, completion=2**70)
    assert str(2**70).encode() in msgspec.json.encode(report_chat(usage, {}).body)


def test_the_object_of_embeddings() -> None:
    """Embeddings report the prompt and the same total."""
    orders = parse_directives((("x-sandbox-usage", "prompt=12"),))
    report = report_embeddings(Usage(prompt=3), orders.usage)
    assert msgspec.json.encode(report.body) == b'{"prompt_tokens":12,"total_tokens":12}'
    assert report_embeddings(Usage(prompt=3), {}).body == {"prompt_tokens": 3, "total_tokens": 3}
