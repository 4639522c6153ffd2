"""``farebox tiers``: the table as data, and limits that follow."""

from __future__ import annotations

from typing import Any

import pytest

from farebox.cli import tiers as cli_tiers
from farebox.operations import tiers
from farebox.operations.lane import QuarantinedError
from tests.cli.conftest import Farebox


@pytest.fixture
def ladder(farebox: Farebox) -> None:
    """Three tiers and an organisation."""
    farebox("orgs", "create", "Acme")
    farebox("tiers", "set", "Free", "--position", "0", "--monthly-maximum", "100")
    farebox(
        *("tiers", "set", "Build", "--position", "1", "--purchases", "5"),
        *("--monthly-maximum", "500", "--balance-maximum", "100", "--recharge-maximum", "50"),
        *("--rate", "gpt-5*:calls_per_minute=5000,tokens_per_minute=1000000"),
        *("--rate", "*:calls_per_day=100000"),
    )
    farebox("tiers", "set", "Grow", "--position", "2", "--purchases", "500", "--age-days", "30")


def limits(farebox: Farebox) -> list[tuple[Any, ...]]:
    """The organisation's limits."""
    rows = farebox("limits", "list", "--json").document["data"]
    found = [(r["measure"], r["period"], r["models"], r["maximum"], r["owner"]) for r in rows]
    return sorted(found, key=str)


def test_purchases_move_an_organisation_up(farebox: Farebox, ladder: None) -> None:
    """LIM-05, LIM-07: the rule assigns, limits follow, and what the next tier needs is shown."""
    before = farebox("tiers", "show", "--json").document
    assert (before["tier"]["name"], before["next"]["name"]) == ("Free", "Build")
    assert before["next"]["purchases_missing"] == "5.00"
    assert limits(farebox) == [("money", "month", None, "100.00", "tier Free")]
    farebox("credits", "grant", "--amount", "7", "--source", "purchased")
    farebox("credits", "grant", "--amount", "900", "--source", "promo")
    assert farebox("tiers", "apply", "--json").document["organizations_changed"] == 1
    assert farebox("tiers", "apply", "--json").document["organizations_changed"] == 0
    after = farebox("tiers", "show", "--json").document
    assert (after["tier"]["name"], after["fixed"]) == ("Build", False)
    assert after["next"]["purchases_missing"] == "493.00"
    assert after["next"]["old_enough_at"] is not None
    assert (after["purchase_room"], after["recharge_room"]) == ("0.00", "0.00")
    assert limits(farebox) == [
        ("calls", "minute", "gpt-5*", 5000, "tier Build"),
        ("calls", "utc_day", "*", 100000, "tier Build"),
        ("money", "month", None, "500.00", "tier Build"),
        ("tokens", "minute", "gpt-5*", 1000000, "tier Build"),
    ]
    text = farebox("tiers", "show").out
    assert "Next: Grow: 493.00 more bought and old enough on" in text
    assert "5,000 calls per minute" in text


def test_a_tier_stands_beside_the_organisations_own_limit(farebox: Farebox, ladder: None) -> None:
    """LIM-06, BUD-11: a budget is another limit than the tier's, and neither removes the other."""
    farebox("limits", "set", "--monthly", "20")
    farebox("tiers", "assign", "Build")
    assert ("money", "month", None, "20.00", None) in limits(farebox)
    assert ("money", "month", None, "500.00", "tier Build") in limits(farebox)


def test_a_tiers_limit_is_not_changed_by_hand(farebox: Farebox, ladder: None) -> None:
    """LIM-06: what is set and removed by hand is one's own, of the same kind; the tier's stays."""
    farebox("tiers", "assign", "Build")
    rate = ("limits", "set", "--calls", "--models", "gpt-5*", "--per-minute")
    before = limits(farebox)
    assert "(usage tier)" in farebox(*rate, "9").out
    assert len(limits(farebox)) == len(before) + 1
    farebox(*rate, "none")
    assert limits(farebox) == before


