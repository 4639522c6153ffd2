"""How an answer is written down: one JSON object, or the events of a stream, in OpenAI's form."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farebox.providers.simulated.chance import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farebox.providers.simulated.answers import Answer, Choice

_PIECES_PER_EVENT_MAX: Final = 3

DONE: Final = b"data: [DONE]\n\n"


class Head(msgspec.Struct, frozen=True):
    """What every part of one answer repeats."""

    id: str
    created: int
    model: str
    service_tier: str


class Event(msgspec.Struct, frozen=True, gc=False):
    """One server-sent event."""

    data: bytes
    tokens: int = 0
    """Completion tokens that it brings."""


def json_body(head: Head, answer: Answer, usage: dict[str, object] | None) -> bytes:
    """The body of an answer that is not streamed; without usage if that was ordered."""
    body: dict[str, Any] = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [
            {
                "index": index,
                "message": _message(head, index, choice),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(answer.choices)
        ],
    }
    if usage is not None:
        body["usage"] = usage
    body["service_tier"] = head.service_tier
    body["system_fingerprint"] = fingerprint(head.model)
    return msgspec.json.encode(body)


def events(
    head: Head, answer: Answer, usage: dict[str, object] | None, draws: Iterator[int], *, ask: bool
) -> Iterator[Event]:
    """The events of a streamed answer: roles, content, ends, usage, ``[DONE]``.

    Args:
        head: What every event repeats.
        answer: What is said.
        usage: The usage of the last event but one; None leaves that event out.
        draws: Decides how many tokens an event brings.
        ask: The caller asked for usage, so every other event carries ``usage: null``.
    """
    opening, closing = _frame(head, ask=ask)
    for index, choice in enumerate(answer.choices):
        yield Event(_chunk(opening, closing, index, _first_delta(head, index, choice)))
    for index, choice in enumerate(answer.choices):
        key = b'{"tool_calls":[{"index":0,"function":{"arguments":' if choice.tool_name else b""
        key, end = (key, b"}}]}") if key else (b'{"content":', b"}")
        left = choice.tokens
        at = 0
        while at < len(choice.pieces):
            count = 1 + next(draws) % _PIECES_PER_EVENT_MAX
            text = "".join(choice.pieces[at : at + count])
            at += count
            # The last event takes what the pieces do not show (a longer bill, a call's frame).
            tokens = left if at >= len(choice.pieces) else min(count, left)
            left -= tokens
            delta = key + msgspec.json.encode(text) + end
            yield Event(_chunk(opening, closing, index, delta), tokens)
    for index, choice in enumerate(answer.choices):
        yield Event(_chunk(opening, closing, index, b"{}", choice.finish_reason))
    if usage is not None:
        # ``closing`` without its null: the one event that has the figures and no choices.
        yield Event(opening + b'],"usage":' + msgspec.json.encode(usage) + b"}\n\n")
    yield Event(DONE)


@lru_cache(maxsize=256)
def fingerprint(model: str) -> str:
    """The ``system_fingerprint`` of a model."""
    return f"fp_{digest(0, 'fingerprint', model.encode()).hex()[:10]}"


def _frame(head: Head, *, ask: bool) -> tuple[bytes, bytes]:
    """What stands before and behind the choices of every event."""
    fields = msgspec.json.encode(
        {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "service_tier": head.service_tier,
            "system_fingerprint": fingerprint(head.model),
        }
    )
    opening = b"data: " + fields[:-1] + b',"choices":['
    return opening, b'],"usage":null}\n\n' if ask else b"]}\n\n"


def _chunk(
    opening: bytes, closing: bytes, index: int, delta: bytes, finish_reason: str | None = None
) -> bytes:
    reason = b"null" if finish_reason is None else f'"{finish_reason}"'.encode()
    return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}%b' % (
        opening,
        index,
        delta,
        reason,
        closing,
    )


def _first_delta(head: Head, index: int, choice: Choice) -> bytes:
    delta: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if choice.tool_name is None:
        delta["content"] = ""
    else:
        function = {"name": choice.tool_name, "arguments": ""}
        call = {"id": _call_id(head, index), "type": "function", "function": function}
        delta["tool_calls"] = [{"index": 0, **call}]
    return msgspec.json.encode(delta)


def _message(head: Head, index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.pieces)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.tool_name is not None:
        function = {"name": choice.tool_name, "arguments": text}
        message["content"] = None
        call = {"id": _call_id(head, index), "type": "function", "function": function}
        message["tool_calls"] = [call]
    return message | {"annotations": []}


def _call_id(head: Head, index: int) -> str:
    return f"call_{digest(index, 'tool call', head.id.encode()).hex()[:24]}"
