"""Single fields of a request's body, read with the complaint that names the field."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from farebox.gateway.openai_errors import invalid_request

Fields = dict[str, msgspec.Raw]
"""A JSON object whose values wait unread."""

NULL: Final = msgspec.Raw(b"null")

_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_any: Final = msgspec.json.Decoder()


def decoded(decoder: Any, raw: msgspec.Raw, name: str) -> Any:
    """Decode a value.

    Raises:
        GatewayError: 400 naming the field.
    """
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise invalid_request(f"'{name}' is nested too deeply.", param=name) from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise invalid_request(f"'{name}' is malformed: {error}.", param=name) from error


def value_of(fields: Fields, name: str) -> Any:
    """A field's value; None where it is missing or null."""
    raw = fields.get(name)
    return None if raw is None else decoded(_any, raw, name)


def raw_list(raw: msgspec.Raw, name: str) -> list[msgspec.Raw]:
    """The entries of a list, unread."""
    items: list[msgspec.Raw] = decoded(_raws, raw, name)
    return items


def list_of(fields: Fields, name: str) -> list[Any]:
    """A list; empty where it is missing or null."""
    if name not in fields:  # as most are, in most requests
        return []
    value = value_of(fields, name)
    if value is not None and not isinstance(value, list):
        raise invalid_request(f"'{name}' must be a list.", param=name)
    return value or []


def object_of(fields: Fields, name: str) -> dict[str, Any] | None:
    """An object; None where it is missing or null."""
    if name not in fields:
        return None
    value = value_of(fields, name)
    if value is not None and not isinstance(value, dict):
        raise invalid_request(f"'{name}' must be an object.", param=name)
    return value


def flag_of(fields: Fields, name: str) -> bool:
    """True or false; false where it is missing or null."""
    if name not in fields:
        return False
    value = value_of(fields, name)
    if value is not None and not isinstance(value, bool):
        raise invalid_request(f"'{name}' must be true or false.", param=name)
    return value is True


def string_of(fields: Fields, name: str) -> str | None:
    """A string; None where it is missing or null."""
    if name not in fields:
        return None
    value = value_of(fields, name)
    if value is not None and not isinstance(value, str):
        raise invalid_request(f"'{name}' must be a string.", param=name)
    return value


def count_of(fields: Fields, name: str, most: int) -> int | None:
    """A whole number from one on; None where it is missing or null."""
    if name not in fields:
        return None
    value = value_of(fields, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise invalid_request(f"'{name}' must be a whole number from 1 to {most}.", param=name)
    return value
