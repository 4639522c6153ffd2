"""Request bodies: decoded once at the top, forwarded as they came, bounded by what they say.

The top level is read as a table of raw values and written again, so that a field has one meaning
for the bound and for the provider (a repeated field cannot say two things); the values themselves
are forwarded byte for byte. Only where a body may contain more than text are its messages decoded
(DESIGN.md, "Hot path"; ENGINE.md, "Ceilings").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from farebox.gateway.openai_errors import GatewayError, invalid_request
from farebox.rating.ceiling import PromptFacts
from farebox.rating.units import Unit

MESSAGES_MAX: Final = 20_000
CHOICES_MAX: Final = 128
"""OpenAI's own limit for ``n``."""
OUTPUT_TOKENS_MAX: Final = 100_000_000
"""Beyond any model's: a larger limit is a mistake, and must not overflow a ceiling."""
MODEL_CHARACTERS_MAX: Final = 200
EMBEDDING_INPUTS_MAX: Final = 2_048
"""OpenAI's own limit."""

Fields = dict[str, msgspec.Raw]

_fields: Final = msgspec.json.Decoder(Fields)
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_any: Final = msgspec.json.Decoder()
_encoder: Final = msgspec.json.Encoder()


class CallBody(msgspec.Struct):
    """What the gateway needs to know of a request's body."""

    fields: Fields
    model: str
    facts: PromptFacts
    stream: bool = False
    include_usage: bool = False
    """Whether the client asked for the stream's usage chunk."""
    service_tier: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    def forced_stream_options(self) -> dict[str, object]:
        """The client's stream options, with usage asked for."""
        options = _value(self.fields, "stream_options")
        return {**(options if isinstance(options, dict) else {}), "include_usage": True}

    def encode(self, changes: Mapping[str, object]) -> bytes:
        """The body with some top-level fields set; a change to None removes the field."""
        fields: dict[str, Any] = dict(self.fields)
        for name, value in changes.items():
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = value
        return _encoder.encode(fields)


def read_chat(body: bytes) -> CallBody:
    """Read the body of ``/chat/completions``.

    Raises:
        GatewayError: 400 naming the field.
    """
    fields = _top_level(body)
    messages = fields.get("messages")
    if messages is None:
        raise invalid_request("Missing required parameter: 'messages'.", param="messages")
    for name in ("background", "previous_response_id", "conversation"):
        if name in fields and (value := _value(fields, name)) is not None and value is not False:
            raise invalid_request(f"'{name}' is not supported here.", param=name)
    stream = _flag(fields, "stream")
    return CallBody(
        fields=fields,
        model=_model(fields),
        facts=_chat_facts(fields, messages, len(body)),
        stream=stream,
        include_usage=stream and _include_usage(fields),
        service_tier=_string(fields, "service_tier"),
        user=_string(fields, "safety_identifier") or _string(fields, "user"),
        metadata=_metadata(fields),
    )


def read_embeddings(body: bytes) -> CallBody:
    """Read the body of ``/embeddings``.

    Raises:
        GatewayError: 400 naming the field.
    """
    fields = _top_level(body)
    raw = fields.get("input")
    if raw is None:
        raise invalid_request("Missing required parameter: 'input'.", param="input")
    inputs = 1
    if bytes(raw).startswith(b"["):
        items = _list(fields, "input")
        inputs = len(items)
        if items and not bytes(items[0]).startswith((b'"', b"[")):
            inputs = 1  # a single input, given as tokens
        if not 1 <= inputs <= EMBEDDING_INPUTS_MAX:
            raise invalid_request(
                f"'input' must have 1 to {EMBEDDING_INPUTS_MAX} entries.", param="input"
            )
    return CallBody(
        fields=fields,
        model=_model(fields),
        # A token given as a number takes at least a digit and a comma: bytes bound these too.
        facts=PromptFacts(text_bytes=len(body), messages=inputs, embeddings=True),
        user=_string(fields, "user"),
    )


_NULL: Final = msgspec.Raw(b"null")


def _top_level(body: bytes) -> Fields:
    try:
        if not body.isascii():
            body.decode()
        return _fields.decode(body)
    except UnicodeDecodeError as error:
        raise _malformed("it is not valid UTF-8") from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise _malformed(str(error)) from error


def _malformed(reason: str) -> GatewayError:
    return invalid_request(
        f"We could not parse the JSON body of your request: {reason}. "
        "Send a JSON object encoded as UTF-8."
    )


def _chat_facts(fields: Fields, messages: msgspec.Raw, body_bytes: int) -> PromptFacts:
    parts = _Parts()
    parts.read(messages)
    functions, hosted = _tools(fields)
    prediction = fields.get("prediction", _NULL)
    return PromptFacts(
        # The whole body bounds its text from above: escapes are longer than what they stand for.
        text_bytes=body_bytes - parts.image_bytes,
        messages=parts.messages,
        tools=functions,
        inline_images=parts.inline_images,
        unbounded=parts.unbounded,
        audio_inputs=parts.audio,
        audio_output="audio" in (_value(fields, "modalities") or ()),
        long_cache_writes="12h" in str(_value(fields, "prompt_cache_options")),
        choices=_count(fields, "n", CHOICES_MAX) or 1,
        output_limit=_output_limit(fields),
        predicted_bytes=0 if prediction == _NULL else len(prediction),
        hosted_tools=hosted,
        tool_calls_max=_count(fields, "max_tool_calls", 1_000),
    )


