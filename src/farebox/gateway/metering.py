"""How much a call has used, where the provider has not said so: counted, and marked estimated.

The provider's usage bills; counting serves three cases only: a stream that broke off, an answer
without (or with impossible) usage, and the progress that a lapse may charge (DED-14, DED-15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from farebox.gateway.bodies import CallBody
from farebox.gateway.streaming import text_of
from farebox.rating.units import Unit
from farebox.rating.usage import Usage

MESSAGE_TOKENS: Final = 4
"""What OpenAI documents as the frame of one message."""

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


def prompt_tokens(body: CallBody, count_tokens: CountTokens) -> int:
    """An estimate of the prompt, never above its bound in bytes."""
    raw = body.fields.get("messages") or body.fields.get("input")
    assert raw is not None
    texts: list[str] = []
    _collect(_any.decode(raw), texts)
    texts.extend(
        bytes(more).decode()
        for name in ("tools", "functions", "response_format")
        if (more := body.fields.get(name)) is not None
    )
    counted = count_tokens("".join(texts)) + body.facts.messages * MESSAGE_TOKENS
    return min(counted, max(body.facts.text_bytes, 1))


def estimated_usage(input_tokens: int, output_tokens: int) -> Usage:
    """A usage of plain input and output."""
    return Usage.of({Unit.INPUT: input_tokens, Unit.OUTPUT: output_tokens})


def answer_text(document: object) -> str:
    """All text of a whole answer, for counting."""
    texts: list[str] = []
    if isinstance(document, dict):
        for choice in document.get("choices") or ():
            if isinstance(choice, dict):
                _collect(choice.get("message") or choice.get("text"), texts)
    return "".join(texts)


def _collect(value: object, texts: list[str]) -> None:
    """Every string that a model reads: contents and arguments, not keys, roles or image data."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if item[:5] != "data:":
                texts.append(item)
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(v for k, v in reversed(item.items()) if k not in {"role", "type", "id"})
