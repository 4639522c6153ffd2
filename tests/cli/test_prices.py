"""``farebox prices`` and ``farebox models``."""

from __future__ import annotations

import pytest

from farebox.providers import price_catalogue
from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.rating.units import Lane
from tests.cli.conftest import Farebox

LOCAL = ("--provider", "local", "--model", "llama-4")
FREE = ("--input", "0", "--output", "0")


def test_the_catalogue_comes_in_once(farebox: Farebox) -> None:
    """The second import finds nothing new, and the revision of the catalogue stays."""
    first = farebox("prices", "import", "--json").document
    assert first["added"] == first["listed"] > 2_000
    again = farebox("prices", "import", "--json").document
    assert (again["added"], again["catalogue_revision"]) == (0, first["catalogue_revision"])
    shown = farebox("prices", "show", "gpt-5.4-2026-03-05", "--json").document
    assert shown["model"] == "gpt-5.4"
    standard = next(v for v in shown["versions"] if v["lane"] == "standard")
    assert standard["prices"]["input"] == "2.50"
    assert farebox("prices", "check", "--json").document["status"] == "clean"
    assert "standard" in farebox("prices", "show", "gpt-5.4").out


@pytest.mark.usefixtures("few_prices")
def test_prices_are_listed_page_by_page(farebox: Farebox) -> None:
    """One row per model and lane in force; an exact name means that model alone."""
    farebox("prices", "import")
    rows: list[dict[str, str]] = []
    cursor: tuple[str, ...] = ()
    while True:
        page = farebox(
            *("prices", "list", "--provider", "openai", "--model", "gpt-5.4"),
            *("--limit", "3", "--json", *cursor),
        ).document
        rows += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = ("--cursor", page["next_cursor"])
    assert [row["lane"] for row in rows] == ["batch", "flex", "priority", "standard"]
    assert {row["model"] for row in rows} == {"gpt-5.4"}
    several = farebox("prices", "list", "--model", "gpt-5.", "--lane", "flex", "--json").document
    assert len({row["model"] for row in several["data"]}) > 1
    assert max(map(len, farebox("prices", "list").out.splitlines())) <= 80
    farebox("prices", "list", "--cursor", "x", status=2)


@pytest.mark.usefixtures("few_prices")
def test_a_price_is_set_by_hand_and_stands(farebox: Farebox) -> None:
    """Zero is a price; a later import leaves it alone, and the check knows it is on purpose."""
    made = farebox(
        *("prices", "set", *LOCAL, *FREE, "--context-window", "131072", "--output-max", "8192"),
        "--json",
    ).document
    assert made["prices"] == {"input": "0.00", "output": "0.00"}
    assert made["model_facts"]["context_window"] == 131_072
    farebox("prices", "import")
    farebox(
        *("prices", "set", "--provider", "openai", "--model", "gpt-5.4"),
        *("--input", "3", "--output", "20", "--cached", "0.3"),
    )
    again = farebox("prices", "import", "--json").document
    assert [(row["model"], row["lane"]) for row in again["kept"]] == [("gpt-5.4", "standard")]
    listed = farebox(
        *("prices", "list", "--provider", "openai", "--model", "gpt-5.4"),
        *("--lane", "standard", "--json"),
    ).document
    assert listed["data"][0]["prices"] == {
        "input": "3.00",
        "output": "20.00",
        "cached_input": "0.30",
    }
    checked = farebox("prices", "check", "--json").document
    assert (checked["status"], checked["set_by_hand"]) == ("clean", 2)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((*LOCAL, "--input", "-1", "--output", "0"), "input"),
        ((*LOCAL, "--input", "0.0000000001", "--output", "0"), "input"),
        ((*LOCAL, "--input", "1", "--output", "NaN"), "output"),
        ((*LOCAL, *FREE, "--cache-write", "x"), "cache-write"),
        ((*LOCAL, "--input", "1000001", "--output", "0"), "input"),
        ((*LOCAL, *FREE, "--effective-at", "2020-01-01"), "effective_at"),
        ((*LOCAL, *FREE, "--context-window", "0"), "context_window"),
        ((*LOCAL, *FREE, "--currency", "coins"), "currency"),
        (("--provider", "a b", "--model", "m", *FREE), "provider"),
        (("--provider", "local", "--model", " ", *FREE), "model"),
    ],
)
def test_a_wrong_price_is_refused(farebox: Farebox, arguments: tuple[str, ...], field: str) -> None:
    """Nothing is rounded, nothing past is re-priced, and the field is named."""
    assert farebox("prices", "set", *arguments, "--json", status=2).error["field"] == field
    assert farebox("prices", "list", "--json").document["data"] == []


