"""``farebox doctor`` on a running house: rates, budgets, tiers and allocations.

Every fixture asserts the exact codes of what is found, then mends it and asserts that the finding
has gone or says so.
"""

from __future__ import annotations

import json

import pytest

from farebox.kit.ids import format_id
from tests.support.doctor_house import COST, Doctor, Run, org, refused, spend, words_of
from tests.support.tenants import Tenant


def test_d17_a_rate_limit(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D17, LIM-01: a funded organisation is rate limited; money is no remedy."""
    run("limits", "set", "--org", org(tenant), "--per-minute", "1", "--calls")
    replies = [spend(tenant, 10) for _ in range(3)]
    reply = next(each for each in replies if each.status == 429)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode()):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D17"])
        assert "retry-after" in found.first["fixes"][0]["text"]
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    assert doctor(org(tenant)).codes == ["D17"]
    run("limits", "set", "--org", org(tenant), "--per-minute", "none", "--calls")
    assert spend(tenant, 10).status == 200
    assert doctor(request_id).document["status"] == "mended"
    assert doctor(org(tenant)).codes == []


@pytest.mark.parametrize(
    ("scope", "code", "headers"),
    [
        ([], "D19", {}),
        (["--project", "main"], "D18", {}),
        (["--key", "main"], "D21", {}),
        (["--user", "bob"], "D21", {"X-Farebox-User": "bob"}),
        (["--each", "user"], "D21", {"X-Farebox-User": "eve"}),
        (["--feature", "search"], "D21", {"X-Farebox-Feature": "search"}),
        (["--environment", "test"], "D21", {"X-Farebox-Environment": "test"}),
        (["--tag", "team=blue"], "D21", {"X-Farebox-Tags": "team=blue"}),
        (["--run", "r1"], "D21", {"X-Farebox-Run": "r1"}),
    ],
)
def test_d18_d19_d21_a_limit_of_each_scope(
    tenant: Tenant,
    run: Run,
    doctor: Doctor,
    scope: list[str],
    code: str,
    headers: dict[str, str],
) -> None:
    """D18, D19, D21: which limit, its figures, owner and reset, and the command to raise it."""
    if scope[:1] == ["--key"]:
        scope = ["--key", format_id("key", tenant.key_id)]
    limit = ["--org", org(tenant), *scope, "--monthly"]
    run("limits", "set", *limit, "0.20", "--owner", "ann@acme.example")
    assert spend(tenant, headers=headers).status == 200
    tenant.calls()
    reply = spend(tenant, headers=headers)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, [code]), asked
    found = doctor(request_id)
    shown = found.shown()
    assert (shown["limit"], shown["used"], shown["owner"]) == ("0.20", "0.135025",
                                                             "ann@acme.example")  # fmt: skip
    assert "resets on" in found.first["cause"]
    raising = next(f["command"] for f in found.first["fixes"] if f["command"])
    if scope[:1] != ["--each"]:
        run(*words_of(raising.replace("AMOUNT", "9")))
        assert doctor(request_id).document["status"] == "mended"
        assert doctor(org(tenant)).codes == []
    run("limits", "set", *limit, "none")
    assert doctor(request_id).document["status"] == "mended"


def test_d20_the_limit_of_a_tier(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D20, LIM-05: the assigned limit of a month, what is used of it, and the next tier."""
    for name, place, purchases in (("Build", "0", "0"), ("Launch", "1", "100")):
        run("tiers", "set", name, "--position", place, "--purchases", purchases,
                "--monthly-maximum", "0.20" if place == "0" else "50")  # fmt: skip
    run("tiers", "assign", "Build", "--org", org(tenant))
    body = json.dumps({"error": {"message": "You have reached your assigned limit.",
                                 "type": "insufficient_quota", "param": None,
                                 "code": "organization_usage_limit_exceeded"}})  # fmt: skip
    assert doctor(body, "--org", org(tenant)).document["status"] == "mended"
    assert spend(tenant).status == 200
    tenant.calls()
    # What is left is less than the next call needs: the engine says so, and so does the doctor.
    reply = spend(tenant)
    assert reply.error["code"] == "organization_usage_limit_exceeded"
    found = doctor(refused(tenant, reply))
    assert (found.exit, found.codes) == (1, ["D20"])
    assert "needs up to" in found.first["cause"]
    run("tiers", "set", "Build", "--position", "0", "--monthly-maximum", "0.10")
    found = doctor(body, "--org", org(tenant))
    assert (found.exit, found.codes) == (1, ["D20"])
    assert "Launch" in found.first["fixes"][0]["text"]
    assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    assert "D20" in doctor(org(tenant)).codes


def test_d22_an_allocation(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D22, CRD-21: the project's part is used up while the organisation has money; and for others
    that part is set aside.
    """
    limit = ["--org", org(tenant), "--project", "main", "--total"]
    run("limits", "set", *limit, "0.20", "--allocation")
    assert spend(tenant).status == 200
    tenant.calls()
    reply = spend(tenant)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D22"]), asked
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    raising = next(f["command"] for f in doctor(request_id).first["fixes"] if f["command"])
    run(*words_of(raising.replace("AMOUNT", "4.90")))
    assert doctor(request_id).document["status"] == "mended"
    run("projects", "create", "other", "--org", org(tenant))
    made = json.loads(
        run("keys", "create", "k", "--project", "other", "--org", org(tenant), "--json").out
    )
    reply = tenant.post("/v1/chat/completions", {
        "model": "gpt-5.4", "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": COST}, key=made["key"])  # fmt: skip
    found = doctor(refused(tenant, reply))
    assert (found.exit, found.codes) == (1, ["D88"])
