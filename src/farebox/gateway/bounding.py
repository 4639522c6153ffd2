"""Counting a prompt exactly, where its bound in bytes is too wide for the money at hand.

What is counted is what is sent: the counted parts are written again from what was read, so that a
repeated key inside them cannot mean one text to the count and another to the provider.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from farebox.gateway.bodies import CallBody
from farebox.gateway.metering import CountTokens
from farebox.rating.price_book import ModelFacts

THREAD_BYTES_MIN: Final = 256 * 1024
"""Larger prompts are counted in a thread: they would hold up other calls for milliseconds."""

_COUNTED: Final = ("messages", "input", "tools", "functions", "response_format", "tool_choice")
_any: Final = msgspec.json.Decoder()


def may_count(body: CallBody, facts: ModelFacts) -> bool:
    """Tell whether counting can tighten the bound: text only, for a model known to count so."""
    known = body.facts
    return (
        facts.counts_o200k
        and known.counted_tokens is None
        and not (known.unbounded or known.audio_inputs or known.hosted_tools)
    )


async def count_prompt(body: CallBody, count_tokens: CountTokens) -> int:
    """The o200k tokens of everything that enters the prompt, piece by piece.

    Pieces are counted apart: tokens never join over the frame of a message, and separate counts
    are never smaller than the count of the whole.
    """
    texts: list[str] = []
    for name in _COUNTED:
        raw = body.fields.get(name)
        if raw is not None:
            value = _any.decode(raw)
            written = msgspec.json.encode(value)
            body.fields[name] = msgspec.Raw(written)
            if name in {"messages", "input"}:
                _strings(value, texts)
            else:
                texts.append(written.decode())
    if body.facts.text_bytes < THREAD_BYTES_MIN:
        return sum(map(count_tokens, texts))
    return await asyncio.to_thread(lambda: sum(map(count_tokens, texts)))


def _strings(value: object, texts: list[str]) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            # Inline images are bounded by the model's maximum, not by their data.
            if item[:5].lower() != "data:":
                texts.append(item)
        elif isinstance(item, dict):
            for key, more in item.items():
                if key not in {"role", "content", "type", "text"}:
                    texts.append(key)
                stack.append(more)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int | float):
            texts.append(str(item))
