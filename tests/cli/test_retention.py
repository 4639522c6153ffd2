"""``farebox retention``, over months of a sandbox's clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.tenants import Tenant, make_tenant

USAGE = {"X-Sandbox-Usage": "prompt=100,cached=0,completion=50", "X-Farebox-User": "ada"}


@pytest.fixture
def months(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose clock moves."""
    with (
        postgres.database() as dsn,
        running_house(dsn, tmp_path_factory.mktemp("months")) as running,
    ):
        yield running


@pytest.fixture
def farebox(
    months: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line on that database."""
    return CommandLine(months.dsn, monkeypatch, capsys)


def month_of_calls(tenant: Tenant, farebox: CommandLine, count: int) -> list[str]:
    """Some calls, then a month passes."""
    made = [tenant.chat(USAGE) for _ in range(count)]
    assert {reply.status for reply in made} == {200}
    tenant.calls()
    assert farebox.run("clock", "advance", "31d") == 0
    assert tenant.get("/readyz").status == 200  # the gateway reads the time at once
    return [reply.headers["x-request-id"] for reply in made]


def partitions(house: House) -> set[str]:
    """The months that calls lie in."""
    return {row[0] for row in house.query("SELECT DISTINCT tableoid::regclass::text FROM call")}


def test_months_go_and_every_total_stays(months: House, farebox: CommandLine) -> None:
    """Field bug 56: after six months of calls four are dropped; the books, the balance, the usage
    and a limit in total that is set afterwards know every call; the log says who did it.
    """
    tenant = make_tenant(months, "acme")
    ids = [month_of_calls(tenant, farebox, 3) for _ in range(6)]
    assert len(partitions(months)) == 6, "ids are by engine time, and so are their months"
    assert "call_default" not in partitions(months)
    spent = tenant.spent()
    usage = farebox.json("usage", "--org", "acme", "--by", "project")
    farebox.json("retention", "set", "--calls", "2mo", "--refusals", "1y")

    said = farebox.json("retention", "apply", "--dry-run")
    assert len(partitions(months)) == 6
    due = [row["month"] for row in said["months"] if row["of"] == "calls"]
    done = farebox.json("retention", "apply")
    dropped = [row for row in done["months"] if row["of"] == "calls" and row["rows"]]
    assert [row["rows"] for row in dropped] == [3] * len(dropped)
    assert 3 <= len(dropped) <= 4
    assert {row["month"] for row in dropped} <= set(due)
    assert len(partitions(months)) == 6 - len(dropped)

    assert tenant.spent() == spent
    checked = farebox.json("books", "check")
    assert (checked["status"], checked["findings"]) == ("clean", [])
    assert checked["checked"]["dropped_calls"] == 3 * len(dropped)
    assert farebox.json("usage", "--org", "acme", "--by", "project")["total"] == usage["total"]
    farebox.json("limits", "set", "--org", "acme", "--user", "ada", "--total", "100.00")
    assert farebox.json("books", "check")["status"] == "clean"
    ((used,),) = months.query("SELECT used FROM scope_window WHERE kind = 'user'")
    assert used == spent

    assert farebox.run("calls", "show", ids[0][0]) == 1
    assert "past retention" in farebox.err
    assert farebox.json("calls", "show", ids[5][0])["status"] == "settled"
    shown = farebox.json("retention", "show")
    assert (shown["call_months"], shown["refusal_months"]) == (2, 12)
    assert sum(row["rows"] for row in shown["dropped"]) == 3 * len(dropped)
    actions = [row["action"] for row in farebox.json("audit", "list")["data"]]
    assert actions.count("calls.dropped") >= len(dropped)
    assert "retention.changed" in actions
    assert farebox.json("audit", "verify")["status"] == "whole"


def test_a_month_with_an_open_call_stays(months: House, farebox: CommandLine) -> None:
    """ENGINE.md: an open hold's month never goes; the reason is said, and the status is 1."""
    tenant = make_tenant(months, "acme")
    (reply_id,) = month_of_calls(tenant, farebox, 1)
    for _ in range(4):
        farebox.run("clock", "advance", "31d")
    row = tenant.only_call()
    months.execute(
        "INSERT INTO hold (call_id, organization_id, node_id, epoch, amount_nanos, unsecured_nanos,"
        " earmark_grants, earmark_nanos, admitted_at, latest_end, project_id, key_id, feature,"
        " environment, model, lane, endpoint, fingerprint, output_limit, user_ref, run_ref,"
        " priority, client_request_id, retry_count, streamed, price_id, upstream_account_id,"
        " ceiling, available_before_nanos)"
        " SELECT id, organization_id, id, 1, 0, 0, '{}', '{}', admitted_at, admitted_at,"
        " project_id, key_id, '', '', model, lane, endpoint, '', 1, '', '', '', '', 0, false,"
        " price_id, upstream_account_id, '{0,0,0,0}', 0 FROM call WHERE id = %s",
        row.id,
    )
    assert farebox.run("retention", "apply", "--calls", "2mo", "--json") == 1
    assert "1 of its calls are open" in farebox.out
    assert farebox.json("calls", "show", reply_id)["status"] == "open"
    assert len(tenant.house.query("SELECT 1 FROM call WHERE id = %s", row.id)) == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("set",), "calls"),
        (("set", "--calls", "1mo"), "calls"),
        (("set", "--calls", "31d"), "calls"),
        (("apply", "--refusals", "101y"), "refusals"),
    ],
)
def test_lengths_that_cannot_be_are_named(
    arguments: tuple[str, ...],
    field: str,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong length names its flag and how to write it."""
    farebox = CommandLine(dsn, monkeypatch, capsys)
    assert farebox.run("retention", *arguments) == 2
    assert field in farebox.err


def test_nothing_is_dropped_unless_somebody_says_so(months: House, farebox: CommandLine) -> None:
    """The shipped setting keeps everything."""
    tenant = make_tenant(months, "acme")
    (made,) = month_of_calls(tenant, farebox, 1)
    for _ in range(5):
        farebox.run("clock", "advance", "365d")
    shown: Any = farebox.json("retention", "show")
    assert (shown["call_months"], shown["refusal_months"]) == (None, None)
    assert farebox.json("retention", "apply")["months"] == []
    assert farebox.json("calls", "show", made)["status"] == "settled"
