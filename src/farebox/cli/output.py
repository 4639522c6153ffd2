"""What a command says: one JSON document, or text that fits 80 columns; errors on one line.

Amounts are decimal strings of the major unit, instants are ISO 8601 in UTC, ids have their prefix.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from farebox.kit.errors import FareboxError, InvalidInputError, RefusedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

Document = dict[str, Any]

WIDTH: Final = 80
"""Text is laid out for this many columns, or more where the terminal has them."""


def show(args: argparse.Namespace, document: Document, text: Callable[[], None]) -> None:
    """Print the document with ``--json``, else the text.

    Args:
        args: The command's arguments.
        document: What JSON shows, complete.
        text: Prints the same for people.
    """
    if args.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        text()


def page(rows: Sequence[Document], cursor: str | None) -> Document:
    """A list's document: one page and where the next begins."""
    return {
        "object": "list",
        "data": list(rows),
        "has_more": cursor is not None,
        "next_cursor": cursor,
    }


def say(*lines: str) -> None:
    """Print lines; what a client put into a label cannot steer the terminal."""
    for line in lines:
        sys.stdout.write(harmless(line) + "\n")


def harmless(text: str) -> str:
    """The text without control characters: they become the replacement character."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def hint(*lines: str) -> None:
    """Print what to do next, on stderr, so that it never stands in a pipe."""
    for line in lines:
        sys.stderr.write(line + "\n")


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print labelled values, one a line; empty ones are left out."""
    shown = [(label, str(value)) for label, value in pairs if value not in {None, ""}]
    width = max((len(label) for label, _ in shown), default=0)
    say(*(f"{label:<{width}}  {value}" for label, value in shown))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> None:
    """Print a table.

    Args:
        headings: One per column. A heading that begins with ``*`` is of a column that is never
            wrapped or cut, such as an id that people copy.
        rows: The cells; None is shown as nothing.
        right: The headings of columns that hold figures, separated by blanks.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    figures = set(right.split())
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        name = heading.removeprefix("*")
        made.add_column(
            Text(name),
            justify="right" if name in figures else "left",
            no_wrap=heading.startswith("*") or name in figures,
            overflow="fold",
        )
    for row in rows:
        # Text objects: a name in square brackets is a name, not a colour.
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.width < WIDTH:
        console.width = WIDTH
    with console.capture() as printed:
        console.print(made)
    say(*(line.rstrip() for line in printed.get().splitlines()))


def short(instant: datetime | None, *, none: str = "never") -> str:
    """An instant as tables show it: to the minute, in UTC."""
    return none if instant is None else f"{instant:%Y-%m-%d %H:%M}"


def print_error(error: FareboxError, *, as_json: bool) -> None:
    """Say on stderr what is wrong and what to do."""
    if not as_json:
        sys.stderr.write(f"farebox: error: {' '.join(error.message.split())}\n")
        return
    described: Document = {"code": error.code, "message": error.message}
    if isinstance(error, InvalidInputError):
        described["field"] = error.field
    if isinstance(error, RefusedError):
        described["reason"] = error.reason
    sys.stderr.write(json.dumps({"error": described}) + "\n")
