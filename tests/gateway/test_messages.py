"""Messages: whatever is in them besides text is found, bounded or refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from farebox.gateway.messages import MESSAGES_MAX, MessageParts, is_inline, without_image
from farebox.gateway.openai_errors import GatewayError

PNG = "data:image/png;base64," + "A" * 1_000


def parts(*contents: Any, **message: object) -> MessageParts:
    """One message with such a content, read."""
    return read(json.dumps([{"role": "user", "content": list(contents), **message}]).encode())


def read(raw: bytes) -> MessageParts:
    """Messages, read."""
    found = MessageParts()
    found.read(msgspec.Raw(raw))
    return found


def complaint(raw: bytes) -> GatewayError:
    """The error that messages raise."""
    with pytest.raises(GatewayError) as caught:
        read(raw)
    return caught.value


def test_text_is_not_read() -> None:
    """Messages of plain text are not decoded, whatever the text says."""
    found = read(b'[{"role":"user","content":"[{\\"type\\":\\"image_url\\"}]"},{"content":null}]')
    assert (found.messages, found.written, found.unbounded) == (2, None, False)
    # Not decoded: a number that no reader holds does not matter.
    assert read(b'[{"role":"user","content":"x","n":1e999}]').written is None


def test_an_image_in_the_body() -> None:
    """An inline image counts as an image, and its data not as text."""
    found = parts(
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": PNG.upper()},
    )
    assert (found.inline_images, found.image_bytes) == (2, 2 * len(PNG))
    assert not found.unbounded


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": 5},
        {"type": "image_url"},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
        {"image_url": {"url": PNG}},
        {"type": None},
        {"type": ["image_url"]},
        {},
    ],
    ids=range(10),
)
def test_only_the_window_bounds_it(part: dict[str, object]) -> None:
    """What the body does not contain, or what nobody knows, is bounded by the context window."""
    assert parts(part).unbounded


def test_audio() -> None:
    """Audio in the body has its own price and no bound in bytes."""
    assert parts({"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}).audio


@pytest.mark.parametrize(
    "raw",
    [
        b'[{"role":"user","cont\\u0065nt":[{"type":"video_url"}]}]',
        b'[{"role":"user","content":"x","content":[{"type":"video_url"}]}]',
        b'[{"role":"user","content" : [{"ty\\u0070e":"vide\\u006f_url"}]}]',
    ],
)
def test_disguises(raw: bytes) -> None:
    """Escapes and repeated keys hide nothing, and do not go on as they came."""
    found = read(raw)
    assert found.unbounded
    assert found.written is not None
    assert b"\\u" not in bytes(found.written)
    assert bytes(found.written).count(b'"content"') == 1


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"[]", "messages"),
        (b"[{},5]", "messages[1]"),
        (b"[null]", "messages[0]"),
        (b'["x"]', "messages[0]"),
        (b'[{"content":5}]', "messages[0].content"),
        (b'[{"content":{"type":"video_url"}}]', "messages[0].content"),
        (b'[{},{"content":["x"]}]', "messages[1].content[0]"),
        (b'[{"content":[{"type":"file","file":{"file_id":"f"}}]}]', None),
        (b'[{"role":"assistant","audio":{"id":"a"}}]', "messages[0].audio"),
        (b'[{"content":"\\u0041","x":1e999}]', "messages"),
        (b"{}", "messages"),
        (b"[" + b"{}," * MESSAGES_MAX + b"{}]", "messages"),
    ],
    ids=range(12),
)
def test_what_is_refused(raw: bytes, param: str | None) -> None:
    """What cannot be understood, or may be another tenant's, is refused by its place."""
    error = complaint(raw)
    assert error.status == 400
    assert error.param == (param or "messages[0].content[0].file.file_id")


def test_a_null_audio_or_file_id_is_none() -> None:
    """A null in a message's audio, as clients echo answers, is no reference."""
    read(b'[{"role":"assistant","content":"x","audio":null}]')
    assert parts({"type": "file", "file": {"file_id": None, "file_data": "x"}}).unbounded


@pytest.mark.parametrize("url", ["data:", "DATA:x", "dAtA:image/png;base64,AA"])
def test_inline(url: str) -> None:
    """Schemes have no case."""
    assert is_inline(url)
    assert not is_inline(url[1:])
    assert not is_inline([url])


def test_only_an_images_own_data_is_left_out_of_the_text() -> None:
    """A text that begins like an image stays text."""
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}
    assert without_image(part, "image_url", part["image_url"]) == {"detail": "low"}
    assert without_image(part, "image_url", PNG) is None
    assert without_image(part, "image_url", "https://x") == "https://x"
    assert without_image(part, "text", PNG) == PNG
    assert without_image({"type": "text"}, "image_url", PNG) == PNG
    assert without_image({}, "content", PNG) == PNG
