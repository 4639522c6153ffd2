"""What the simulated model says: a fixed text cut to length, a tool call, or JSON for a schema.

Each piece of the text is one token of the o200k vocabulary and stays one wherever the text is cut,
so a gateway that counts what it streamed comes to what is billed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from farebox.providers.simulated.requests import ChatRequest

_TEXT: Final = (
    " This| is| a| simulated| answer| from| the| sandbox|.| No| model| was| called| and| no| money"
    "| was| spent|.| The| words| below| only| fill| the| space| that| a| real| answer| would| take"
    "|.| A| café| by| the| river| opens| early|,| and| the| first| train| of| the| day| crosses"
    "| the| old| bridge| while| the| market| wakes|.| Fresh| bread|,| green| apples| and| warm| tea"
    "| wait| on| small| tables|;| people| talk| about| the| weather|,| the| news| and| the| long"
    "| road| home|.| Later| the| light| turns| gold|,| the| boats| return|,\n| and| someone| plays"
    "| a| slow| song|.| Every| part| of| this| text| is| one| token| long|,| which| makes| the"
    "| count| easy| to| check|."
)
_PIECES: Final = tuple(_TEXT.split("|"))

TEXT_TOKENS_MAX: Final = 4096
"""An answer that is billed for more tokens still has a text of this length at most."""

_NATURAL_TOKENS: Final = (24, 96)
"""How long an answer is when nothing limits it."""

_REASONING_TOKENS: Final = {"low": 64, "medium": 192, "high": 512, "xhigh": 1024, "max": 2048}
"""Hidden tokens for a ``reasoning_effort`` that the caller names."""

_EXAMPLE_DEPTH_MAX: Final = 8
_CALL_TOKENS: Final = 6


class Choice(msgspec.Struct, frozen=True):
    """One answer to the prompt."""

    pieces: tuple[str, ...]
    """The text, or the arguments of the tool call, as it is streamed."""
    tokens: int
    """What the pieces count as; the surroundings of a tool call included."""
    finish_reason: str
    tool_name: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """Everything a call is answered with."""

    choices: tuple[Choice, ...]
    reasoning_tokens: int

    @property
    def completion_tokens(self) -> int:
        """What the answer naturally bills."""
        return self.reasoning_tokens + sum(choice.tokens for choice in self.choices)


@lru_cache(maxsize=512)
def text_pieces(tokens: int) -> tuple[str, ...]:
    """The first tokens of the text, which begins anew when it ends."""
    count = max(0, min(tokens, TEXT_TOKENS_MAX))
    rounds, rest = divmod(count, len(_PIECES))
    pieces = _PIECES * rounds + _PIECES[:rest]
    return (pieces[0].lstrip(), *pieces[1:]) if pieces else ()


def compose(
    chat: ChatRequest,
    ordered_tokens: int | None,
    ordered_reasoning: int | None,
    chance: bytes,
    count_tokens: Callable[[str], int],
) -> Answer:
    """Answer a chat request.

    Args:
        chat: The request.
        ordered_tokens: Completion tokens of the whole answer, if the caller ordered them.
        ordered_reasoning: How many of them are hidden.
        chance: Decides the length of an answer that nothing else decides.
        count_tokens: For texts that are not cut from the fixed one.
    """
    reasoning, limit = _reasoning(chat, ordered_reasoning)
    if ordered_tokens is not None:
        visible = max(0, ordered_tokens - reasoning)
        share, rest = divmod(visible, chat.choices)
        lengths = [share + (1 if index < rest else 0) for index in range(chat.choices)]
        cut = chat.tokens_max is not None and ordered_tokens >= chat.tokens_max * chat.choices
        choices = [_ordered_choice(chat, length, cut=cut) for length in lengths]
        return Answer(choices=tuple(choices), reasoning_tokens=reasoning)
    least, most = _NATURAL_TOKENS
    choices = []
    for index in range(chat.choices):
        wanted = least + (chance[index % len(chance)] % (most - least + 1))
        choices.append(_natural_choice(chat, wanted, limit, count_tokens))
    return Answer(choices=tuple(choices), reasoning_tokens=reasoning)


def _reasoning(chat: ChatRequest, ordered: int | None) -> tuple[int, int | None]:
    """Hidden tokens of the whole answer, and what each choice may still say."""
    if ordered is not None:
        return ordered, chat.tokens_max
    each = _REASONING_TOKENS.get(str(chat.fields.get("reasoning_effort")), 0)
    if chat.tokens_max is None:
        return each * chat.choices, None
    each = min(each, chat.tokens_max)
    return each * chat.choices, chat.tokens_max - each


def _ordered_choice(chat: ChatRequest, tokens: int, *, cut: bool) -> Choice:
    """A choice whose length was ordered: nothing is counted."""
    if chat.tool is not None:
        arguments = msgspec.json.encode(example(chat.tool.get("parameters") or {})).decode()
        reason = "length" if cut else _call_reason(chat)
        return _call(chat, (arguments,), tokens, reason)
    if chat.schema is not None:
        text = msgspec.json.encode(example(chat.schema)).decode()
        return Choice(pieces=(text,), tokens=tokens, finish_reason="length" if cut else "stop")
    return Choice(
        pieces=text_pieces(tokens), tokens=tokens, finish_reason="length" if cut else "stop"
    )


def _natural_choice(
    chat: ChatRequest, wanted: int, limit: int | None, count_tokens: Callable[[str], int]
) -> Choice:
    """A choice as long as it likes to be, within the limit."""
    if chat.tool is not None:
        return _natural_call(chat, limit, count_tokens)
    if chat.schema is not None:
        text = msgspec.json.encode(example(chat.schema)).decode()
        tokens = count_tokens(text)
        if limit is None or tokens <= limit:
            return Choice(pieces=(text,), tokens=tokens, finish_reason="stop")
        cut = text[: len(text) * limit // tokens]
        return Choice(pieces=(cut,) if cut else (), tokens=limit, finish_reason="length")
    tokens = wanted if limit is None else min(wanted, limit)
    pieces = text_pieces(tokens)
    for stop in chat.stops:
        pieces = _before(pieces, stop)
    reason = "length" if tokens < wanted and len(pieces) == tokens else "stop"
    return Choice(pieces=pieces, tokens=len(pieces), finish_reason=reason)


def _natural_call(
    chat: ChatRequest, limit: int | None, count_tokens: Callable[[str], int]
) -> Choice:
    assert chat.tool is not None
    arguments = msgspec.json.encode(example(chat.tool.get("parameters") or {})).decode()
    tokens = _CALL_TOKENS + count_tokens(arguments)
    if limit is None or tokens <= limit:
        return _call(chat, (arguments,), tokens, _call_reason(chat))
    return _call(chat, (arguments[: len(arguments) // 2],), limit, "length")


def _call(chat: ChatRequest, pieces: tuple[str, ...], tokens: int, reason: str) -> Choice:
    assert chat.tool is not None
    name = str(chat.tool.get("name") or "function")
    return Choice(pieces=pieces, tokens=tokens, finish_reason=reason, tool_name=name)


def _call_reason(chat: ChatRequest) -> str:
    """OpenAI reports ``stop`` when the function was named, ``tool_calls`` when any was required."""
    return "stop" if chat.tool_was_named else "tool_calls"


def _before(pieces: tuple[str, ...], stop: str) -> tuple[str, ...]:
    """The pieces before a stop sequence; one that it begins in is cut."""
    at = "".join(pieces).find(stop)
    if at < 0:
        return pieces
    kept: list[str] = []
    for piece in pieces:
        if at <= 0:
            break
        kept.append(piece[:at])
        at -= len(piece)
    return tuple(kept)


def example(schema: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one return a type
    """A value that fits the plain parts of a JSON schema."""
    if not isinstance(schema, dict) or depth > _EXAMPLE_DEPTH_MAX:
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    properties = schema.get("properties")
    if isinstance(properties, dict):
        return {name: example(part, depth + 1) for name, part in properties.items()}
    match kind:
        case "string":
            return "simulated"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return [example(schema["items"], depth + 1)] if "items" in schema else []
        case None if "anyOf" in schema:
            return example((schema["anyOf"] or [None])[0], depth + 1)
        case _:
            return {} if depth == 0 or kind == "object" else None
