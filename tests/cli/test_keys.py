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


def test_a_key_is_rotated_with_its_limits(farebox: Farebox, project: str) -> None:
    """ORG-16: the new key is shown once, the old one names it and works a while longer."""
    old = farebox("keys", "create", "k", "--project", "web", "--json").document
    new = farebox("keys", "rotate", "k", "--overlap", "12h", "--json").document
    assert (new["name"], new["replaces_id"]) == ("k", old["id"])
    assert new["key"] != old["key"]
    shown = farebox("keys", "show", old["id"], "--json").document
    assert (shown["state"], shown["replaced_by_id"]) == ("active", new["id"])
    assert shown["expires_at"] is not None
    assert "rotated already" in farebox("keys", "rotate", old["id"], status=1).err
    again = farebox("keys", "rotate", "k", "--overlap", "0")
    assert "fbx_test_" in again.out
    assert farebox("keys", "show", new["id"], "--json").document["state"] == "expired"
    assert "overlap" in farebox("keys", "rotate", "k", "--overlap", "91d", status=2).err


def test_a_key_shows_who_owns_it_and_when_it_was_used(farebox: Farebox, project: str) -> None:
    """ORG-15: last use, owner, project; a member owns a key by their address."""
    farebox("users", "add", "ada@example.org")
    refused = farebox(
        *("keys", "create", "k", "--project", "web", "--member", "ada@example.org"), status=1
    )
    assert "member of its" in refused.err
    farebox("members", "add", "ada@example.org", "--role", "developer")
    made = farebox(
        *("keys", "create", "k", "--project", "web", "--member", "ada@example.org", "--json")
    ).document
    assert (made["user_email"], made["last_used_at"]) == ("ada@example.org", None)
    text = farebox("keys", "show", "k").out
    assert "last used at" in text
    assert "never" in text
    farebox("members", "add", "ada@example.org", "--role", "developer", status=1)
    farebox("members", "remove", "ada@example.org")
    assert farebox("keys", "show", "k", "--json").document["state"] == "revoked"


def test_a_management_key_may_be_of_one_organisation(farebox: Farebox) -> None:
    """A scope and a role, listed with it; a role without an organisation is refused."""
    farebox("orgs", "create", "Acme")
    made = farebox(
        *("keys", "create", "ci", "--management", "--org", "Acme", "--role", "viewer", "--json")
    ).document
    assert made["role"] == "viewer"
    listed = farebox("keys", "list", "--management", "--org", "Acme", "--json").document["data"]
    assert [row["id"] for row in listed] == [made["id"]]
    assert listed[0]["organization_id"] == made["organization_id"]
    shown = farebox("keys", "list", "--management").out
    assert "viewer" in shown
    assert "a shell" in shown, "whose it is"
    farebox("orgs", "create", "Zoo")
    revoke = ("keys", "revoke", "ci", "--management", "--org")
    assert "There is no management key" in farebox(*revoke, "Zoo", status=1).err
    ended = farebox(*revoke, "Acme", "--json").document
    assert (ended["id"], ended["state"]) == (made["id"], "revoked")
    flags = ("keys", "create", "x", "--role", "viewer")
    assert "role" in farebox(*flags, "--management", status=2).err
    farebox("projects", "create", "web", "--org", "Acme")
    assert "role" in farebox(*flags, "--project", "web", status=2).err


def test_a_project_is_changed_and_archived(farebox: Farebox, project: str) -> None:
    """ORG-10, ORG-17, SAV-12: owner, models and caps, shown with words; archived for good."""
    changed = farebox(
        *("projects", "update", "web", "--owner", "Ada", "--purpose", "Answers."),
        *("--models", "gpt-5*,gpt-4o", "--output-tokens-max", "900", "--slices", "on"),
        *("--content-days", "30", "--default-output-tokens", "100", "--json"),
    ).document
    assert changed["allowed_models"] == ["gpt-5*", "gpt-4o"]
    assert (changed["output_tokens_max"], changed["default_output_tokens"]) == (900, 100)
    assert (changed["stores_content"], changed["content_retention_days"]) == (True, 30)
    assert changed["slices"] is True
    assert "gpt-5*, gpt-4o" in farebox("projects", "show", "web").out
    back = farebox(
        *("projects", "update", "web", "--models", "all", "--output-tokens-max", "none"),
        *("--content-days", "none", "--name", "site", "--json"),
    ).document
    assert (back["allowed_models"], back["output_tokens_max"]) == (None, None)
    assert (back["stores_content"], back["name"]) == (False, "site")
    assert "settings to change" in farebox("projects", "update", "site", status=2).err
    assert "default_output_tokens" in (
        farebox("projects", "update", "site", "--output-tokens-max", "50", status=2).err
    )
    capped = farebox(
        *("projects", "update", "site", "--feature-cap", "chat=50:900"),
        *("--feature-cap", "batch=:80", "--feature-cap", "free=7:"),
    )
    assert "Changed project site" in capped.out
    farebox("projects", "update", "site", "--feature-cap", "free=none")
    assert "chat=50:900" in (shown := farebox("projects", "show", "site").out)
    assert "batch=:80" in shown
    assert "free" not in shown
    for wrong in ("chat", "=5:9", "chat=5", "chat=9:5", "chat=x:5"):
        error = farebox("projects", "update", "site", "--feature-cap", wrong, "--json", status=2)
        assert error.error["field"].startswith("feature_cap"), wrong
    farebox("keys", "create", "k", "--project", "site")
    farebox("projects", "archive", "site")
    assert farebox("keys", "show", "k", "--json").document["state"] == "project_archived"
    assert "archived" in farebox("projects", "list").out


def test_a_project_without_an_owner_is_pointed_at(farebox: Farebox, project: str) -> None:
    """ORG-10: who looks at it is told, and a lint finding names it until it has one."""
    assert "no owner" in farebox("projects", "show", "web").err
    (told,) = farebox("projects", "lint", "--json", status=1).document["data"]
    assert (told["code"], told["project_name"]) == ("D90", "web")
    assert "no owner" in farebox("doctor", told["code"]).out
    assert "Nobody is named" in farebox("projects", "lint", status=1).out
    farebox(*told["fix"].split()[1:-1], "Ada")
    assert farebox("projects", "lint", "--json").document["data"] == []
    assert "Every project" in farebox("projects", "lint").out


def test_the_usual_projects_are_made_at_once(farebox: Farebox) -> None:
    """ORG-07: testing, production, customer project, internal tool."""
    farebox("orgs", "create", "Acme")
    text = farebox("projects", "split").out
    assert all(name in text for name in ("testing", "production", "internal tool"))
    assert len(farebox("projects", "split", "--json").document["data"]) == 4


def test_the_doctor_tells_a_revoked_key_from_one_that_ended(farebox: Farebox, project: str) -> None:
    """ORG-16: revoked and rotated keys have findings of their own; neither is about money."""
    revoked = farebox("keys", "create", "old", "--project", "web", "--json").document["key"]
    rotated = farebox("keys", "create", "older", "--project", "web", "--json").document["key"]
    farebox("keys", "revoke", "old")
    farebox("keys", "rotate", "older", "--overlap", "0")
    for key, word in ((revoked, "revoked"), (rotated, "expired")):
        found = farebox("doctor", key, "--json", status=1).document
        (told,) = (each for each in found["findings"] if each["code"] == "D04")
        assert found["area"] == "not_billing"
        assert word in told["cause"]
        assert key not in str(found)
