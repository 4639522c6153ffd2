"""``farebox usage``: what people ask of attribution, over calls through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from farebox.kit.money import parse_amount
from tests.support.command_line import CommandLine
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.tenants import Tenant, make_tenant

INPUT, OUTPUT = 1_000, 500


@pytest.fixture(scope="module")
def shop(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with one tenant's calls."""
    with postgres.database() as dsn, running_house(dsn, tmp_path_factory.mktemp("usage")) as house:
        yield house


@pytest.fixture(scope="module")
def tenant(shop: House) -> Tenant:
    """Calls of two users, two features, three prompts, one tried twice and one that failed."""
    tenant = make_tenant(shop, "acme", credit="50.00")
    for user, feature, prompt, times in (
        ("ada", "search", "greeting", 3),
        ("bob", "summary", "report", 1),
        ("", "", "", 1),
    ):
        for number in range(times):
            headers = {
                "X-Sandbox-Usage": f"prompt={INPUT},cached=0,completion={OUTPUT}",
                "X-Farebox-User": user,
                "X-Farebox-Feature": feature,
                "X-Farebox-Tags": f"prompt={prompt}" if prompt else "",
                "X-Client-Request-Id": f"op-{user}" if number else "",
            }
            given = {name: value for name, value in headers.items() if value}
            assert tenant.chat(given).status == 200
    failing = {"X-Sandbox-Fault": "status=500", "X-Client-Request-Id": "op-retried"}
    assert tenant.chat(failing).status >= 500
    again = {"X-Client-Request-Id": "op-retried", "X-Stainless-Retry-Count": "1"}
    assert tenant.chat(again | {"X-Sandbox-Usage": f"prompt={INPUT},cached=0,completion=1"}).status
    body = {"model": "text-embedding-3-small", "input": "words to be embedded"}
    assert tenant.post("/v1/embeddings", body).status == 200
    poor = make_tenant(shop, "poor", credit="0.000001")
    assert poor.chat(max_tokens=4_000).status == 429
    poor.refusals(1)
    tenant.calls()
    return tenant


