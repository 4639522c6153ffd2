"""Reading what a client asks of the simulated provider, with the real one's complaints.

Only what the simulation acts on is read; fields it does not know are let through, as OpenAI's
older endpoints do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from farebox.providers.simulated.failures import (
    ProviderFailure,
    missing,
    unknown_model,
    wrong_type,
    wrong_value,
)
from farebox.providers.simulated.models import (
    EMBEDDING_DIMENSIONS,
    FIXED_DIMENSIONS,
    without_date,
)

if TYPE_CHECKING:
    from collections.abc import Collection

_CHOICES_MAX: Final = 128
"""OpenAI's limit on ``n``."""

_STOPS_MAX: Final = 4
_INPUTS_MAX: Final = 2048
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_TIERS: Final = {
    None: "default",
    "auto": "default",
    "default": "default",
    "scale": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
}
"""Asked for -> served: ``fast`` is always reported as ``priority``."""


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion as asked for."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool
    include_usage: bool
    choices: int
    tokens_max: int | None
    """Completion tokens of one choice at most, reasoning included."""
    stops: tuple[str, ...]
    service_tier: str
    """The one that serves it, as the answer reports it."""
    tool: dict[str, Any] | None
    """The function that the answer must call."""
    tool_was_named: bool
    schema: dict[str, Any] | None
    """The JSON schema that the answer must fit; empty for any object."""
    fields: dict[str, Any]
    """The whole body, for what counts as prompt and for the prompt cache's options."""


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """Embeddings as asked for."""

    model: str
    inputs: list[str | list[int]]
    dimensions: int
    base64: bool


