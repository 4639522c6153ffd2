"""Server-sent events, read no further than needed.

Events are passed on as they came. Only two kinds are looked into: the one that ends a choice and
the one that carries usage. A key name cannot stand inside a JSON string without an escaped quote,
so a search for the bytes of ``"finish_reason":`` never mistakes content for structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""A single event larger than this is a fault of the upstream."""

_BOUNDARY: Final = re.compile(rb"\r?\n\r?\n")
_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_ERROR: Final = re.compile(rb'"error"\s*:\s*[{"]')

DONE: Final = b"data: [DONE]\n\n"


class EventTooLargeError(Exception):
    """An event that does not end."""


class EventSplitter:
    """Cuts a byte stream into events, whatever its pieces are."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that are whole now, each with its blank line.

        Raises:
            EventTooLargeError: More than :data:`EVENT_BYTES_MAX` without an end.
        """
        data = self._rest + chunk if self._rest else chunk
        # What was kept has no boundary, but it may end with the beginning of one.
        searched = max(0, len(self._rest) - 3)
        events: list[bytes] = []
        begin = 0
        for end in _boundaries(data, searched):
            events.append(data[begin:end])
            begin = end
        self._rest = data[begin:]
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLargeError
        return events

    def flush(self) -> bytes:
        """What is left at the end of the stream, if the last event had no blank line."""
        rest, self._rest = self._rest, b""
        return rest


def _boundaries(data: bytes, at: int) -> Iterator[int]:
    """Where events end: behind each blank line."""
    if b"\r" in data:
        for match in _BOUNDARY.finditer(data, at):
            yield match.end()
        return
    # The same, several times faster, for how nearly every provider writes it.
    while (place := data.find(b"\n\n", at)) >= 0:
        at = place + 2
        yield at


class Chunk(msgspec.Struct, frozen=True):
    """What matters of a chunk of a streamed chat answer."""

    choices: Any = None
    usage: Any = None
    service_tier: Any = None


_chunk: Final = msgspec.json.Decoder(Chunk)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_plain(event: bytes) -> bool:
    """Tell whether the event is nothing but more of the answer: no end, no usage, no error."""
    return not (
        _FINISHED.search(event) or _USAGE.search(event) or b'"error"' in event or b"[DONE]" in event
    )


def finishes(event: bytes) -> int:
    """How many choices the event ends."""
    return len(_FINISHED.findall(event))


def carries_usage(event: bytes) -> bool:
    """Tell whether the event may carry a usage object."""
    return _USAGE.search(event) is not None


def carries_error(event: bytes) -> bool:
    """Tell whether the event may be an error that ends the stream."""
    return _ERROR.search(event) is not None and b'"choices"' not in event


def is_done(event: bytes) -> bool:
    """Tell whether the event is the end mark."""
    return b"[DONE]" in event and data_of(event).strip() == b"[DONE]"


def data_of(event: bytes) -> bytes:
    """The event's data lines, joined."""
    lines = [line[5:].lstrip(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def read_chunk(event: bytes) -> Chunk | None:
    """Decode an event's chunk; None where it is something else."""
    try:
        return _chunk.decode(data_of(event))
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return None


def text_of(event: bytes) -> str:
    """All text that an event adds to the answer, for counting its tokens."""
    chunk = read_chunk(event)
    if chunk is None or not isinstance(chunk.choices, list):
        return ""
    return "".join(
        said(choice.get("delta")) for choice in chunk.choices if isinstance(choice, dict)
    )


def said(message: object) -> str:
    """The text of a message, or of what it grew by: what the model wrote, not its frame."""
    if not isinstance(message, dict):
        return ""
    texts = [message.get("content"), message.get("refusal")]
    # Some providers give the same reasoning under two names.
    texts.append(message.get("reasoning_content") or message.get("reasoning"))
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), message]:
        for kind in ("function", "custom", "function_call"):
            called = call.get(kind) if isinstance(call, dict) else None
            if isinstance(called, dict):
                texts += [called.get("name"), called.get("arguments"), called.get("input")]
    return "".join(map(_text, texts))


def _text(value: object) -> str:
    """A string, or the strings of a list of text parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def with_cost(event: bytes, charge: str) -> bytes:
    """The usage event with ``usage.cost`` in decimal units of the currency."""
    fields = _fields.decode(data_of(event))
    usage = _fields.decode(fields["usage"])
    # A JSON number, written digit by digit: no float has touched it.
    usage["cost"] = msgspec.Raw(charge.encode())
    fields["usage"] = msgspec.Raw(msgspec.json.encode(usage))
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
