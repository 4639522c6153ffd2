"""The two forms of a batch's statement: for many rows, and for one.

A statement is written once, for arrays of any length. A batch of one call, which is what a quiet
gateway has, pays for them: a function that makes rows, a join, a sort. Its form for one row takes
plain values instead, and is made from the other by rule, so that both always say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Final, cast
from uuid import UUID

from farebox.kit.texts import storable
from farebox.storage.sql import queries

Text = str | None
"""A value as PostgreSQL reads it; None is NULL."""

_HEX: Final = "%032x"
_PARAMETER: Final = r"\$\d+::\w+\[\]"
_UNNEST: Final = re.compile(rf"unnest\(({_PARAMETER}(?:,\s*{_PARAMETER})*)\)")
_ANY: Final = re.compile(r"= ANY\((\$\d+::\w+)\[\]\)")
_TYPE: Final = re.compile(r"\$(\d+)::(\w+)\[\]")


class BatchQuery:
    """A statement of a batch."""

    __slots__ = ("_is_text", "name", "of_many", "of_one")

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self.of_many = sql
        """Takes an array for each parameter."""
        self.of_one = _ANY.sub(r"= \1", _UNNEST.sub(_values, sql))
        """Takes a value for each parameter."""
        kinds = dict(_TYPE.findall(sql))
        self._is_text = [kinds[str(n)] == "text" for n in range(1, len(kinds) + 1)]

    def of(self, rows: Sequence[tuple[Text, ...]]) -> tuple[str, tuple[Text, ...]]:
        """The statement and its parameters for some rows, at least one."""
        if len(rows) == 1:
            return self.of_one, rows[0]
        columns = zip(*rows, strict=True)
        return self.of_many, tuple(
            [
                _texts(values) if is_text else _plain(values)
                for is_text, values in zip(self._is_text, columns, strict=True)
            ]
        )


@cache
def batch_queries() -> dict[str, BatchQuery]:
    """The statements of ``engine.sql`` whose parameters are all arrays of one length."""
    return {
        name: BatchQuery(name, sql)
        for name, sql in queries("engine").items()
        if _TYPE.search(sql) and sql.count("unnest(") + sql.count("= ANY(") == 1
    }


def uuid(value: UUID) -> str:
    """A UUID's text."""
    return _HEX % value.int


def uuid_or_null(value: UUID | None) -> Text:
    """A UUID's text; None is NULL."""
    return None if value is None else _HEX % value.int


def number(value: int | None) -> Text:
    """A whole number's text; None is NULL."""
    return None if value is None else str(value)


def literal(values: Iterable[object]) -> str:
    """An array of values whose texts need no quotes: whole numbers, UUIDs' texts."""
    return "{" + ",".join(map(str, values)) + "}"


def flag(value: bool) -> str:  # noqa: FBT001 - the one argument
    """A boolean's text."""
    return "t" if value else "f"


def instant(value: datetime | None) -> Text:
    """An aware instant's text; None is NULL."""
    return None if value is None else value.isoformat()


def text(value: str | None) -> Text:
    """A text that PostgreSQL can store; None is NULL."""
    return None if value is None else storable(value)


def _values(found: re.Match[str]) -> str:
    return f"(VALUES ({found[1].replace('[]', '')}))"


def _plain(values: tuple[Text, ...]) -> str:
    if None in values:
        values = tuple(["NULL" if v is None else v for v in values])
    return "{" + ",".join(cast("tuple[str, ...]", values)) + "}"


def _texts(values: tuple[Text, ...]) -> str:
    joined = "".join([v for v in values if v is not None])
    if "\\" in joined or '"' in joined:
        values = tuple([v and v.replace("\\", "\\\\").replace('"', '\\"') for v in values])
    return "{" + ",".join(["NULL" if v is None else f'"{v}"' for v in values]) + "}"
