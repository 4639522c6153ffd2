"""The table of field bugs is true: every test that it names is there, and no row is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS / "FIELD_BUGS.md"

APPLY = (range(1, 35), range(54, 69))
"""Rows on budgets, false refusals, storage and payments: each is a test or has its reason."""

_ROW = re.compile(r"^\| ([\d, to]+) \| (.+) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_test_of_the_table_exists() -> None:
    """Whoever reads the table finds the test at its path, under its name."""
    named = [found.groups() for found in _TEST.finditer(TABLE.read_text(encoding="utf-8"))]
    assert named
    missing = [f"{path}::{name}" for path, name in named if name not in _functions(TESTS / path)]
    assert missing == []


def test_every_row_has_a_test_or_a_reason() -> None:
    """No report of another gateway is passed over in silence."""
    rows = _ROW.findall(TABLE.read_text(encoding="utf-8"))
    told = {number for numbers, _, _ in rows for number in _numbers(numbers)}
    assert [number for span in APPLY for number in span if number not in told] == []
    for numbers, _, where in rows:
        assert _TEST.fullmatch(where) or where.endswith("."), numbers


def _numbers(text: str) -> list[int]:
    first, _, last = text.partition(" to ")
    if last:
        return list(range(int(first), int(last) + 1))
    return [int(number) for number in text.split(",")]


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
