"""The kinds of values that documents of the native API hold, and how values from outside are read.

Amounts are decimal strings of the major unit, instants RFC 3339 in UTC, ids have their prefix.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import parse_id
from farebox.kit.texts import storable
from farebox.operations.documents import document

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 200
"""Rows of one answer: some hundred kilobytes at most."""

TEXT_MAX: Final = 500
CURSOR_MAX: Final = 1_500
COUNT_MAX: Final = 2**53
"""The largest whole number that every JSON reader keeps exact."""

_YEARS: Final = range(1970, 9001)
"""Instants outside are slips; calendar arithmetic stays clear of its ends."""

Amount = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]+\.[0-9]{2,9}$",
        description="A decimal string of the currency's major unit, exact to a nanodollar.",
        examples=["5.00"],
    ),
]
AmountIn = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^\s*[+-]?[0-9]{1,10}(\.[0-9]{1,9})?\s*$",
        description="A decimal string of the major unit, at most nine decimals.",
        examples=["5.00"],
    ),
]
Instant = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC.",
        examples=["2026-11-20T12:00:00Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
InstantIn = Annotated[
    str,
    Meta(
        max_length=40,
        description="RFC 3339 with a time zone.",
        extra_json_schema={"format": "date-time"},
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Rows of the page.")]
Cursor = Annotated[
    str, Meta(min_length=1, max_length=CURSOR_MAX, description="next_cursor of the page before.")
]


def _id(prefix: str) -> Any:
    return Annotated[str, Meta(pattern=rf"^{prefix}_[0-9a-f]{{32}}$")]


OrganizationId = _id("org")
ProjectId = _id("proj")
KeyId = _id("key")
UserId = _id("user")
InvitationId = _id("inv")
ServiceAccountId = _id("svc")
PlanId = _id("plan")
TierId = _id("tier")
PriceId = _id("price")
ProviderId = _id("prov")
AccountId = _id("acct")
GrantId = _id("grant")
CallId = _id("req")

PATH_PREFIXES: Final = {
    "organization_id": "org",
    "project_id": "proj",
    "key_id": "key",
    "user_id": "user",
    "invitation_id": "inv",
    "service_account_id": "svc",
    "plan_id": "plan",
    "provider_id": "prov",
    "grant_id": "grant",
    "call_id": "req",
}
"""Path parameter -> what the id in it is of."""


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class PageQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of a list."""

    limit: Limit = PAGE_DEFAULT
    cursor: Cursor | None = None


T = TypeVar("T")
S = TypeVar("S", bound=Struct)


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list."""

    data: list[T]
    next_cursor: str | None
    """None at the end."""


def shown(kind: type[S], fact: Struct, *, of: str | None = None, **more: object) -> S:
    """A fact as a document: the fields that its kind has, and no others."""
    return msgspec.convert(document(fact, of=of) | more, kind)


def page_of(
    kind: type[S], rows: Sequence[Mapping[str, object]], limit: int, cursors: Sequence[object]
) -> Page[S]:
    """A page, from one row more than it has if there are more pages.

    Args:
        kind: Of its documents.
        rows: Documents, at most ``limit + 1``.
        limit: Rows of the page.
        cursors: The place of each row.
    """
    more = len(rows) > limit
    return Page(
        data=[msgspec.convert(row, kind) for row in rows[:limit]],
        next_cursor=write_cursor(str(cursors[limit - 1])) if more else None,
    )


def page_by_id(
    kind: type[S], rows: Sequence[Mapping[str, object]], limit: int, *, name: str = "id"
) -> Page[S]:
    """A page of a list in the order of ids; ``name`` is the field that has them."""
    return page_of(kind, rows, limit, [row[name] for row in rows])


def write_cursor(place: str) -> str:
    """The text of a place in a list; opaque to whoever gets it."""
    return base64.urlsafe_b64encode(place.encode()).rstrip(b"=").decode()


def read_cursor(text: str | None) -> str | None:
    """The place that a cursor names.

    Raises:
        InvalidInputError: It is none of ours.
    """
    if text is None:
        return None
    try:
        padded = text + "=" * (-len(text) % 4)
        place = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise bad_cursor() from error
    if not place or storable(place) != place:
        raise bad_cursor()
    return place


def read_id_cursor(prefix: str, text: str | None) -> UUID | None:
    """The id that a cursor names.

    Raises:
        InvalidInputError: It is none of ours.
    """
    place = read_cursor(text)
    return None if place is None else parse_id(prefix, place, field="cursor")


def read_number_cursor(text: str | None) -> int | None:
    """The number that a cursor names.

    Raises:
        InvalidInputError: It is none of ours.
    """
    place = read_cursor(text)
    if place is None:
        return None
    if not (place.isascii() and place.isdigit() and int(place[:19]) < 2**63 and len(place) < 20):
        raise bad_cursor()
    return int(place)


def bad_cursor() -> InvalidInputError:
    """A cursor that is none of ours."""
    return InvalidInputError("cursor", "must be the next_cursor of a page; leave it out to begin")


def read_instant(text: str | None, *, field: str) -> datetime | None:
    """An instant from outside, in UTC.

    Raises:
        InvalidInputError: It is none, has no time zone, or lies outside of any calendar in use.
    """
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.astimezone(UTC) if at.tzinfo is not None else at
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(field, "must be RFC 3339 such as 2026-11-20T12:00:00Z") from error
    if at.tzinfo is None:
        raise InvalidInputError(field, "must have a time zone, such as a Z at its end")
    if at.year not in _YEARS:
        raise InvalidInputError(field, "must lie between 1970 and 9000")
    return at