def parse_object(body: bytes) -> dict[str, Any]:
    """Read the JSON object that every POST has.

    Raises:
        ProviderFailure: It is none.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"We could not parse the JSON body of your request. ({error})"
        raise ProviderFailure(400, message) from error


def parse_chat(body: bytes, models: Collection[str]) -> ChatRequest:
    """Read a chat completion.

    Raises:
        ProviderFailure: As OpenAI would refuse it.
    """
    fields = parse_object(body)
    model = _model(fields, models)
    if without_date(model) in EMBEDDING_DIMENSIONS:
        message = "This is not a chat model and thus not supported in v1/chat/completions."
        raise ProviderFailure(404, message, param="model")
    stream_options = _object(fields, "stream_options") or {}
    tool, named = _forced_tool(fields)
    return ChatRequest(
        model=model,
        messages=_messages(fields),
        stream=_boolean(fields, "stream"),
        include_usage=_boolean(stream_options, "include_usage"),
        choices=_whole(fields, "n", 1, _CHOICES_MAX) or 1,
        tokens_max=_tokens_max(fields),
        stops=_stops(fields),
        service_tier=_tier(fields),
        tool=tool,
        tool_was_named=named,
        schema=_schema(fields),
        fields=fields,
    )


def parse_embeddings(body: bytes, models: Collection[str]) -> EmbeddingsRequest:
    """Read an embeddings request.

    Raises:
        ProviderFailure: As OpenAI would refuse it.
    """
    fields = parse_object(body)
    model = _model(fields, models)
    full = EMBEDDING_DIMENSIONS.get(without_date(model))
    if full is None:
        message = "You are not allowed to generate embeddings from this model"
        raise ProviderFailure(403, message, param="model")
    encoding = fields.get("encoding_format") or "float"
    if encoding not in {"float", "base64"}:
        raise wrong_value("encoding_format", "it must be 'float' or 'base64'")
    dimensions = _whole(fields, "dimensions", 1, full)
    if dimensions is not None and model in FIXED_DIMENSIONS:
        raise wrong_value("dimensions", "this model does not support it")
    return EmbeddingsRequest(
        model=model,
        inputs=_inputs(fields),
        dimensions=dimensions or full,
        base64=encoding == "base64",
    )


def _model(fields: dict[str, Any], models: Collection[str]) -> str:
    model = fields.get("model")
    if model is None or model == "":
        raise missing("model")
    if not isinstance(model, str):
        raise wrong_type("model", "a string")
    if model not in models and without_date(model) not in models:
        raise unknown_model(model[:200])
    return model


def _messages(fields: dict[str, Any]) -> list[dict[str, Any]]:
    messages = fields.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects")
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise ProviderFailure(400, message, param="messages", code="empty_array")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, dict):
            raise wrong_type(name, "an object")
        if message.get("role") not in _ROLES:
            raise wrong_value(f"{name}.role", f"supported are {', '.join(sorted(_ROLES))}")
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) for part in content):
                raise wrong_type(f"{name}.content", "an array of objects")
        elif not isinstance(content, str | None):
            raise wrong_type(f"{name}.content", "a string or an array of objects")
    return messages


def _whole(fields: dict[str, Any], param: str, least: int, most: int | None) -> int | None:
    value = fields.get(param)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(param, "an integer")
    if value < least or (most is not None and value > most):
        code = "integer_below_min_value" if value < least else "integer_above_max_value"
        bound = f"at least {least}" if value < least else f"at most {most}"
        message = f"Invalid '{param}': expected a value of {bound}, but got {value} instead."
        raise ProviderFailure(400, message, param=param, code=code)
    return value


def _boolean(fields: dict[str, Any], param: str) -> bool:
    value = fields.get(param)
    if not isinstance(value, bool | None):
        raise wrong_type(param, "a boolean")
    return bool(value)


def _object(fields: dict[str, Any], param: str) -> dict[str, Any] | None:
    value = fields.get(param)
    if not isinstance(value, dict | None):
        raise wrong_type(param, "an object")
    return value


def _tokens_max(fields: dict[str, Any]) -> int | None:
    """The lower of the two limits; the real provider refuses both at once, a sandbox need not."""
    limits = [_whole(fields, name, 1, None) for name in ("max_completion_tokens", "max_tokens")]
    return min((limit for limit in limits if limit is not None), default=None)


def _stops(fields: dict[str, Any]) -> tuple[str, ...]:
    stop = fields.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise wrong_type("stop", "a string or an array of strings")
    if len(stops) > _STOPS_MAX:
        raise wrong_value("stop", f"at most {_STOPS_MAX} sequences")
    return tuple(one for one in stops if one)


def _tier(fields: dict[str, Any]) -> str:
    asked = fields.get("service_tier")
    tier = _TIERS.get(asked) if isinstance(asked, str | None) else None
    if tier is None:
        raise wrong_value("service_tier", "it must be auto, default, flex, priority or scale")
    return tier


def _forced_tool(fields: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The function that ``tool_choice`` forces, and whether it was named (or just any required)."""
    choice = fields.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None, False
    functions = [
        tool["function"]
        for tool in fields.get("tools") or []
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if choice == "required" and functions:
        return functions[0], False
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
        for function in functions:
            if function.get("name") == name:
                return function, True
    raise wrong_value("tool_choice", "it names no function that is in 'tools'")


def _schema(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that ``response_format`` asks for."""
    wanted = _object(fields, "response_format")
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {}
    if wanted.get("type") == "json_schema":
        schema = (_object(wanted, "json_schema") or {}).get("schema")
        if isinstance(schema, dict):
            return schema
        raise missing("response_format.json_schema.schema")
    raise wrong_value("response_format.type", "it must be text, json_object or json_schema")


def _inputs(fields: dict[str, Any]) -> list[str | list[int]]:
    value = fields.get("input")
    if value is None:
        raise missing("input")
    inputs = value if isinstance(value, list) else [value]
    if inputs and all(isinstance(one, int) for one in inputs):
        inputs = [inputs]
    if not 1 <= len(inputs) <= _INPUTS_MAX:
        raise wrong_value("input", f"it must hold 1 to {_INPUTS_MAX} inputs")
    for one in inputs:
        tokens = isinstance(one, list) and all(type(token) is int for token in one)
        if not (isinstance(one, str) or tokens):
            raise wrong_type("input", "a string, an array of strings or an array of tokens")
        if not one:
            raise wrong_value("input", "an input cannot be empty")
    return inputs
