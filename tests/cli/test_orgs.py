"""``farebox orgs``."""

from __future__ import annotations

from tests.cli.conftest import Farebox


def test_the_zone_is_changed_under_limits(farebox: Farebox) -> None:
    """BUD-01: months that are counted begin by the new zone at once."""
    farebox("orgs", "create", "Acme")
    farebox("limits", "set", "--monthly", "5")
    moved = farebox("orgs", "update", "acme", "--zone", "Asia/Tokyo", "--json").document
    assert (moved["zone"], moved["name"]) == ("Asia/Tokyo", "Acme")
    assert "IANA" in farebox("orgs", "update", "acme", "--zone", "Mars", status=2).err
    (limit,) = farebox("limits", "list", "--json").document["data"]
    assert limit["starts_at"].endswith("T15:00:00Z")


def test_an_organisation_is_made_shown_changed_and_listed(farebox: Farebox) -> None:
    """DED-19, CRD-17: every setting is visible, by id or by name, and can be changed by name."""
    made = farebox(
        "orgs", "create", "Acme", "--currency", "eur", "--zone", "Europe/Berlin", "--json"
    ).document
    assert made["id"].startswith("org_")
    assert (made["currency"], made["zone"], made["billing_mode"]) == (
        "EUR",
        "Europe/Berlin",
        "prepaid",
    )
    changed = farebox(
        *("orgs", "update", "acme", "--name", "Acme 2", "--floor", "1.5", "--on-overrun", "owe"),
        *("--on-lapse", "ceiling", "--deactivate", "--json"),
    ).document
    assert (changed["name"], changed["floor"], changed["active"]) == ("Acme 2", "1.50", False)
    assert (changed["on_overrun"], changed["on_lapse"]) == ("owe", "ceiling")
    shown = farebox("orgs", "show", made["id"], "--json").document
    assert shown["balance"]["maximum_exposure"] == "1.50"
    assert {key: shown[key] for key in changed} == changed
    listed = farebox("orgs", "list", "--json").document
    assert listed["data"] == [changed]
    assert farebox("orgs", "update", "Acme 2", "--activate", "--json").document["active"]


def test_a_list_goes_on_at_its_cursor(farebox: Farebox) -> None:
    """Pages do not overlap and leave nothing out."""
    names = ["A", "B", "C"]
    for name in names:
        farebox("orgs", "create", name)
    first = farebox("orgs", "list", "--limit", "2", "--json").document
    assert first["has_more"] is True
    rest = farebox("orgs", "list", "--cursor", first["next_cursor"], "--json").document
    assert [row["name"] for row in first["data"] + rest["data"]] == names
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    farebox("orgs", "list", "--cursor", "zzz", status=2)
    farebox("orgs", "list", "--limit", "0", status=2)


def test_an_empty_list_says_what_to_do(farebox: Farebox) -> None:
    """Nobody is left before an empty screen; the hint is on stderr, out of every pipe."""
    outcome = farebox("orgs", "list")
    assert outcome.out == ""
    assert "farebox orgs create" in outcome.err


def test_what_is_wrong_is_named(farebox: Farebox) -> None:
    """Field and fix, and the status of a wrong use."""
    for arguments, said in (
        (("create", "x", "--currency", "dollars"), "currency must be three letters"),
        (("create", "x", "--zone", "Mars"), "zone must be an IANA time zone"),
        (("create", "x", "--floor", "-1"), "floor must be zero or more"),
    ):
        assert said in farebox("orgs", *arguments, status=2).err
    farebox("orgs", "create", "x")
    assert "already" in farebox("orgs", "create", "X", status=1).err
    assert "settings" in farebox("orgs", "update", "x", status=2).err
    assert "floor" in farebox("orgs", "update", "x", "--floor", "-1", status=2).err
