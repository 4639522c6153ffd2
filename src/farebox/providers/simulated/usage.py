"""The usage object: what the simulated provider reports, and so bills.

Cached and cache-write tokens are parts of the prompt, reasoning tokens of the completion; a count
that the caller ordered replaces the natural one, whatever it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from farebox.providers.simulated.directives import Ordered

_PROMPT_DETAILS: Final = {
    "cached": "cached_tokens",
    "cache_write": "cache_write_tokens",
    "audio": "audio_tokens",
    "image": "image_tokens",
    "text": "text_tokens",
}
_COMPLETION_DETAILS: Final = {
    "reasoning": "reasoning_tokens",
    "audio_out": "audio_tokens",
    "text_out": "text_tokens",
    "accepted": "accepted_prediction_tokens",
    "rejected": "rejected_prediction_tokens",
}
_ENCODER_BITS: Final = 63
"""Larger whole numbers are written as text: the encoder stops there, JSON does not."""

_DETAILS_ALWAYS_THERE: Final = ("cached", "audio", "reasoning", "audio_out", "accepted", "rejected")


class Usage(msgspec.Struct, frozen=True):
    """What a call took, in tokens."""

    prompt: int
    completion: int = 0
    cached: int = 0
    cache_write: int | None = None
    """None for models whose prompt cache writes for free: they do not report it."""
    reasoning: int = 0
    audio: int = 0


class UsageReport(msgspec.Struct, frozen=True):
    """The same, as it is written."""

    body: dict[str, object]
    """The answer's ``usage``; ordered counts stand in it exactly as they were ordered."""
    billed: dict[str, int | float | str]
    """The counts by their directive names, for the log."""


def report_chat(usage: Usage, ordered: dict[str, Ordered]) -> UsageReport:
    """The usage object of chat completions."""
    counts: dict[str, object] = dict.fromkeys(_DETAILS_ALWAYS_THERE, 0)
    counts |= {
        "prompt": usage.prompt,
        "completion": usage.completion,
        "cached": usage.cached,
        "reasoning": usage.reasoning,
        "audio": usage.audio,
    }
    if usage.cache_write is not None:
        counts["cache_write"] = usage.cache_write
    billed = _apply(counts, ordered)
    body = {
        "prompt_tokens": counts["prompt"],
        "completion_tokens": counts["completion"],
        "total_tokens": counts["total"],
        "prompt_tokens_details": {
            field: counts[name] for name, field in _PROMPT_DETAILS.items() if name in counts
        },
        "completion_tokens_details": {
            field: counts[name] for name, field in _COMPLETION_DETAILS.items() if name in counts
        },
    }
    return UsageReport(body=body, billed=billed)


def report_embeddings(usage: Usage, ordered: dict[str, Ordered]) -> UsageReport:
    """The usage object of embeddings."""
    counts: dict[str, object] = {"prompt": usage.prompt, "completion": 0}
    billed = _apply(counts, ordered)
    body = {"prompt_tokens": counts["prompt"], "total_tokens": counts["total"]}
    return UsageReport(body=body, billed=billed)


def _apply(counts: dict[str, object], ordered: dict[str, Ordered]) -> dict[str, int | float | str]:
    """Put the ordered counts in, add the total, and give the values for the log."""
    values: dict[str, int | float | str] = {
        name: value for name, value in counts.items() if isinstance(value, int)
    }
    values |= {name: order.value for name, order in ordered.items()}
    if "total" not in ordered:
        parts = (values["prompt"], values["completion"])
        values["total"] = sum(part for part in parts if isinstance(part, int))
    for name, value in values.items():
        if name in ordered:
            counts[name] = ordered[name].json
        elif isinstance(value, int) and value.bit_length() > _ENCODER_BITS:
            counts[name] = msgspec.Raw(str(value).encode())
        else:
            counts[name] = value
    return values
