"""``farebox service-accounts``."""

from __future__ import annotations

from tests.cli.conftest import Farebox


def test_a_service_account_owns_keys_and_takes_them_along(farebox: Farebox) -> None:
    """ORG-18: a key of a service account is revoked with it."""
    farebox("orgs", "create", "Acme")
    farebox("projects", "create", "web")
    assert "none yet" in farebox("service-accounts", "list").err
    account = farebox(
        *("service-accounts", "create", "nightly", "--project", "web", "--purpose", "reports"),
        "--json",
    ).document
    assert (account["state"], account["purpose"]) == ("active", "reports")
    taken = farebox("service-accounts", "create", "Nightly", "--project", "web", status=1)
    assert "already" in taken.err
    key = farebox(
        *("keys", "create", "k", "--project", "web", "--service-account", "nightly", "--json")
    ).document
    assert key["service_account_id"] == account["id"]
    assert key["service_account_name"] == "nightly"
    assert account["id"] in farebox("service-accounts", "list", "--project", "web").out
    disabled = farebox("service-accounts", "disable", "nightly", "--json").document
    assert disabled["state"] == "disabled"
    assert farebox("keys", "show", "k", "--json").document["state"] == "revoked"
    refused = farebox(
        *("keys", "create", "k2", "--project", "web", "--service-account", "nightly"), status=1
    )
    assert "service account of its project" in refused.err
    farebox("service-accounts", "create", "nightly", "--project", "web")


def test_a_service_account_is_looked_for_in_its_organisation_alone(farebox: Farebox) -> None:
    """ORG-18: with --org another organisation's account of that name is not meant."""
    for name in ("Acme", "Zoo"):
        farebox("orgs", "create", name)
        farebox("projects", "create", "web", "--org", name)
    create = ("service-accounts", "create", "nightly", "--project", "web")
    farebox(*create, "--org", "Zoo")
    disable = ("service-accounts", "disable", "nightly", "--org", "Acme")
    assert "There is no service account" in farebox(*disable, status=1).err
    made = farebox(*create, "--org", "Acme", "--json").document
    assert farebox(*disable, "--json").document["id"] == made["id"]