@pytest.fixture
def usage(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """``usage(*arguments)`` of the tenant: the document."""
    farebox = CommandLine(tenant.house.dsn, monkeypatch, capsys)

    def ask(*arguments: str, org: str = "acme") -> Any:
        return farebox.json("usage", "--org", org, *arguments)

    return ask


@pytest.mark.parametrize(
    ("by", "field", "top"),
    [
        ("user", "user", "ada"),
        ("feature", "feature", "search"),
        ("tag:prompt", "tag", "greeting"),
        ("key", "key_name", "acme"),
        ("project", "project_name", "acme"),
    ],
)
def test_the_top_spender_is_the_first_row(usage: Any, by: str, field: str, top: str) -> None:
    """ATT-02: by user, feature, prompt, key and project in one question each, largest first."""
    found = usage("--by", by)["data"]
    charges = [parse_amount(row["charge"]) for row in found]
    assert charges == sorted(charges, reverse=True)
    if field.endswith("_name"):
        assert len(found) == 1
        assert found[0][field]
    else:
        assert found[0][field] == top
        assert found[-1][field] == "" or "" in {row[field] for row in found}


def test_what_names_no_feature_is_shown_with_its_share(usage: Any) -> None:
    """ATT-03: unattributed spend is a figure with a percentage, and a row of its own."""
    found = usage("--by", "feature")
    none = next(row for row in found["data"] if row["feature"] == "")
    share = found["unattributed"]["feature"]
    assert (share["calls"], share["charge"]) == (none["calls"], none["charge"])
    assert share["share_percent"] == none["charge_percent"]
    assert 0 < float(share["share_percent"]) < 100


def test_figures_say_how_old_they_are(usage: Any, tenant: Tenant) -> None:
    """ATT-04: a call is in the sums as soon as it is answered; their age stands beside them."""
    before = usage()
    assert tenant.chat({"X-Sandbox-Usage": "prompt=10,cached=0,completion=1"}).status == 200
    after = usage()
    assert after["total"]["calls"] == before["total"]["calls"] + 1
    assert before["newest_call_at"] < before["as_of"] < after["newest_call_at"] < after["as_of"]


def test_tries_of_one_request_are_linked(
    usage: Any, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATT-06: a call shows every try of its request, the first one first; retries are counted."""
    calls = [call for call in tenant.calls() if call.client_request_id == "op-retried"]
    assert [call.retry_count for call in calls] == [0, 1]
    farebox = CommandLine(tenant.house.dsn, monkeypatch, capsys)
    for call in calls:
        shown = farebox.json("calls", "show", f"req_{call.id.hex}")["attribution"]["attempts"]
        assert [(each["id"], each["status"]) for each in shown] == [
            (f"req_{calls[0].id.hex}", "released"),
            (f"req_{calls[1].id.hex}", "settled"),
        ]
    (row,) = usage("--quality", "--by", "project")["data"]
    assert row["retries"] == 1
    assert parse_amount(row["retry_charge"]) == calls[1].charge > 0


@pytest.mark.parametrize("by", ["project", "model", "key", "project,model,key"])
def test_failures_and_token_ratios_are_tracked(usage: Any, by: str) -> None:
    """ATT-07, ATT-08: the failure rate and output per input, by project, model and key."""
    found = usage("--quality", "--by", by)["data"]
    assert sum(row["failed"] for row in found) == 1
    failing = next(row for row in found if row["failed"])
    assert failing["failed_percent"] == f"{100 // failing['calls']:d}.{_hundredths(failing):02d}"
    ratio = failing["output_tokens"] * 10_000 // failing["input_tokens"]
    assert failing["output_per_input"] == f"0.{ratio:04d}"
    assert all(row["retries"] <= row["calls"] for row in found)


def _hundredths(row: dict[str, Any]) -> int:
    return int(10_000 // row["calls"] % 100)


def test_refusals_are_counted_apart(usage: Any) -> None:
    """ATT-07: a refused call is no failed one: it was never made."""
    (row,) = usage("--quality", "--by", "model", org="poor")["data"]
    assert (row["calls"], row["failed"], row["refused"]) == (0, 0, 1)
    assert row["refused_percent"] == "100.00"


def test_the_distribution_over_models_is_by_charge_and_by_calls(usage: Any) -> None:
    """ATT-10: each model's share of both, and together they are the whole."""
    found = usage("--by", "model")
    assert len(found["data"]) == 2
    for name in ("charge_percent", "calls_percent"):
        assert 99.9 < sum(float(row[name]) for row in found["data"]) <= 100
    assert found["data"][0]["charge_percent"] != found["data"][0]["calls_percent"]


def test_every_month_can_be_asked_for(usage: Any, tenant: Tenant) -> None:
    """ATT-15: the current month has the calls, the one before has none."""
    ((now,),) = tenant.house.query("SELECT farebox_now()")
    here = usage("--month", f"{now:%Y-%m}")
    assert here["since"].endswith("-01T00:00:00Z")
    assert here["total"]["calls"] == len(tenant.calls())
    past = usage("--month", "2026-01")
    assert (past["data"], past["total"]["calls"]) == ([], 0)


@pytest.mark.parametrize("by", ["endpoint", "user", "tag:prompt", "project,model,feature"])
def test_the_groups_add_up_to_the_ledger(usage: Any, tenant: Tenant, by: str) -> None:
    """ATT-21: whatever the question is split by, its sum is what the organisation has spent and
    what the journal booked as revenue.
    """
    found = usage("--by", by)
    total = sum(parse_amount(row["charge"]) for row in found["data"])
    ((revenue,),) = tenant.house.query(
        "SELECT -sum(amount_nanos)::bigint FROM journal_entry"
        " WHERE organization_id = %s AND account = 'revenue'",
        tenant.organization_id,
    )
    assert total == parse_amount(found["total"]["charge"]) == tenant.spent() == revenue


def test_embeddings_are_an_endpoint_of_their_own(usage: Any) -> None:
    """ATT-22: a breakdown by endpoint misses nothing that is charged."""
    found = {row["endpoint"]: row for row in usage("--by", "endpoint")["data"]}
    assert set(found) == {"chat/completions", "embeddings"}
    assert parse_amount(found["embeddings"]["charge"]) > 0
    assert found["embeddings"]["output_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--by", "colour"), "by"),
        (("--by", "tag"), "by"),
        (("--month", "2026-13"), "month"),
        (("--quality", "--by", "user"), "by"),
        (("--since", "2020-01-01"), "since"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    field: str,
) -> None:
    """The flag is named, and how to write it."""
    farebox = CommandLine(tenant.house.dsn, monkeypatch, capsys)
    assert farebox.run("usage", "--org", "acme", *arguments) == 2
    assert field in farebox.err


def test_the_table_fits_and_names_what_has_no_name(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text for people: 80 columns, and ``unattributed`` instead of nothing."""
    farebox = CommandLine(tenant.house.dsn, monkeypatch, capsys)
    for arguments in (("--by", "user"), ("--quality", "--by", "model")):
        assert farebox.run("usage", "--org", "acme", *arguments) == 0
        assert all(len(line) <= 80 for line in farebox.out.splitlines())
    assert farebox.run("usage", "--org", "acme", "--by", "user") == 0
    assert "unattributed" in farebox.out
