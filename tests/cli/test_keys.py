"""``farebox projects`` and ``farebox keys``."""

from __future__ import annotations

import pytest

from farebox.tenancy.api_keys import KeyKind, kind_of
from tests.cli.conftest import Farebox


@pytest.fixture
def project(farebox: Farebox) -> str:
    """A project ``web`` of the only organisation."""
    farebox("orgs", "create", "Acme")
    found = farebox("projects", "create", "web", "--json").document["id"]
    assert isinstance(found, str)
    return found


def test_a_key_is_shown_once(farebox: Farebox, project: str) -> None:
    """ORG-03: the answer names organisation and project and has the key; no list has it again."""
    made = farebox("keys", "create", "laptop", "--project", "web", "--json").document
    assert made["project_id"] == project
    assert made["organization_name"] == "Acme"
    assert made["key"].startswith(made["prefix"])
    assert kind_of(made["key"]) is KeyKind.TEST
    listed = farebox("keys", "list", "--json")
    assert made["key"] not in listed.out
    assert listed.document["data"] == [{k: v for k, v in made.items() if k != "key"}]
    assert made["key"] in farebox("keys", "create", "again", "--project", project).out.split() or (
        made["prefix"] in farebox("keys", "list").out
    )


def test_a_real_installation_makes_live_keys(real: Farebox) -> None:
    """A key says what it opens."""
    real("orgs", "create", "Acme")
    real("projects", "create", "web")
    made = real("keys", "create", "laptop", "--project", "web", "--json").document
    assert made["key"].startswith("fbx_live_")


def test_a_revoked_key_says_so(farebox: Farebox, project: str) -> None:
    """By name or id; twice is the same as once."""
    made = farebox("keys", "create", "laptop", "--project", project, "--json").document
    revoked = farebox("keys", "revoke", "laptop", "--json").document
    assert (revoked["id"], revoked["state"]) == (made["id"], "revoked")
    assert farebox("keys", "revoke", made["id"], "--json").document == revoked
    assert "revoked" in farebox("keys", "list").out


def test_a_key_may_end(farebox: Farebox, project: str) -> None:
    """The end is kept as it was named, and a past one is refused."""
    made = farebox(
        *("keys", "create", "k", "--project", "web"), "--expires-at", "2099-12-24", "--json"
    ).document
    assert made["expires_at"] == "2099-12-24T00:00:00Z"
    outcome = farebox(
        *("keys", "create", "k", "--project", "web", "--expires-at", "2020-01-01"), status=2
    )
    assert "expires_at" in outcome.err


def test_a_project_is_named_by_id_or_name(farebox: Farebox, project: str) -> None:
    """A missing one is asked for, an unknown one not found, an ambiguous one told apart."""
    assert "project must be given" in farebox("keys", "create", "k", status=2).err
    assert "projects list" in farebox("keys", "create", "k", "--project", "x", status=1).err
    farebox("orgs", "create", "Other")
    farebox("projects", "create", "web", "--org", "Other")
    assert project in farebox("keys", "create", "k", "--project", "web", status=2).err
    made = farebox(
        *("keys", "create", "k", "--project", "web", "--org", "Other", "--json")
    ).document
    assert made["organization_name"] == "Other"
    assert len(farebox("projects", "list", "--json").document["data"]) == 2
    assert len(farebox("projects", "list", "--org", "Other", "--json").document["data"]) == 1
    assert "org must be given" in farebox("projects", "create", "p", status=2).err


def test_a_projects_settings_are_checked(farebox: Farebox, project: str) -> None:
    """Environment and output limit are kept, or refused with their field."""
    made = farebox(
        *("projects", "create", "batch", "--environment", "Staging"),
        *("--default-output-tokens", "512", "--json"),
    ).document
    assert (made["environment"], made["default_output_tokens"]) == ("staging", 512)
    for flag, text in (("--environment", "a b"), ("--default-output-tokens", "many")):
        assert (
            flag[2:].replace("-", "_")
            in farebox("projects", "create", "p", flag, text, status=2).err
        )


def test_management_keys_are_apart(farebox: Farebox) -> None:
    """They are made, listed and revoked with the same words and a flag."""
    made = farebox("keys", "create", "ops", "--management", "--json").document
    assert kind_of(made["key"]) is KeyKind.ADMIN
    assert farebox("keys", "list", "--json").document["data"] == []
    listed = farebox("keys", "list", "--management", "--json").document["data"]
    assert [(row["id"], row["state"]) for row in listed] == [(made["id"], "active")]
    assert farebox("keys", "revoke", "ops", "--management", "--json").document["state"] == "revoked"
    assert "no management key" in farebox("keys", "revoke", "x", "--management", status=1).err
