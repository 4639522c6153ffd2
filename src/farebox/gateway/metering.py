"""How much a call has used, where the provider has not said so: counted, and marked estimated.

The provider's usage bills; counting serves three cases only: a stream that broke off, an answer
without (or with impossible) usage, and the progress that a lapse may charge (DED-14, DED-15). An
estimate never fails: what cannot be read as JSON is counted as the text it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from farebox.gateway.bodies import CallBody
from farebox.gateway.messages import without_image
from farebox.gateway.streaming import said, text_of
from farebox.rating.units import Unit
from farebox.rating.usage import Usage

MESSAGE_TOKENS: Final = 4
"""What OpenAI documents as the frame of one message."""

THREAD_BYTES_MIN: Final = 256 * 1024
"""Larger prompts are counted in a thread: they would hold up other calls for milliseconds."""

PIECE_CHARACTERS: Final = 100_000
"""Counted at once: a counter may answer a longer text with its bytes, which is no estimate."""

_any: Final = msgspec.json.Decoder()

CountTokens = Callable[[str], int]


class OutputMeter:
    """The answer of a stream so far; events wait unread until somebody asks."""

    def __init__(self, count_tokens: CountTokens) -> None:
        self._count = count_tokens
        self._unread: list[bytes] = []
        self._tokens = 0

    def add(self, event: bytes) -> None:
        """Take note of an event; it is decoded only when the tokens are asked for."""
        self._unread.append(event)

    def tokens(self) -> int:
        """Tokens of all text so far."""
        if self._unread:
            text = "".join(map(text_of, self._unread))
            self._unread.clear()
            if text:
                self._tokens += self._count(text)
        return self._tokens


async def prompt_tokens(body: CallBody, count_tokens: CountTokens) -> int:
    """An estimate of the prompt, never above its bound in bytes."""
    if body.facts.text_bytes < THREAD_BYTES_MIN:
        return _prompt_tokens(body, count_tokens)
    return await asyncio.to_thread(_prompt_tokens, body, count_tokens)


def _prompt_tokens(body: CallBody, count_tokens: CountTokens) -> int:
    raw = body.fields.get("messages") or body.fields["input"]
    texts: list[str] = []
    tokens = _collect(_read(raw), texts)
    texts.extend(
        bytes(more).decode()
        for name in ("tools", "functions", "response_format")
        if (more := body.fields.get(name)) is not None
    )
    text = "".join(texts)
    for at in range(0, len(text), PIECE_CHARACTERS):
        tokens += count_tokens(text[at : at + PIECE_CHARACTERS])
    tokens += body.facts.messages * MESSAGE_TOKENS
    return min(tokens, max(body.facts.text_bytes, 1))


def _read(raw: msgspec.Raw) -> object:
    """A value; what cannot be decoded (too deep, a number out of range) as plain text."""
    try:
        return _any.decode(raw)
    except (ValueError, RecursionError):
        return bytes(raw).decode(errors="replace")


def estimated_usage(input_tokens: int, output_tokens: int) -> Usage:
    """A usage of plain input and output."""
    return Usage.of({Unit.INPUT: input_tokens, Unit.OUTPUT: output_tokens})


def answer_text(document: object) -> str:
    """All text of a whole answer, for counting."""
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list):
        return ""
    return "".join(said(choice.get("message")) for choice in choices if isinstance(choice, dict))


def _collect(value: object, texts: list[str]) -> int:
    """Every string that a model reads: contents and arguments, not keys, roles or image data.

    Gives how many whole numbers there are: an embeddings input may be given as tokens.
    """
    numbers = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(
                without_image(item, key, more)
                for key, more in reversed(item.items())
                if key not in {"role", "type", "id"}
            )
        elif isinstance(item, int) and not isinstance(item, bool):
            numbers += 1
    return numbers