def test_a_tier_given_by_hand_stays(farebox: Farebox, ladder: None) -> None:
    """The rule moves nobody who was given a tier, until it is asked to again."""
    given = farebox("tiers", "assign", "Grow", "--json").document
    assert (given["tier"]["name"], given["fixed"], given["next"]) == ("Grow", True, None)
    assert limits(farebox) == []
    farebox("tiers", "apply")
    assert farebox("tiers", "show", "--json").document["tier"]["name"] == "Grow"
    assert "highest" in farebox("tiers", "show").out
    refused = farebox("tiers", "remove", "Grow", status=1)
    assert "stand in this tier" in refused.err
    assert farebox("tiers", "assign", "auto", "--json").document["tier"]["name"] == "Free"
    farebox("tiers", "remove", "Grow")
    assert len(farebox("tiers", "list", "--json").document["data"]) == 2


def test_a_changed_tier_changes_its_organisations(farebox: Farebox, ladder: None) -> None:
    """Tiers are data: the table's row is changed whole, and limits follow at once."""
    farebox("tiers", "set", "free", "--position", "0", "--monthly-maximum", "150")
    assert limits(farebox) == [("money", "month", None, "150.00", "tier free")]
    assert farebox("tiers", "list").out.count("150.00") == 1


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (("--rate", "gpt-5*"), "rate"),
        (("--rate", "gpt-5*:calls=5"), "rate"),
        (("--rate", "*-mini:calls_per_minute=5"), "rates"),
        (("--rate", "a:calls_per_minute=x"), "calls_per_minute"),
        (("--rate", "a:calls_per_minute=1", "--rate", "a:calls_per_day=1"), "rates"),
        (("--monthly-maximum", "-1"), "monthly_maximum"),
        (("--age-days", "x"), "age_days"),
        (("--currency", "dollars"), "currency"),
    ],
)
def test_a_wrong_tier_is_named(farebox: Farebox, flags: tuple[str, ...], field: str) -> None:
    """The error says which field and how to write it."""
    farebox("orgs", "create", "Acme")
    outcome = farebox("tiers", "set", "T", "--position", "0", *flags, status=2)
    assert field in outcome.err


def test_two_tiers_have_two_places(farebox: Farebox, ladder: None) -> None:
    """A position is taken once per currency."""
    assert "position" in farebox("tiers", "set", "Other", "--position", "1", status=1).err
    farebox("tiers", "set", "Other", "--position", "1", "--currency", "EUR")
    refused = farebox("tiers", "assign", "Other", status=1)
    assert "tiers list" in refused.err


def test_many_organisations_follow_in_the_background(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIM-05: what a command does not wait for is said, with what does it now."""
    monkeypatch.setattr(tiers, "AT_ONCE", 1)
    for name in ("Acme", "Zoo"):
        farebox("orgs", "create", name)
    said = farebox("tiers", "set", "Free", "--position", "0", "--monthly-maximum", "100")
    assert "farebox tiers apply" in said.err
    assert farebox("tiers", "apply", "--json").document["organizations_changed"] == 1
    again = farebox("tiers", "set", "Free", "--position", "0", "--monthly-maximum", "100", "--json")
    assert again.document["all_follow"] is False


def test_who_could_not_be_given_their_limits_is_named(
    farebox: Farebox, ladder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIM-05: the others have theirs; the command fails, and says whose stay as they were and why,
    of many the first.
    """
    farebox("orgs", "create", "Zoo")
    farebox("tiers", "apply")

    async def fails(*_: object) -> int:
        raise QuarantinedError

    monkeypatch.setattr(tiers.TierDesk, "_apply", fails)
    monkeypatch.setattr(cli_tiers, "_FAILED_SHOWN", 1)
    applied = farebox("tiers", "apply", "--json", status=1)
    assert applied.document["organizations_changed"] == 0
    assert applied.document["organizations_failed"] == 2
    named, more = applied.err.splitlines()
    assert named.startswith("org_")
    assert named.endswith(f"keeps its limits: {QuarantinedError()}")
    assert more == "... and 1 more."
