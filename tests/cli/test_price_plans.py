"""``farebox price-plans``."""

from __future__ import annotations

import pytest

from farebox.cli.price_plans import read_basis_points, read_rows, shown_percent
from farebox.kit.errors import InvalidInputError
from farebox.rating.units import Lane, Unit
from tests.cli.conftest import Farebox

ROW = '{"models": "gpt-5.4", "base": {"input": "3", "output": "20.5"}}\n'


def test_a_plan_is_revised_and_never_edited(farebox: Farebox) -> None:
    """Decision 16: a change is the next version, and says all there is to say."""
    farebox("orgs", "create", "Acme")
    first = farebox(
        *("price-plans", "set", "Reseller", "--markup", "20", "--minimum-margin", "12.5"),
        *("--free-models", "gpt-4o-mini,gpt-3*", "--rows-stdin", "--json"),
        stdin=ROW,
    ).document
    assert (first["version"], first["markup_percent"], first["minimum_margin_percent"]) == (
        *(1, "20"),
        "12.5",
    )
    assert first["free_models"] == ["gpt-4o-mini", "gpt-3*"]
    assert first["own_rows"][0]["base"] == {"input": "3.00", "output": "20.50"}
    second = farebox("price-plans", "set", "reseller", "--markup", "-5", "--json").document
    assert (second["version"], second["plan_id"]) == (2, first["plan_id"])
    assert (second["markup_percent"], second["own_rows"]) == ("-5", [])
    shown = farebox("price-plans", "show", "Reseller", "--json").document
    assert [each["version"] for each in shown["history"]] == [1, 2]
    assert shown["in_force"]["version"] == 2
    assert "gpt-5.4 (standard): input 3.00" in farebox("price-plans", "show", "Reseller").out


def test_an_organisation_is_charged_by_its_plan(farebox: Farebox) -> None:
    """The plan stands with the organisation, in the log too, and is taken away again."""
    farebox("orgs", "create", "Acme")
    plan = farebox("price-plans", "set", "Reseller", "--markup", "20", "--json").document
    given = farebox("price-plans", "assign", "Reseller", "--json").document
    assert (given["plan_id"], given["plan_name"]) == (plan["plan_id"], "Reseller")
    assert farebox("price-plans", "list", "--json").document["data"][0]["organizations"] == 1
    assert farebox("price-plans", "assign", "none", "--json").document["plan_id"] is None
    events = farebox("audit", "list", "--of", "organization.plan_assigned", "--json").document
    assert [event["after"] for event in events["data"]] == [{"plan": None}, {"plan": "Reseller"}]
    assert "price-plans list" in farebox("price-plans", "assign", "nothing", status=1).err


def test_a_customer_is_provisioned_whole(farebox: Farebox) -> None:
    """Organisation, plan, projects and the owner's invitation, in one command or not at all."""
    farebox("price-plans", "set", "Reseller", "--markup", "20")
    made = farebox(
        *("orgs", "provision", "Acme", "--owner", "ada@example.org", "--plan", "Reseller"),
        *("--split", "--json"),
    ).document
    assert made["plan_name"] == "Reseller"
    assert [each["name"] for each in made["projects"]] == [
        *("testing", "production", "customer project", "internal tool"),
    ]
    assert made["invitation"]["role"] == "owner"
    assert made["invitation"]["token"].startswith("fbx_invite_")
    failed = farebox("orgs", "provision", "Beta", "--owner", "nobody", "--split", status=2)
    assert "email" in failed.err
    assert [row["name"] for row in farebox("orgs", "list", "--json").document["data"]] == ["Acme"]


@pytest.mark.parametrize(
    ("flags", "stdin", "field"),
    [
        (("--markup", "0.001"), "", "markup"),
        (("--markup", "-101"), "", "markup"),
        (("--minimum-margin", "100"), "", "minimum_margin"),
        (("--free-models", "a*b"), "", "models"),
        (("--effective-at", "2020-01-01"), "", "effective_at"),
        (("--rows-stdin",), '{"models": "a"}', "rows cannot be read at line 1"),
        (("--rows-stdin",), '{"models": "a", "base": {"input": "x"}}', "input"),
        (("--rows-stdin",), '{"models": "a", "base": {}}', "own_rows"),
        (("--rows-stdin",), ROW + ROW, "own_rows"),
    ],
)
def test_wrong_terms_are_named(
    farebox: Farebox, flags: tuple[str, ...], stdin: str, field: str
) -> None:
    """The error says which field and how to write it."""
    farebox("orgs", "create", "Acme")
    assert field in farebox("price-plans", "set", "P", *flags, stdin=stdin, status=2).err


def test_percentages_are_exact() -> None:
    """Two decimals, whole basis points, no float anywhere."""
    for text, points in (("20", 2_000), ("-5%", -500), ("0.01", 1), ("12.5", 1_250)):
        assert read_basis_points(text, field="f") == points
        assert read_basis_points(shown_percent(points), field="f") == points
    with pytest.raises(InvalidInputError):
        read_basis_points("1e2", field="f")


def test_rows_are_read_line_by_line() -> None:
    """Lane and long-context prices too; empty lines are passed over."""
    (row,) = read_rows(
        '\n{"models": "a*", "lane": "flex", "base": {"input": "0.5"}, "long": {"input": "1"}}\n'
    )
    assert (row.models, row.lane) == ("a*", Lane.FLEX)
    assert row.base == ((Unit.INPUT, 500_000_000),)
    assert row.long == ((Unit.INPUT, 1_000_000_000),)
