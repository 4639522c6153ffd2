"""``farebox books check``."""

from __future__ import annotations

import asyncio

import pytest

from farebox.kit.ids import format_id
from tests.support.command_line import CommandLine
from tests.support.small_books import SmallBooks, small_books


@pytest.fixture
def books(dsn: str) -> SmallBooks:
    """A few calls of every kind."""
    return asyncio.run(small_books(dsn))


@pytest.fixture
def farebox(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line on that database."""
    return CommandLine(dsn, monkeypatch, capsys)


def test_clean_books_exit_with_zero(books: SmallBooks, farebox: CommandLine) -> None:
    """Books that agree are clean, and the document counts what was checked."""
    found = farebox.json("books", "check")
    assert found["status"] == "clean"
    assert found["findings"] == []
    assert found["checked"]["calls"] == 5
    assert found["checked"]["holds"] == 1
    assert found["checked_at"].startswith("2026-03-01T04:")
    assert farebox.run("books", "check", "--org", books.tenant.name) == 0
    assert farebox.out.startswith("The books are clean. Checked: 1 organizations, 3 grants")


def test_broken_books_exit_with_one(books: SmallBooks, farebox: CommandLine) -> None:
    """A difference is exit status 1, and names the row and both figures."""
    books.traffic.sql("UPDATE call SET line_nanos[1] = line_nanos[1] + 1 WHERE state = 'settled'")
    assert farebox.run("books", "check") == 1
    assert all(len(line) <= 80 for line in farebox.out.splitlines())
    assert "And 2 more." in farebox.out
    assert "The books are broken." in farebox.out
    assert "Nothing was changed." in farebox.err

    found = farebox.json("books", "check")
    assert found["status"] == "broken"
    codes = {finding["code"]: finding for finding in found["findings"]}
    assert set(codes) == {"call_lines", "call_line_amount"}
    first = min(books.calls[name] for name in ("settled", "returned", "beyond"))
    wrong = codes["call_lines"]
    assert wrong["subject"] == format_id("req", first)
    assert wrong["organization_id"] == format_id("org", books.tenant.id)
    assert (wrong["severity"], wrong["times"]) == ("broken", 3)
    assert wrong["expected"] != wrong["found"]


def test_a_warning_does_not_break_the_books(books: SmallBooks, farebox: CommandLine) -> None:
    """A hold that nobody swept is told, and the exit status stays 0."""
    books.traffic.sql("UPDATE hold SET latest_end = latest_end - interval '1 day'")
    assert farebox.run("books", "check") == 0
    assert "warning: " in farebox.out
    found = farebox.json("books", "check")
    assert found["status"] == "clean"
    assert [finding["severity"] for finding in found["findings"]] == ["warning"]


def test_an_unknown_organisation_is_refused(books: SmallBooks, farebox: CommandLine) -> None:
    """A name that nobody has is an error, not clean books."""
    assert farebox.run("books", "check", "--org", "nobody") == 1
    assert "nobody" in farebox.err
    assert farebox.out == ""
