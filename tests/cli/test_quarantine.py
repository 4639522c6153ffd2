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
            " SELECT id, 'settle', '{}', '22003: out of range' FROM organization"
        )
    assert "No command" not in farebox("quarantine", "list").out
    (waiting,) = farebox("quarantine", "list", "--json").document["data"]
    assert (waiting["organization"], waiting["command"]) == ("Acme", "settle")
    farebox("quarantine", "rule", str(waiting["id"]))
    assert farebox("quarantine", "list", "--json").document["data"] == []
    (ruled,) = farebox("quarantine", "list", "--all", "--json").document["data"]
    assert ruled["ruled_at"] is not None
    assert "waits for a ruling" in farebox("quarantine", "rule", "1", status=1).err
    assert "NUMBER" in farebox("quarantine", "rule", "x", status=2).err
