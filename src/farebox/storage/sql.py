"""Named SQL: every query stands in a ``.sql`` file with a name line and is read from there once."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = "-- name: "


@cache
def queries(file: str) -> dict[str, str]:
    """The queries of ``queries/<file>.sql`` by name.

    Comment lines are left out, so that they never travel to the server.
    """
    text = (files("farebox.storage") / "queries" / f"{file}.sql").read_text()
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_NAME):
            name = line.removeprefix(_NAME).strip()
            assert name not in found, name
            lines = found[name] = []
        elif line.strip() and not line.startswith("--"):
            lines.append(line)
    return {name: "\n".join(body) for name, body in found.items()}
