"""Counting a prompt exactly, where its bound in bytes is too wide for the money at hand.

What is counted is what is sent: the counted parts are written again from what was read, so that a
repeated key inside them cannot mean one text to the count and another to the provider. What is not
known to stay out of the prompt is taken at its bytes.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from farebox.gateway.bodies import CallBody
from farebox.gateway.fields import decoded
from farebox.gateway.messages import without_image
from farebox.gateway.metering import THREAD_BYTES_MIN, CountTokens
from farebox.rating.price_book import ModelFacts

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

    Pieces are counted apart: tokens never join over the frame of a message. The bytes of fields
    that are not counted are added.

    Raises:
        GatewayError: 400: something in it cannot be read.
    """
    texts: list[str] = []
    others = 0
    for name, raw in list(body.fields.items()):
        if name not in _COUNTED:
            others += len(raw)
            continue
        value = decoded(_any, raw, name)
        written = msgspec.json.encode(value)
        body.fields[name] = msgspec.Raw(written)
        if name in {"messages", "input"}:
            _strings(value, texts)
        else:
            texts.append(written.decode())
    if body.facts.text_bytes < THREAD_BYTES_MIN:
        return others + sum(map(count_tokens, texts))
    return others + await asyncio.to_thread(lambda: sum(map(count_tokens, texts)))


def _strings(value: object, texts: list[str]) -> None:
    """Gather every string and number; a number is no more tokens than its digits."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            for key, more in item.items():
                if key not in {"role", "content", "type", "text"}:
                    texts.append(key)
                stack.append(without_image(item, key, more))
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int | float):
            texts.append(str(item))
