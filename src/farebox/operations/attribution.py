"""Who a call is for, as its ``X-Farebox-`` headers say it (ATT-01).

The gateway reads them of every call, and both planes of a key that asks what is left of it: what it
is told is of the very scopes that its calls are counted under.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.ledger.scopes import RUN_SEPARATOR

LABEL_CHARACTERS_MAX: Final = 200
TAGS_MAX: Final = 32
TAGS_CHARACTERS_MAX: Final = 4_096
TAG_KEY_CHARACTERS_MAX: Final = 64
TAG_VALUE_CHARACTERS_MAX: Final = 256

RUN_PARTS_MAX: Final = 16
"""Runs within runs: each one's limits are looked up with every call."""

HEADERS: Final = {
    "X-Farebox-User": "Whom the call is for.",
    "X-Farebox-Feature": "The feature that it belongs to.",
    "X-Farebox-Environment": "Its environment; left out, the project's.",
    "X-Farebox-Run": "The run that it is a part of, with the runs before it: crawl-17/page-3.",
    "X-Farebox-Tags": "k=v,k=v.",
}
"""Headers that name scopes, as people write them -> what they say."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What a call says of itself besides its key: each names a scope, or is empty."""

    user: str = ""
    feature: str = ""
    environment: str = ""
    run: str = ""
    tags: tuple[tuple[str, str], ...] = ()


NAMELESS: Final = Names()


def read_names(headers: Mapping[str, str]) -> Names:
    """What the headers name.

    Args:
        headers: Names in lower case.

    Raises:
        InvalidInputError: Naming the header that is too long or malformed.
    """
    return Names(
        user=read_label(headers, "x-farebox-user"),
        feature=read_label(headers, "x-farebox-feature"),
        environment=read_label(headers, "x-farebox-environment"),
        run=read_run(headers),
        tags=tuple(sorted(read_tags(headers.get("x-farebox-tags", "")).items())),
    )


def read_label(headers: Mapping[str, str], name: str) -> str:
    """One header's text; empty where there is none.

    Raises:
        InvalidInputError: It is too long.
    """
    value = headers.get(name, "").strip()
    if len(value) > LABEL_CHARACTERS_MAX:
        shown = "-".join(part.capitalize() for part in name.split("-"))
        raise InvalidInputError(
            shown, f"has {len(value)} characters; send at most {LABEL_CHARACTERS_MAX}"
        )
    return value


def read_tags(text: str) -> dict[str, str]:
    """Read ``k=v,k=v``.

    Raises:
        InvalidInputError: Too long, too many, or not pairs.
    """
    if not text:
        return {}
    where = "X-Farebox-Tags"
    if len(text) > TAGS_CHARACTERS_MAX:
        raise InvalidInputError(
            where, f"has {len(text)} characters; send at most {TAGS_CHARACTERS_MAX}"
        )
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    if len(pairs) > TAGS_MAX:
        raise InvalidInputError(where, f"has {len(pairs)} tags; send at most {TAGS_MAX}")
    tags: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key, value = key.strip(), value.strip()
        if not separator or not key:
            raise InvalidInputError(
                where, f"must look like team=search,tier=gold (got {pair[:40]!r})"
            )
        if len(key) > TAG_KEY_CHARACTERS_MAX or len(value) > TAG_VALUE_CHARACTERS_MAX:
            raise InvalidInputError(
                where,
                f"may have {TAG_KEY_CHARACTERS_MAX} characters in a key and "
                f"{TAG_VALUE_CHARACTERS_MAX} in a value",
            )
        tags[key] = value
    return tags


def read_run(headers: Mapping[str, str]) -> str:
    """The run, with the runs it is a part of before it: ``crawl-17/page-3`` (BUD-12).

    Raises:
        InvalidInputError: It is too long, too deep, or a part of it has no name.
    """
    run = read_label(headers, "x-farebox-run")
    parts = run.split(RUN_SEPARATOR) if run else []
    if len(parts) > RUN_PARTS_MAX or not all(part.strip() for part in parts):
        raise InvalidInputError(
            "X-Farebox-Run",
            f"must be up to {RUN_PARTS_MAX} names with a slash between them, such as "
            f"crawl-17/page-3 (got {run[:40]!r})",
        )
    return run
