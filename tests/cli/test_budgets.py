"""``farebox budgets``: the limits of money that people ask for first."""

from __future__ import annotations

from tests.cli.conftest import Farebox


def test_soft_and_hard_budgets_stand_side_by_side(farebox: Farebox) -> None:
    """BUD-01 to BUD-06: by month, week, day or in all, with an owner and percentages told."""
    farebox("orgs", "create", "Acme")
    farebox("projects", "create", "Search", "--org", "Acme")
    assert "budgets set" in farebox("budgets", "list").err
    farebox("budgets", "set", "--monthly", "100")
    farebox("budgets", "set", "--monthly", "80", "--soft", "--thresholds", "90,100")
    farebox("budgets", "set", "--project", "Search", "--weekly", "20", "--owner", "ada@acme.test")
    rows = farebox("budgets", "list", "--json").document["data"]
    assert {(r["scope_kind"], r["period"], r["effect"], r["maximum"]) for r in rows} == {
        ("organization", "month", "hard", "100.00"),
        ("organization", "month", "alert", "80.00"),
        ("project", "week", "hard", "20.00"),
    }
    assert "(alert)" in farebox("budgets", "list").out
    farebox("budgets", "set", "--monthly", "none", "--soft")
    assert len(farebox("budgets", "list", "--json").document["data"]) == 2


def test_budgets_are_limits_and_other_limits_are_no_budgets(farebox: Farebox) -> None:
    """BUD-10: a rate is no budget; both commands show the same rows of the same engine."""
    farebox("orgs", "create", "Acme")
    farebox("limits", "set", "--per-minute", "60", "--calls")
    assert farebox("budgets", "list", "--json").document["data"] == []
    made = farebox("budgets", "set", "--daily", "5.00", "--json").document["data"]
    assert made[0] in farebox("limits", "list", "--json").document["data"]
    error = farebox("budgets", "set", "--daily=x", "--json", status=2).error
    assert error["field"] == "daily"
    assert farebox("budgets", "set", "--per-minute", "60", status=2).err
