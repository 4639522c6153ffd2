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

from farebox.gateway.fields import (
    NULL,
    Fields,
    count_of,
    flag_of,
    list_of,
    object_of,
    raw_list,
    string_of,
    value_of,
)
from farebox.gateway.messages import MessageParts
from farebox.gateway.openai_errors import GatewayError, invalid_request
from farebox.rating.ceiling import PromptFacts

CHOICES_MAX: Final = 128
"""OpenAI's own limit for ``n``."""
OUTPUT_TOKENS_MAX: Final = 100_000_000
"""Beyond any model's: a larger limit is a mistake, and must not overflow a ceiling."""
MODEL_CHARACTERS_MAX: Final = 200
EMBEDDING_INPUTS_MAX: Final = 2_048
"""OpenAI's own limit."""

_TOOL_FIELDS: Final = frozenset({"tools", "functions"})
LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")

_fields: Final = msgspec.json.Decoder(Fields)
_encoder: Final = msgspec.json.Encoder()

_SEARCHES: Final = "What a provider's own searches bill is not metered yet; search by a function."

_REFUSED: Final = {
    "background": "Calls in the background are not supported here.",
    "previous_response_id": "What a provider remembers has no owner here; send the messages.",
    "conversation": "What a provider remembers has no owner here; send the messages.",
    "prompt": "Prompts stored at a provider have no owner here; send the messages.",
    "data_sources": "What a provider looks up by itself has no known bound.",
    "plugins": "What a provider's plugins bill has no known bound.",
    "models": "Name one model: what another one costs is not held.",
    "provider": "Which provider answers is the gateway's choice: its price is what is held.",
    "route": "Which provider answers is the gateway's choice: its price is what is held.",
    "prompt_embeds": "A prompt that is no text has no known bound.",
    "search_parameters": _SEARCHES,
    "web_search_options": _SEARCHES,
}
"""Fields that would change what is billed, or reach what other tenants keep at the provider."""


_KNOWN: Final = frozenset(
    {
        *_REFUSED,
        *_TOOL_FIELDS,
        *LIMIT_FIELDS,
        "best_of",
        "input",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "prediction",
        "prompt_cache_options",
        "response_format",
        "safety_identifier",
        "service_tier",
        "stream",
        "stream_options",
        "tool_choice",
        "user",
    }
)
"""Fields that the bound or the charge depends on."""


