"""``farebox members``: roles, invitations, operators."""

from __future__ import annotations

import psycopg
import pytest

from tests.cli.conftest import Farebox


@pytest.fixture
def ada(farebox: Farebox) -> str:
    """An organisation ``Acme`` and somebody with a login."""
    farebox("orgs", "create", "Acme")
    farebox("users", "add", "ada@example.org")
    return "ada@example.org"


def test_one_login_has_roles_in_several_organisations(farebox: Farebox, ada: str) -> None:
    """ORG-01, ORG-08: owner here, developer there; the same person."""
    farebox("orgs", "create", "Other")
    here = farebox("members", "add", ada, "--role", "owner", "--org", "Acme", "--json").document
    there = farebox("members", "add", ada, "--role", "developer", "--org", "Other", "--json")
    assert here["user_id"] == there.document["user_id"]
    assert (here["role"], there.document["role"]) == ("owner", "developer")
    again = farebox("members", "add", ada, "--role", "viewer", "--org", "Acme", status=1)
    assert "members role" in again.err
    listed = farebox("members", "list", "--org", "Other", "--json").document["data"]
    assert [(row["email"], row["role"]) for row in listed] == [(ada, "developer")]
    assert "developer" in farebox("members", "list", "--org", "Other").out


def test_the_last_owner_stays(farebox: Farebox, ada: str) -> None:
    """An organisation that has an owner keeps one."""
    farebox("members", "add", ada, "--role", "owner")
    assert "only owner" in farebox("members", "role", ada, "--role", "viewer", status=1).err
    assert "only owner" in farebox("members", "remove", ada, status=1).err
    farebox("users", "add", "bob@example.org")
    farebox("members", "add", "bob@example.org", "--role", "owner")
    assert farebox("members", "remove", ada, "--json").document["removed"] is True


def test_an_invitation_is_shown_once_and_taken_back(farebox: Farebox, ada: str) -> None:
    """The token is in the answer alone; an invitation that is taken back is over."""
    made = farebox("members", "invite", "new@example.org", "--role", "viewer", "--json").document
    assert made["token"].startswith("fbx_invite_")
    assert made["state"] == "open"
    listed = farebox("members", "invitations", "--json")
    assert made["token"] not in listed.out
    assert farebox("members", "uninvite", made["id"], "--json").document["state"] == "revoked"
    assert "revoked" in farebox("members", "invitations").out
    assert (
        "lasts"
        in farebox(
            *("members", "invite", "x@y", "--role", "viewer", "--lasts", "365d"), status=2
        ).err
    )


def test_operators_are_made_and_unmade(farebox: Farebox, ada: str) -> None:
    """Somebody always administers the deployment."""
    bob = "bob@example.org"
    assert farebox("users", "add", bob, "--json").document["operator"] is False
    assert "only operator" in farebox("members", "operator", ada, "--no", status=1).err
    assert farebox("members", "operator", bob, "--json").document["operator"] is True
    assert farebox("members", "operator", ada, "--no", "--json").document["operator"] is False


def test_nobody_signs_up_by_themselves_unless_told(farebox: Farebox, ada: str) -> None:
    """Self sign-up is off until an operator turns it on."""
    assert farebox("members", "sign-up", "on", "--json").document["self_sign_up"] is True
    assert "addresses are not verified" in farebox("members", "sign-up", "on").err
    assert "without an invitation" in farebox("members", "sign-up", "off").out


def test_a_stranger_is_no_member(farebox: Farebox, ada: str) -> None:
    """Whoever has no login is invited instead."""
    assert "invitation" in farebox("members", "add", "x@y.z", "--role", "viewer", status=1).err
    assert "address" in farebox("members", "add", "nobody", "--role", "viewer", status=2).err
    assert "members list" in farebox("members", "remove", ada, status=1).err
    assert "no members yet" in farebox("members", "list").err


def test_the_keys_that_somebody_made_end_with_their_rights(
    farebox: Farebox, ada: str, dsn: str
) -> None:
    """ORG-14: after another role, after removal, without the operator's rights: and it is said."""

    def make(role: str, *where: str) -> None:
        key = farebox("keys", "create", role, "--management", *where, "--json").document
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE management_key SET user_id = u.id FROM console_user u"
                " WHERE management_key.id = %s AND u.email = 'bob@example.org'",
                (key["id"].removeprefix("key_"),),
            )

    bob = "bob@example.org"
    farebox("users", "add", bob, "--operator")
    farebox("members", "add", ada, "--role", "owner")
    farebox("members", "add", bob, "--role", "owner")
    make("owner", "--org", "Acme", "--role", "owner")
    make("viewer", "--org", "Acme", "--role", "viewer")
    make("all")
    assert "made" not in farebox("members", "role", bob, "--role", "owner").out
    said = farebox("members", "operator", bob, "--no").out
    assert "1 management key that they had made revoked" in " ".join(said.split())
    changed = farebox("members", "role", bob, "--role", "developer", "--json").document
    assert (changed["role"], changed["management_keys_revoked"]) == ("developer", 1)
    said = farebox("members", "remove", bob).out
    assert "0 keys of theirs and 1 management key that they had made revoked" in " ".join(
        said.split()
    )
    rows = farebox("keys", "list", "--management", "--json").document["data"]
    assert [(each["user_email"], each["state"]) for each in rows] == [(bob, "revoked")] * 3
