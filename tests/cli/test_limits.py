"""``farebox limits`` and ``farebox clock``."""

from __future__ import annotations

from tests.cli.conftest import Farebox


def test_a_monthly_limit_is_set_shown_and_removed(farebox: Farebox) -> None:
    """BUD: a hard limit per calendar month, with what is used and left of it."""
    farebox("orgs", "create", "Acme")
    assert "limits set" in farebox("limits", "list").err
    made = farebox("limits", "set", "--org", "Acme", "--monthly", "100.00", "--json").document
    assert [(row["maximum"], row["left"], row["period"]) for row in made["data"]] == [
        ("100.00", "100.00", "month")
    ]
    assert farebox("limits", "list", "--json").document == made
    assert "100.00" in farebox("limits", "list").out
    assert farebox("limits", "set", "--monthly", "none", "--json").document["data"] == []
    for text in ("-1", "x"):
        error = farebox("limits", "set", f"--monthly={text}", "--json", status=2).error
        assert error["field"] == "monthly"


def test_the_clock_moves_in_a_sandbox(farebox: Farebox) -> None:
    """DESIGN.md, decision 17: forwards, as told, and shown."""
    assert farebox("clock", "show", "--json").document["offset_seconds"] == 0
    moved = farebox("clock", "advance", "31d", "--json").document
    assert (moved["offset_seconds"], moved["sandbox"]) == (31 * 86_400, True)
    assert "31 days" in farebox("clock", "show").out
    assert farebox("clock", "advance", "tomorrow", "--json", status=2).error["field"] == "duration"


def test_a_real_clock_stays(real: Farebox) -> None:
    """Outside a sandbox moving the clock is a typed refusal."""
    assert real("clock", "advance", "1d", "--json", status=1).error["reason"] == "not_a_sandbox"
