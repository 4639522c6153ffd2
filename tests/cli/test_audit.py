"""``farebox audit``: every settings and money action of the command line is in the log."""

from __future__ import annotations

import psycopg
import pytest

from tests.cli.conftest import Farebox


def actions(farebox: Farebox) -> list[str]:
    """What was done, in order."""
    rows = farebox("audit", "list", "--limit", "100", "--json").document["data"]
    return [row["action"] for row in reversed(rows)]


@pytest.fixture
def organization(farebox: Farebox) -> str:
    """An organisation ``Acme``."""
    found = farebox("orgs", "create", "Acme", "--json").document["id"]
    assert isinstance(found, str)
    return found


def test_every_settings_action_is_noted(farebox: Farebox, organization: str) -> None:
    """ORG-14: who changed what, from where, with what stood before and after."""
    farebox("projects", "create", "web")
    farebox("projects", "update", "web", "--owner", "Ada", "--models", "gpt-5*")
    farebox("keys", "create", "k", "--project", "web")
    farebox("keys", "rotate", "k")
    farebox("keys", "revoke", "k")
    farebox("keys", "create", "ops", "--management")
    farebox("keys", "revoke", "ops", "--management")
    farebox("projects", "archive", "web")
    farebox("orgs", "update", "Acme", "--on-overrun", "owe")
    assert actions(farebox) == [
        *("organization.created", "project.created", "project.changed", "key.created"),
        *("key.rotated", "key.revoked", "management_key.created", "management_key.revoked"),
        *("project.archived", "organization.changed"),
    ]
    listed = farebox("audit", "list", "--of", "project.changed", "--json").document["data"]
    (event,) = listed
    assert event["before"] == {"owner": "", "allowed_models": None}
    assert event["after"] == {"owner": "Ada", "allowed_models": ["gpt-5*"]}
    assert (event["door"], event["actor"]["kind"]) == ("cli", "shell")
    assert event["organization_id"] == organization
    text = farebox("audit", "list", "--of", "project.changed").out
    assert "owner:  -> Ada" in text
    assert max(map(len, text.splitlines())) <= 80


def test_money_is_noted_with_its_outcome(farebox: Farebox, organization: str) -> None:
    """A grant, a refund, a limit and a floor, done or refused, with amounts as decimal strings."""
    granted = farebox(
        *("credits", "grant", "--amount", "5", "--source", "purchased", "--json")
    ).document
    farebox("credits", "refund", granted["id"], "--exception", "billing_error", "--amount", "1.5")
    farebox(
        *("credits", "refund", granted["id"], "--exception", "billing_error", "--amount", "9"),
        status=1,
    )
    farebox("limits", "set", "--monthly", "10")
    farebox("limits", "set", "--monthly", "none")
    farebox("orgs", "update", "Acme", "--floor", "2")
    rows = farebox("audit", "list", "--json").document["data"]
    found = [(row["action"], row["outcome"]) for row in reversed(rows)]
    assert found[1:] == [
        ("credit.granted", "done"),
        ("credit.refunded", "done"),
        ("credit.refunded", "refused"),
        ("limit.set", "done"),
        ("limit.removed", "done"),
        ("organization.floor_set", "done"),
    ]
    by_action = {row["action"]: row for row in rows}
    assert by_action["credit.granted"]["after"]["amount"] == "5.00"
    assert by_action["credit.granted"]["subject"]["id"] == granted["id"]
    assert by_action["limit.set"]["after"]["maximum"] == "10.00"
    assert by_action["limit.set"]["before"] is None
    assert by_action["limit.removed"]["before"] == {
        "maximum": "10.00",
        "thresholds_percent": [50, 80, 100],
    }
    assert organization in by_action["limit.set"]["subject"]["id"]
    assert by_action["organization.floor_set"]["before"] == {"floor": "0.00"}
    assert by_action["organization.floor_set"]["after"] == {"floor": "2.00"}


def test_no_secret_is_noted(farebox: Farebox, organization: str, dsn: str) -> None:
    """Neither a key's text nor an invitation's token is anywhere in the log."""
    farebox("projects", "create", "web")
    key = farebox("keys", "create", "k", "--project", "web", "--json").document
    ops = farebox("keys", "create", "ops", "--management", "--json").document
    token = farebox(
        *("members", "invite", "ada@example.org", "--role", "owner", "--json")
    ).document["token"]
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT audit_event::text FROM audit_event").fetchall()
    log = " ".join(row[0] for row in rows)
    for secret, kept in ((key["key"], 13), (ops["key"], 14), (token, 11)):
        assert secret[kept:] not in log


def test_the_chain_is_checked(farebox: Farebox, organization: str, dsn: str) -> None:
    """Whole: 0 and the head to keep; broken: 1 and the first broken link."""
    farebox("projects", "create", "web")
    whole = farebox("audit", "verify", "--json").document
    assert (whole["status"], whole["checked"]) == ("whole", 2)
    assert "2 events" in farebox("audit", "verify", "--anchor", whole["head"]).out
    assert farebox("audit", "verify", "--anchor", "1:00", status=2).err.count("anchor") == 1
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
        connection.execute("UPDATE audit_event SET actor_name = 'nobody' WHERE sequence = 1")
    broken = farebox("audit", "verify", "--json", status=1).document
    assert (broken["status"], broken["broken_at"]) == ("broken", 1)
    assert "broken at event 1" in farebox("audit", "verify", status=1).out


def test_the_list_has_pages(farebox: Farebox, organization: str) -> None:
    """A page names where the next begins."""
    farebox("projects", "split")
    page = farebox("audit", "list", "--limit", "3", "--json").document
    assert [row["sequence"] for row in page["data"]] == [5, 4, 3]
    rest = farebox("audit", "list", "--cursor", page["next_cursor"], "--json").document
    assert [row["sequence"] for row in rest["data"]] == [2, 1]
    assert rest["next_cursor"] is None
    assert "--cursor 4" in farebox("audit", "list", "--limit", "2").err
