"""Reading what people type after a flag; every error names the field and how to write it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from farebox.kit.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse

PAGE_MAX: Final = 1000
"""Rows of one page at most; the next page begins at its cursor."""

ADVANCE_MAX: Final = timedelta(days=3660)
"""A sandbox's clock moves by ten years at most at a time."""

_DURATION: Final = re.compile(r"(?P<count>\d{1,9})(?P<unit>[smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_page_arguments(parser: argparse.ArgumentParser, *, limit: int = 100) -> None:
    """Add ``--limit`` and ``--cursor``."""
    parser.add_argument(
        "--limit", default=str(limit), metavar="N", help=f"rows to show (default {limit})"
    )
    parser.add_argument("--cursor", metavar="C", help="begin after this: next_cursor of a page")


def read_limit(args: argparse.Namespace) -> int:
    """The page's size.

    Raises:
        InvalidInputError: It is not from 1 to :data:`PAGE_MAX`.
    """
    return read_count(args.limit, field="limit", low=1, high=PAGE_MAX)


def read_count(text: str, *, field: str, low: int, high: int) -> int:
    """A whole number.

    Raises:
        InvalidInputError: It is none, or out of range.
    """
    stripped = text.strip().replace("_", "")
    if not (stripped.isascii() and stripped.isdigit() and low <= int(stripped[:20]) <= high):
        raise InvalidInputError(
            field, f"must be a whole number from {low:,} to {high:,} (got {text[:40]!r})"
        )
    return int(stripped)


def read_instant(text: str, *, field: str) -> datetime:
    """An instant: ISO 8601 with a zone, or a date, which means its beginning in UTC.

    Raises:
        InvalidInputError: It is neither.
    """
    stripped = text.strip()
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", stripped):
            return datetime.combine(date.fromisoformat(stripped), time(), UTC)
        moment = datetime.fromisoformat(stripped)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InvalidInputError(
        field,
        "must be a date such as 2027-01-31 (its beginning in UTC) or a time with its zone such as "
        f"2027-01-31T12:00:00Z (got {stripped[:40]!r})",
    )


def read_duration(text: str, *, field: str) -> timedelta:
    """A length of time, forwards: ``90s``, ``30m``, ``12h``, ``31d``, ``2w``.

    Raises:
        InvalidInputError: It is none, or longer than :data:`ADVANCE_MAX`.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    length = timedelta(0)
    if match is not None:
        try:
            length = timedelta(**{_UNITS[match["unit"]]: int(match["count"])})
        except OverflowError:
            match = None
    if match is None or not timedelta(0) < length <= ADVANCE_MAX:
        raise InvalidInputError(
            field,
            "must be a length of time such as 90s, 30m, 12h, 31d or 2w, "
            f"at most {ADVANCE_MAX.days} days (got {text[:40]!r})",
        )
    return length
