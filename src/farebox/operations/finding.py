"""Finding things by what people type: an id or a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from farebox.kit.errors import ConflictError, NotFoundError
from farebox.kit.ids import looks_like_id, parse_id
from farebox.tenancy.names import parse_name

NAMED_MAX: Final = 5
"""So many of several candidates are named in an error."""

_Found = TypeVar("_Found")

_LISTED: Final = {
    "organisation": "orgs list",
    "project": "projects list",
    "key": "keys list",
    "service account": "service-accounts list",
    "price plan": "price-plans list",
    "tier": "tiers list",
    "management key": "keys list --management",
    "person": "members list",
}
"""Kind of thing -> the command that lists them."""


class By(NamedTuple):
    """What to look for: exactly one of the two."""

    id: UUID | None = None
    name: str | None = None


def by_id_or_name(prefix: str, text: str, field: str) -> By:
    """An id looks like one; everything else is a name (names may not look like ids)."""
    stripped = text.strip()
    if looks_like_id(prefix, stripped):
        return By(id=parse_id(prefix, stripped, field=field))
    if re.fullmatch(r"[0-9a-fA-F-]{32,36}", stripped):
        return By(id=parse_id(prefix, stripped, field=field))
    return By(name=parse_name(stripped, field=field))


def only(found: Sequence[_Found], kind: str, text: str, field: str) -> _Found:
    """The one that was found.

    Raises:
        NotFoundError: There is none; names the command that lists them.
        ConflictError: There are several of that name.
    """
    if len(found) > 1:
        raise ConflictError(f"{field}: {text!r} names several of kind {kind}; give the id.")
    if not found:
        raise NotFoundError(
            f"There is no {kind} {text[:80]!r}; `farebox {_LISTED[kind]}` shows them."
        )
    return found[0]


def candidates(names: Sequence[str]) -> str:
    """Several names in an error, not too many of them."""
    shown = ", ".join(names[:NAMED_MAX])
    return f"{shown}, ..." if len(names) > NAMED_MAX else shown
