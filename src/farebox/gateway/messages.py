"""What the messages of a chat request contain besides text, and so what bounds their tokens.

Messages are decoded only where they may contain more than text (DESIGN.md, "Hot path"). Then they
are written again from what was read: of a repeated or disguised key the provider gets the one
meaning that was bounded.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeGuard

import msgspec

from farebox.gateway.fields import decoded, raw_list
from farebox.gateway.openai_errors import invalid_request

MESSAGES_MAX: Final = 20_000

_PARTS: Final = re.compile(rb'"content"\s*:\s*[^"n\s]')
"""A content that is neither a string nor null. A user's text cannot match: its quotes have a
backslash before them."""

_OBJECT: Final = ord("{")

_any: Final = msgspec.json.Decoder()


class MessageParts:
    """Counts what the messages contain."""

    def __init__(self) -> None:
        self.messages = 0
        self.inline_images = 0
        self.image_bytes = 0
        """Bytes of inline images: data that is never read as text."""
        self.unbounded = False
        self.audio = False
        self.written: msgspec.Raw | None = None
        """The messages as they were understood; None where they are all text."""

    def read(self, raw: msgspec.Raw) -> None:
        """Look at ``messages``.

        Raises:
            GatewayError: 400 naming what cannot be bounded or understood.
        """
        items = raw_list(raw, "messages")
        self.messages = len(items)
        if not 1 <= self.messages <= MESSAGES_MAX:
            raise invalid_request(
                f"'messages' must have 1 to {MESSAGES_MAX} entries.", param="messages"
            )
        for index, item in enumerate(items):
            if memoryview(item)[0] != _OBJECT:
                raise invalid_request(
                    f"'messages[{index}]' must be an object.", param=f"messages[{index}]"
                )
        text = bytes(raw)
        # A key written with \u could say anything, so such messages are read too.
        if _PARTS.search(text) is None and b'"audio"' not in text and b"\\u" not in text:
            return
        messages = decoded(_any, raw, "messages")
        for index, message in enumerate(messages):
            self._message(message, f"messages[{index}]")
        self.written = msgspec.Raw(msgspec.json.encode(messages))

    def _message(self, message: dict[str, Any], where: str) -> None:
        if message.get("audio") is not None:
            raise invalid_request(
                f"'{where}.audio' refers to audio that the provider keeps, which has no owner "
                "here; send its transcript as text.",
                param=f"{where}.audio",
            )
        content = message.get("content")
        if isinstance(content, list):
            for index, part in enumerate(content):
                self._part(part, f"{where}.content[{index}]")
        elif content is not None and not isinstance(content, str):
            raise invalid_request(
                f"'{where}.content' must be a string or a list of parts.", param=f"{where}.content"
            )

    def _part(self, part: object, where: str) -> None:
        if not isinstance(part, dict):
            raise invalid_request(f"'{where}' must be an object.", param=where)
        match part.get("type"):
            case "text" | "refusal":
                return
            case "image_url":
                self._image(part.get("image_url"))
            case "input_audio":
                self.audio = True
            case "file":
                _refuse_kept_file(part.get("file"), where)
                self.unbounded = True  # its pages are read as text and as images
            case _:
                # A video, or something newer: only the context window bounds it.
                self.unbounded = True

    def _image(self, image: Any) -> None:
        url = image.get("url") if isinstance(image, dict) else image
        if is_inline(url):
            self.inline_images += 1
            # Characters of a decoded string are never more than its bytes in the body.
            self.image_bytes += len(url) if url.isascii() else 0
        else:
            self.unbounded = True


def is_inline(url: object) -> TypeGuard[str]:
    """Tell whether an image's URL is the image itself."""
    return isinstance(url, str) and url[:5].lower() == "data:"


def without_image(part: dict[str, Any], key: str, value: object) -> object:
    """A value of a part as it is read: inline image data is not text, and bounded as an image.

    Any other text that begins like one stays: a prompt may begin with ``data:``.
    """
    if key != "image_url" or part.get("type") != "image_url":
        return value
    if isinstance(value, dict) and is_inline(value.get("url")):
        return {name: more for name, more in value.items() if name != "url"}
    return None if is_inline(value) else value


def _refuse_kept_file(file: object, where: str) -> None:
    """A file at the provider may be another tenant's (DESIGN.md, decision 18)."""
    if isinstance(file, dict) and file.get("file_id") is not None:
        raise invalid_request(
            f"'{where}.file.file_id' names a file at the provider, which has no owner here; "
            "send the file itself as file_data.",
            param=f"{where}.file.file_id",
        )
