"""``farebox alerts``: the list, the settings, the release."""

from __future__ import annotations

import json

import psycopg
import pytest

from farebox.cli.alerts import AMOUNTS, COUNTS, SWITCHES
from tests.cli.conftest import Farebox

TOLD = [
    (
        "limit_threshold",
        {
            "scope_kind": "project",
            "scope_ref": "0" * 31 + "7",
            "measure": "money",
            "period": "month",
            "percent": "80",
            "used": "80000000000",
            "maximum": "100000000000",
        },
        "80 % of 100.00 a month are used",
    ),
    (
        "projected_overrun",
        {
            "scope_kind": "organization",
            "scope_ref": "0" * 31 + "1",
            "measure": "tokens",
            "period": "day",
            "used": "80",
            "maximum": "100",
            "pace_per_day": "200",
            "projected": "190",
            "reached_at": "2026-11-20T18:30:00+00:00",
        },
        "at 200 a day the limit is reached on 2026-11-20 18:30",
    ),
    (
        "spend_rate",
        {
            "scope_kind": "key",
            "scope_ref": "0" * 31 + "2",
            "spent_nanos": "9000000000",
            "usual_nanos": "1000000000",
        },
        "9.00 in an hour that usually costs 1.00",
    ),
    (
        "daily_spend",
        {
            "scope_kind": "organization",
            "scope_ref": "0" * 31 + "1",
            "spent_nanos": "9000000000",
            "usual_nanos": "1000000000",
        },
        "9.00 on a day that usually costs 1.00",
    ),
    (
        "run_growth",
        {"run": "r-1", "calls": "7", "first_input_tokens": "10", "last_input_tokens": "99"},
        "run r-1: 7 calls, each larger",
    ),
    (
        "frequent_user",
        {"user": "ada", "calls": "900", "usual_calls": "9"},
        "user ada: 900 calls in an hour; usual are 9",
    ),
    (
        "repeated_requests",
        {"scope_kind": "run", "scope_ref": "r-1", "calls": "57", "key_id": "0" * 31 + "2"},
        "run r-1: 57 near-identical requests in a minute",
    ),
]