def _output_limit(fields: Fields) -> int | None:
    """The client's limit for one choice; of two, the larger: which one counts is the provider's."""
    limits = [
        limit
        for name in ("max_completion_tokens", "max_tokens")
        if (limit := _count(fields, name, OUTPUT_TOKENS_MAX)) is not None
    ]
    return max(limits, default=None)


class _Parts:
    """What the messages contain besides text."""

    def __init__(self) -> None:
        self.messages = 0
        self.inline_images = 0
        self.image_bytes = 0
        self.unbounded = False
        self.audio = False

    def read(self, raw: msgspec.Raw) -> None:
        items = _decoded(_raws, raw, "messages")
        self.messages = len(items)
        if not 1 <= len(items) <= MESSAGES_MAX:
            raise invalid_request(
                f"'messages' must have 1 to {MESSAGES_MAX} entries.", param="messages"
            )
        text = bytes(raw)
        if b'"type"' not in text and b"\\u" not in text:
            return  # no part can have a type, so all is text
        for index, message in enumerate(_decoded(_any, raw, "messages")):
            if not isinstance(message, dict):
                raise invalid_request(
                    f"'messages[{index}]' must be an object.", param=f"messages[{index}]"
                )
            if message.get("audio") is not None:
                self.unbounded = True  # an earlier answer's audio, kept by the provider
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                self._part(part)

    def _part(self, part: object) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        assert isinstance(part, dict) or kind is None
        match kind:
            case "text" | "refusal":
                return
            case "image_url":
                self._image(part.get("image_url") if isinstance(part, dict) else None)
            case "input_audio":
                self.audio = True
            case _:
                # A file, a video, or something newer: only the context window bounds it.
                self.unbounded = True

    def _image(self, image: object) -> None:
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str) and url[:5].lower() == "data:":
            self.inline_images += 1
            # Base64 has no characters that JSON must escape, so the body has as many bytes.
            self.image_bytes += len(url) if "\\" not in url and url.isascii() else 0
        else:
            self.unbounded = True


def _tools(fields: Fields) -> tuple[int, tuple[Unit, ...]]:
    """How many functions, and what hosted tools bill."""
    functions = len(_list(fields, "functions"))
    hosted: list[Unit] = []
    for index, tool in enumerate(_value(fields, "tools") or ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind in {"function", "custom"}:
            functions += 1
        elif kind in {"web_search", "web_search_preview"}:
            hosted.append(Unit.WEB_SEARCH)
        elif kind == "file_search":
            hosted.append(Unit.FILE_SEARCH)
        else:
            raise invalid_request(
                f"'tools[{index}].type' {str(kind)[:40]!r} has no known price; leave it out.",
                param=f"tools[{index}].type",
            )
    if fields.get("web_search_options", _NULL) != _NULL:
        hosted.append(Unit.WEB_SEARCH)
    return functions, tuple(hosted)


def _model(fields: Fields) -> str:
    model = _string(fields, "model")
    if not model:
        raise invalid_request("You must provide a model parameter.", param="model")
    if len(model) > MODEL_CHARACTERS_MAX:
        raise invalid_request("'model' is too long.", param="model")
    return model


def _include_usage(fields: Fields) -> bool:
    options = _value(fields, "stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise invalid_request("'stream_options' must be an object.", param="stream_options")
    return options.get("include_usage") is True


def _metadata(fields: Fields) -> dict[str, str] | None:
    value = _value(fields, "metadata")
    if not isinstance(value, dict):
        return None
    return {str(k): v for k, v in value.items() if isinstance(v, str)}


def _flag(fields: Fields, name: str) -> bool:
    value = _value(fields, name)
    if value not in {None, True, False} or isinstance(value, int | float) != isinstance(
        value, bool
    ):
        raise invalid_request(f"'{name}' must be true or false.", param=name)
    return value is True


def _string(fields: Fields, name: str) -> str | None:
    value = _value(fields, name)
    if value is not None and not isinstance(value, str):
        raise invalid_request(f"'{name}' must be a string.", param=name)
    return value


def _count(fields: Fields, name: str, most: int) -> int | None:
    value = _value(fields, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise invalid_request(f"'{name}' must be a whole number from 1 to {most}.", param=name)
    return value


def _list(fields: Fields, name: str) -> list[msgspec.Raw]:
    raw = fields.get(name, _NULL)
    return [] if raw == _NULL else _decoded(_raws, raw, name)


def _value(fields: Fields, name: str) -> Any:
    raw = fields.get(name)
    return None if raw is None else _decoded(_any, raw, name)


def _decoded(decoder: Any, raw: msgspec.Raw, name: str) -> Any:
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise invalid_request(f"'{name}' is nested too deeply.", param=name) from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise invalid_request(f"'{name}' is malformed: {error}.", param=name) from error
