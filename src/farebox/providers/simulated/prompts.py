"""What of a chat request counts as prompt, in the order in which the model reads it.

Tools, then the answer's schema, then the messages. Text is counted by the counter that was given;
the rest has fixed sizes in the manner of OpenAI's own arithmetic, so that the sum stays under what
a gateway can foresee: the bytes of the text and a few tokens for each message and tool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from farebox.providers.simulated.requests import ChatRequest

# OpenAI's cookbook on counting: three tokens a message and its role, three to begin the answer.
_MESSAGE_TOKENS: Final = 4
_NAME_TOKENS: Final = 1
_ANSWER_TOKENS: Final = 3
_TOOLS_TOKENS: Final = 4

_IMAGE_TOKENS: Final = {"low": 85}
_IMAGE_TOKENS_USUAL: Final = 765
"""A square of 1024 pixels in high detail, by the arithmetic of gpt-4o."""

_AUDIO_BYTES_PER_TOKEN: Final = 4300
"""Ten tokens a second of 16 kHz, 16 bit sound, in base64."""

_FILE_BYTES_PER_TOKEN: Final = 4
_REFERENCE_TOKENS: Final = 1000
"""A file that the body only names."""

_BREAKPOINT: Final = "prompt_cache_breakpoint"


class Block(msgspec.Struct, frozen=True):
    """A stretch of the prompt that the cache cannot look into more finely than by its bytes."""

    text: bytes
    tokens: int
    audio_tokens: int = 0
    ends_turn: bool = False
    """The end of a user's or a tool's message: where the newer cache puts its own breakpoints."""
    marked: bool = False
    """An explicit breakpoint of the caller."""


class Prompt(msgspec.Struct, frozen=True):
    """A counted prompt."""

    blocks: tuple[Block, ...]
    tokens: int
    audio_tokens: int


def count_prompt(chat: ChatRequest, count_tokens: Callable[[str], int]) -> Prompt:
    """Lay out and count the prompt of a chat request."""
    blocks = tuple(_blocks(chat, count_tokens))
    return Prompt(
        blocks=blocks,
        tokens=_ANSWER_TOKENS + sum(block.tokens for block in blocks),
        audio_tokens=sum(block.audio_tokens for block in blocks),
    )


def _blocks(chat: ChatRequest, count_tokens: Callable[[str], int]) -> Iterator[Block]:
    for name in ("tools", "functions", "response_format"):
        if value := chat.fields.get(name):
            encoded = msgspec.json.encode(value)
            yield Block(text=encoded, tokens=_TOOLS_TOKENS + count_tokens(encoded.decode()))
    for message in chat.messages:
        yield from _message_blocks(message, count_tokens)


def _message_blocks(message: dict[str, Any], count_tokens: Callable[[str], int]) -> Iterator[Block]:
    """One block of what surrounds a message and a block for each part of it."""
    turn = message["role"] in {"user", "tool"}
    head = str(message["role"])
    tokens = _MESSAGE_TOKENS
    if name := message.get("name"):
        head += f" {name}"
        tokens += _NAME_TOKENS + count_tokens(str(name))
    if calls := message.get("tool_calls"):
        encoded = msgspec.json.encode(calls).decode()
        head += encoded
        tokens += count_tokens(encoded)
    content = message.get("content") or ""
    if isinstance(content, str):
        whole = f"{head}\n{content}".encode()
        yield Block(text=whole, tokens=tokens + count_tokens(content), ends_turn=turn)
        return
    yield Block(text=f"{head}\n".encode(), tokens=tokens)
    for index, part in enumerate(content, 1):
        yield _part_block(part, count_tokens, ends_turn=turn and index == len(content))


def _part_block(
    part: dict[str, Any], count_tokens: Callable[[str], int], *, ends_turn: bool
) -> Block:
    kind = part.get("type")
    # A breakpoint is no part of the prompt: with and without it the prefix is the same.
    encoded = msgspec.json.encode({k: v for k, v in part.items() if k != _BREAKPOINT})
    audio_tokens = 0
    if kind in {"text", "refusal"}:
        tokens = count_tokens(str(part.get(kind) or ""))
    elif kind == "image_url":
        image = part.get("image_url")
        detail = image.get("detail") if isinstance(image, dict) else None
        tokens = _IMAGE_TOKENS.get(str(detail), _IMAGE_TOKENS_USUAL)
    elif kind == "input_audio":
        tokens = audio_tokens = 1 + len(encoded) // _AUDIO_BYTES_PER_TOKEN
    else:
        file = part.get("file")
        inline = isinstance(file, dict) and "file_data" in file
        tokens = 1 + len(encoded) // _FILE_BYTES_PER_TOKEN if inline else _REFERENCE_TOKENS
    return Block(
        text=encoded,
        tokens=tokens,
        audio_tokens=audio_tokens,
        ends_turn=ends_turn,
        marked=isinstance(part.get(_BREAKPOINT), dict),
    )