@pytest.mark.usefixtures("few_prices")
def test_an_alias_is_no_model_of_its_own(farebox: Farebox) -> None:
    """A price under another name of a model would never be found, so the name is told."""
    farebox("prices", "import")
    error = farebox(
        *("prices", "set", "--provider", "openai", "--model", "gpt-5.4-2026-03-05", *FREE),
        "--json",
        status=2,
    ).error
    assert "another name of gpt-5.4" in error["message"]


def test_a_price_to_come_begins_on_its_day(farebox: Farebox) -> None:
    """Listed is what is in force; shown is every version."""
    farebox("prices", "set", *LOCAL, *FREE)
    farebox(
        *("prices", "set", *LOCAL, "--input", "1", "--output", "2"),
        *("--effective-at", "2099-01-01"),
    )
    shown = farebox("prices", "show", "llama-4", "--provider", "local", "--json").document
    assert [version["prices"]["input"] for version in shown["versions"]] == ["0.00", "1.00"]
    (listed,) = farebox("prices", "list", "--json").document["data"]
    assert listed["prices"]["input"] == "0.00"
    assert "(later)" in farebox("prices", "show", "llama-4", "--provider", "local").out


def test_a_price_that_changed_holds_from_now_on(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DED-07: a newer catalogue adds versions; the ones that calls were charged by stay."""
    snapshot = price_catalogue.import_catalogue()
    few = tuple(v for v in snapshot.versions if (v.provider, v.model) == ("openai", "gpt-5.4"))
    facts = tuple(f for f in snapshot.facts if (f.provider, f.model) == ("openai", "gpt-5.4"))

    def catalogue(versions: tuple[PriceVersion, ...], known: tuple[ModelFacts, ...]) -> None:
        small = snapshot._replace(versions=versions, facts=known, skipped=())
        monkeypatch.setattr(price_catalogue, "import_catalogue", lambda: small)

    catalogue(tuple(v for v in few if v.lane is not Lane.STANDARD), facts)
    farebox("prices", "import")
    catalogue(few, facts)
    added = farebox("prices", "import", "--json").document
    assert (added["added"], added["new"], added["changed"]) == (1, 1, 0)


@pytest.mark.usefixtures("few_prices")
def test_models_are_those_of_the_providers(farebox: Farebox) -> None:
    """Without a provider nothing can be called; with one, its price list's models can."""
    farebox("prices", "set", *LOCAL, *FREE, "--context-window", "1000")
    outcome = farebox("models", "list")
    assert outcome.out == ""
    assert "providers add" in outcome.err
    farebox(
        *("providers", "add", "box", "--base-url", "http://127.0.0.1:9/v1"),
        *("--price-list", "local"),
    )
    (model,) = farebox("models", "list", "--json").document["data"]
    assert (model["provider"], model["model"], model["lanes"]) == ("box", "llama-4", ["standard"])
    assert model["context_window"] == 1_000
    assert farebox("models", "list", "--provider", "x", "--json").document["data"] == []
    farebox("prices", "import")
    page = farebox("models", "list", "--all", "--limit", "5", "--json").document
    assert len(page["data"]) == 5
    rest = farebox("models", "list", "--all", "--cursor", page["next_cursor"], "--json").document
    assert page["data"][-1]["model"] < rest["data"][0]["model"]
    assert "llama-4" in farebox("models", "list").out
