"""PostgreSQL array literals, so that a whole batch travels as one parameter per column.

The driver writes lists element by element in Python; a literal is one string and an order of
magnitude cheaper (a batch has dozens of columns). The server parses and checks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

from farebox.kit.texts import storable

_HEX: Final = "%032x"
_ODD: Final = re.compile(r'[\x00"\\\ud800-\udfff]')
"""What cannot stand in a quoted element as it is."""


def numbers(values: Iterable[int | None]) -> str:
    """A literal of whole numbers."""
    return "{" + ",".join(["NULL" if v is None else str(v) for v in values]) + "}"


def flags(values: Iterable[bool]) -> str:
    """A literal of booleans."""
    return "{" + ",".join(["t" if v else "f" for v in values]) + "}"


def uuids(values: Iterable[UUID | None]) -> str:
    """A literal of UUIDs."""
    return "{" + ",".join(["NULL" if v is None else _HEX % v.int for v in values]) + "}"


def instants(values: Iterable[datetime | None]) -> str:
    """A literal of instants; aware datetimes only."""
    return "{" + ",".join(["NULL" if v is None else f'"{v.isoformat()}"' for v in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    """A literal of texts.

    What PostgreSQL cannot store becomes the replacement character (``kit.texts.storable``).
    """
    return "{" + ",".join(["NULL" if v is None else _quoted(v) for v in values]) + "}"


def _quoted(text: str) -> str:
    if _ODD.search(text) is None:
        return f'"{text}"'
    text = storable(text)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
