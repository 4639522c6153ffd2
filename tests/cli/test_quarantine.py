"""Rulings on commands that the database rejected."""

from __future__ import annotations

import psycopg

from tests.cli.conftest import Farebox


def test_a_ruling_ends_the_wait(farebox: Farebox, dsn: str) -> None:
    """ENGINE.md, "A batch": a quarantined command is shown, ruled on once, and then gone."""
    farebox("orgs", "create", "Acme")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO quarantine (organization_id, command_kind, command, error)"
            " SELECT id, 'settle', '{\"max\": 1}', '22003: out of range' FROM organization"
        )
    assert "No command" not in farebox("quarantine", "list").out
    (waiting,) = farebox("quarantine", "list", "--json").document["data"]
    assert (waiting["organization_name"], waiting["command_kind"]) == ("Acme", "settle")
    shown = farebox("quarantine", "show", waiting["id"], "--json").document
    assert shown == waiting | {"command": {"max": 1}}
    assert '"max": 1' in farebox("quarantine", "show", waiting["id"]).out
    farebox("quarantine", "rule", waiting["id"])
    assert farebox("quarantine", "list", "--json").document["data"] == []
    (ruled,) = farebox("quarantine", "list", "--all", "--json").document["data"]
    assert ruled["ruled_at"] is not None
    assert "waits for a ruling" in farebox("quarantine", "rule", "1", status=1).err
    assert "There is no" in farebox("quarantine", "show", "9", status=1).err
    assert "NUMBER" in farebox("quarantine", "rule", "x", status=2).err


def test_a_long_list_is_read_page_by_page(farebox: Farebox, dsn: str) -> None:
    """A limit on everything: each page begins after the last number of the one before."""
    farebox("orgs", "create", "Acme")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO quarantine (organization_id, command_kind, command, error)"
            " SELECT id, 'settle', '{}', 'odd' FROM organization, generate_series(1, 3)"
        )
    assert "--cursor 2" in farebox("quarantine", "list", "--limit", "2").err
    first = farebox("quarantine", "list", "--limit", "2", "--json").document
    last = farebox("quarantine", "list", "--cursor", first["next_cursor"], "--json").document
    assert [each["id"] for each in first["data"] + last["data"]] == ["1", "2", "3"]
    assert last["next_cursor"] is None