class CallBody(msgspec.Struct):
    """What the gateway needs to know of a request's body."""

    raw: bytes
    """As it came."""
    fields: Fields
    model: str
    facts: PromptFacts
    answers: int = 1
    """How many choices come back: ``n``; as many may be generated as ``facts`` says."""
    stream: bool = False
    include_usage: bool = False
    """Whether the client asked for the stream's usage chunk."""
    service_tier: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    def forced_stream_options(self) -> dict[str, object]:
        """The client's stream options, with usage asked for."""
        return {**(object_of(self.fields, "stream_options") or {}), "include_usage": True}

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
    _refuse_unbounded(fields)
    stream = flag_of(fields, "stream")
    return CallBody(
        raw=body,
        fields=fields,
        model=_model(fields),
        facts=_chat_facts(fields, messages, len(body)),
        answers=_count(fields, "n", CHOICES_MAX),
        stream=stream,
        include_usage=stream and _include_usage(fields),
        service_tier=string_of(fields, "service_tier"),
        user=string_of(fields, "safety_identifier") or string_of(fields, "user"),
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
    _refuse_unbounded(fields)
    return CallBody(
        raw=body,
        fields=fields,
        model=_model(fields),
        # A token given as a number takes at least a digit and a comma: bytes bound these too.
        facts=PromptFacts(text_bytes=len(body), messages=_inputs(raw), embeddings=True),
        service_tier=string_of(fields, "service_tier"),
        user=string_of(fields, "user"),
    )


def _inputs(raw: msgspec.Raw) -> int:
    """How many texts an embeddings request gives."""
    if not bytes(raw).startswith(b"["):
        return 1
    items = raw_list(raw, "input")
    if not items:
        raise invalid_request("'input' must not be empty.", param="input")
    # A flat list of numbers is a single input, given as tokens.
    inputs = sum(bytes(item).startswith((b'"', b"[")) for item in items) or 1
    if inputs > EMBEDDING_INPUTS_MAX:
        raise invalid_request(
            f"'input' must have 1 to {EMBEDDING_INPUTS_MAX} entries.", param="input"
        )
    return inputs


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


def _refuse_unbounded(fields: Fields) -> None:
    for name in fields:
        # Some providers read names without regard to case: such a field must not slip past us.
        if name not in _KNOWN and name.lower() in _KNOWN:
            raise invalid_request(f"'{name[:64]}' must be written '{name.lower()}'.", param=name)
    for name in _REFUSED.keys() & fields.keys():
        if value_of(fields, name) not in (None, False):
            raise invalid_request(f"'{name}' is not supported. {_REFUSED[name]}", param=name)


def _chat_facts(fields: Fields, messages: msgspec.Raw, body_bytes: int) -> PromptFacts:
    parts = MessageParts()
    parts.read(messages)
    if parts.written is not None:
        fields["messages"] = parts.written
        body_bytes += max(0, len(parts.written) - len(messages))
    prediction = fields.get("prediction", NULL)
    return PromptFacts(
        # The whole body bounds its text from above: escapes are longer than what they stand for.
        text_bytes=body_bytes - parts.image_bytes,
        messages=parts.messages,
        tools=_tools(fields),
        inline_images=parts.inline_images,
        unbounded=parts.unbounded,
        audio_inputs=parts.audio,
        audio_output="audio" in list_of(fields, "modalities"),
        long_cache_writes=_keeps_long(fields),
        choices=max(_count(fields, "n", CHOICES_MAX), _count(fields, "best_of", CHOICES_MAX)),
        output_limit=_output_limit(fields),
        predicted_bytes=0 if prediction == NULL else len(prediction),
    )


def _count(fields: Fields, name: str, most: int) -> int:
    return count_of(fields, name, most) or 1


def _keeps_long(fields: Fields) -> bool:
    """Tell whether the longer cache retention is asked for, however it is written."""
    options = value_of(fields, "prompt_cache_options")
    return options is not None and b"12h" in _encoder.encode(options)


def _output_limit(fields: Fields) -> int | None:
    """The client's limit for one choice; of two, the larger: which one counts is the provider's."""
    limits = [
        limit
        for name in LIMIT_FIELDS
        if (limit := count_of(fields, name, OUTPUT_TOKENS_MAX)) is not None
    ]
    return max(limits, default=None)


def _tools(fields: Fields) -> int:
    """How many functions; a tool that the provider runs itself is refused: nothing meters it."""
    if not fields.keys() & _TOOL_FIELDS:
        return 0
    functions = len(list_of(fields, "functions"))
    for index, tool in enumerate(list_of(fields, "tools")):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind in ("function", "custom"):
            functions += 1
        else:
            raise invalid_request(
                f"'tools[{index}].type' {str(kind)[:40]!r} has no known price; leave it out.",
                param=f"tools[{index}].type",
            )
    return functions


def _model(fields: Fields) -> str:
    model = string_of(fields, "model")
    if not model:
        raise invalid_request("You must provide a model parameter.", param="model")
    if len(model) > MODEL_CHARACTERS_MAX:
        raise invalid_request("'model' is too long.", param="model")
    return model


def _include_usage(fields: Fields) -> bool:
    options = object_of(fields, "stream_options") or {}
    return options.get("include_usage") is True


def _metadata(fields: Fields) -> dict[str, str] | None:
    value = value_of(fields, "metadata")
    if not isinstance(value, dict):
        return None
    return {str(k): v for k, v in value.items() if isinstance(v, str)}
