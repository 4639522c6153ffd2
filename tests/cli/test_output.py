"""What a command prints."""

from __future__ import annotations

import pytest

from farebox.cli.output import facts, page, table


def test_a_table_fits_and_keeps_what_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    """80 columns, ids in one piece, figures to the right, and brackets in names left alone."""
    identity = "grant_" + "0" * 32
    table(
        ["*id", "name", "left"],
        [(identity, "[red]" + "long name " * 20, "5.00"), (identity, None, "12.345678901")],
        right="left",
    )
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert printed.count(identity) == 2
    assert "[red]long" in printed
    assert lines[0].split() == ["id", "name", "left"]
    assert lines[1].endswith("        5.00")
    assert lines[-1].endswith(" 12.345678901")


def test_facts_are_aligned_and_empty_ones_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A label a line; what there is not is not said."""
    facts([("id", 1), ("a long label", "x"), ("none", None), ("empty", "")])
    assert capsys.readouterr().out == "id            1\na long label  x\n"


def test_a_page_says_whether_there_is_more() -> None:
    """The cursor and the flag agree."""
    assert page([], None) == {"object": "list", "data": [], "has_more": False, "next_cursor": None}
    assert page([{}], "c")["has_more"] is True