def tell(dsn: str) -> None:
    """One word of each kind in the outbox, and one that is no alert."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for kind, facts, _ in (*TOLD, ("hold_lapsed", {}, "")):
            connection.execute(
                "INSERT INTO outbox (organization_id, kind, at, facts)"
                " SELECT id, %s, farebox_now(), %s::jsonb FROM organization",
                (kind, json.dumps(facts)),
            )


def test_what_was_told_is_listed_newest_first(farebox: Farebox, dsn: str) -> None:
    """BUD-06, ANO-09: thresholds and anomalies with their evidence, page by page; nothing else."""
    farebox("orgs", "create", "Acme")
    assert farebox("alerts", "list").out == ""
    tell(dsn)
    said = " ".join(farebox("alerts", "list").out.split())
    for _, _, text in TOLD:
        # Cells wrap; every word of the sentence is there.
        assert all(word in said for word in text.split()), text
    first = farebox("alerts", "list", "--limit", "4", "--json").document
    rest = farebox("alerts", "list", "--cursor", first["next_cursor"], "--json").document
    kinds = [each["kind"] for each in (*first["data"], *rest["data"])]
    assert kinds == [kind for kind, _, _ in reversed(TOLD)]
    assert rest["next_cursor"] is None
    one = farebox("alerts", "list", "--kind", "spend_rate", "--json").document["data"][0]
    assert one["facts"]["spent"] == "9.00"
    assert one["facts"]["scope_id"] == "key_" + "0" * 31 + "2"
    assert one["action"] == "told"
    assert "must be one of" in farebox("alerts", "list", "--kind", "x", status=2).err
    assert "cursor" in farebox("alerts", "list", "--cursor", "x", status=2).err


def test_settings_are_shown_and_changed(farebox: Farebox) -> None:
    """Every setting has its option; a change is in the audit log with what stood before."""
    farebox("orgs", "create", "Acme")
    web = farebox("projects", "create", "web", "--org", "Acme", "--json").document["id"]
    before = farebox("alerts", "settings", "--json").document
    assert {*SWITCHES, *AMOUNTS, *COUNTS, "stop_repeats_projects", "object"} == before.keys()
    options = ["--stop-repeats", "on", "--enabled", "off", "--hour-minimum", "12.50"]
    options += ["--repeats-per-minute", "60", "--stop-repeats-in", "web"]
    after = farebox("alerts", "settings", *options, "--json").document
    assert after == before | {
        "stop_repeats": True,
        "enabled": False,
        "hour_minimum": "12.50",
        "repeats_per_minute": 60,
        "stop_repeats_projects": [web],
    }
    assert "hour minimum            12.50" in farebox("alerts", "settings").out
    none = farebox("alerts", "settings", "--stop-repeats-in", "none", "--json").document
    assert none["stop_repeats_projects"] == []
    events = farebox("audit", "list", "--json").document["data"]
    changed = [each for each in events if each["action"] == "alert_settings.changed"]
    assert changed[-1]["after"]["hour_minimum"] == "12.50"
    assert changed[-1]["before"]["hour_minimum"] == "2.00"


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--repeats-per-minute", "2", "repeats_per_minute"),
        ("--spending-times-percent", "x", "spending_times_percent"),
        ("--day-minimum", "-1", "day_minimum"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(
    farebox: Farebox, option: str, value: str, field: str
) -> None:
    """The field is named, and nothing is changed."""
    farebox("orgs", "create", "Acme")
    refused = farebox("alerts", "settings", f"{option}={value}", "--json", status=2)
    assert refused.error["field"] == field


def test_what_was_stopped_is_shown_and_released(farebox: Farebox) -> None:
    """ANO-01: by a run's name, a key's, a project's; what is not stopped cannot be released."""
    farebox("orgs", "create", "Acme")
    farebox("projects", "create", "web", "--org", "Acme")
    farebox("keys", "create", "job", "--project", "web")
    for scope in (("--run", "crawl-17"), ("--key", "job"), ("--project", "web")):
        farebox("limits", "set", *scope, "--parallel", "0", "--stop")
        assert f"alerts release --{scope[0][2:]} " in farebox("alerts", "list").err
        assert "may call again" in farebox("alerts", "release", *scope).out
        refused = farebox("alerts", "release", *scope, status=1)
        assert "that is stopped" in refused.err
    actions = [e["action"] for e in farebox("audit", "list", "--json").document["data"]]
    assert actions.count("limit.removed") == 3
    wrong = farebox("limits", "set", "--run", "r", "--parallel", "5", "--stop", status=2)
    assert "stop lets no call begin" in wrong.err


def test_what_operators_are_told_is_no_organisations(farebox: Farebox, dsn: str) -> None:
    """ERR-08: a list of its own, page by page, and a word about it beside every other list."""
    farebox("orgs", "create", "Acme")
    assert "told of nothing" in farebox("alerts", "list", "--deployment").err
    facts = {"provider": "openai", "account": "main", "status": "429", "request_id": "req_1"}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO outbox (kind, at, facts)"
                " VALUES ('upstream_quota_exhausted', farebox_now(), %s::jsonb)",
                (json.dumps(facts),),
            )
    shown = farebox("alerts", "list", "--deployment")
    assert "our account main at openai is used up (status 429)" in " ".join(shown.out.split())
    first = farebox("alerts", "list", "--deployment", "--limit", "1", "--json").document
    rest = farebox(
        "alerts", "list", "--deployment", "--cursor", first["next_cursor"], "--json"
    ).document
    (newest,), (oldest,) = first["data"], rest["data"]
    assert newest["facts"] == facts
    assert (int(newest["id"]) > int(oldest["id"]), rest["next_cursor"]) == (True, None)
    other = farebox("alerts", "list")
    assert "farebox alerts list --deployment" in other.out + other.err
    assert farebox("alerts", "list", "--json").document["data"] == []
    for name, value in (("--org", "Acme"), ("--kind", "spend_rate")):
        refused = farebox("alerts", "list", "--deployment", name, value, status=2)
        assert f"{name[2:]} must not be given" in refused.err
