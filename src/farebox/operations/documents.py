"""Facts as JSON documents: one rule for every type, read off its fields.

An amount becomes a decimal string, an instant ISO 8601 in UTC, an id its prefixed text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Final, get_args, get_type_hints
from uuid import UUID

import msgspec

from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount

Document = dict[str, Any]

_PREFIXES: Final = {
    "organization_id": "org",
    "project_id": "proj",
    "key_id": "key",
    "grant_id": "grant",
    "call_id": "req",
    "account_id": "acct",
    "plan_id": "plan",
    "tier_id": "tier",
    "user_id": "user",
    "service_account_id": "svc",
    "last_project_id": "proj",
    "replaces_id": "key",
    "replaced_by_id": "key",
}
"""Field -> what the id in it is of."""


def document(fact: msgspec.Struct, *, of: str | None = None) -> Document:
    """A fact's document.

    Args:
        fact: Its fields become the document's, in order.
        of: What the field ``id`` is of (a prefix of :mod:`farebox.kit.ids`).
    """
    hints = _hints(type(fact))
    return {
        name: _plain(getattr(fact, name), name, hints[name], of) for name in fact.__struct_fields__
    }


def instant(value: datetime | None) -> str | None:
    """An instant's text."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(value: object, name: str, hint: Any, of: str | None) -> object:
    match value:
        case int() if hint is Nanos or Nanos in get_args(hint):
            return format_amount(value)
        case datetime():
            return instant(value)
        case UUID():
            prefix = of if name == "id" else _PREFIXES.get(name)
            return value.hex if prefix is None else format_id(prefix, value)
        case Enum():
            return value.value
        case _:
            return _plain_inside(value, hint, of)


def _plain_inside(value: object, hint: Any, of: str | None) -> object:
    match value:
        case msgspec.Struct():
            return document(value, of=of)
        case Mapping():
            inner = get_args(hint)[-1]
            return {key: _plain(item, "", inner, of) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item, "", None, of) for item in value]
        case _:
            return value
