"""``farebox doctor`` on a running house: keys, permissions, models, headers; who is switched off.

Every fixture asserts the exact codes of what is found, then mends it and asserts that the finding
has gone or says so.
"""

from __future__ import annotations

import json
from datetime import timedelta

from farebox.kit.ids import format_id
from tests.support.doctor_house import Doctor, Run, org, refused, spend, words_of
from tests.support.house import House
from tests.support.tenants import Tenant, wait_for


def test_d04_a_revoked_key(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D04: a revoked key by request id, key, error body and organisation; a new one is named."""
    run("keys", "revoke", format_id("key", tenant.key_id))
    reply = spend(tenant)
    request_id = refused(tenant, reply, 401)
    body = reply.body.decode()
    for asked in ((request_id,), (tenant.key[:13],), (body,), (body, "--key", tenant.key[:13])):
        found = doctor(*asked)
        assert (found.exit, found.codes[0], found.first["severity"]) == (1, "D04", "wrong"), asked
        assert "revoked" in found.first["cause"]
        assert found.document["area"] == "not_billing"
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    assert doctor(request_id).codes == ["D04"]
    assert doctor(org(tenant)).codes == ["D04", "D85"]
    made = tenant.new_key()
    told = doctor(request_id).first["fixes"][0]["text"]
    assert made.text[:13] in told
    assert made.text not in told


def test_d04_an_expired_key(tenant: Tenant, house: House, run: Run, doctor: Doctor) -> None:
    """D04: a key whose end has come."""
    ((now,),) = house.query("SELECT farebox_now()")
    made = tenant.new_key(expires_at=now + timedelta(hours=1))
    run("clock", "advance", "2h")
    reply = tenant.post("/v1/chat/completions", {"model": "gpt-5.4", "messages": [
        {"role": "user", "content": "x"}]}, key=made.text)  # fmt: skip
    found = doctor(refused(tenant, reply, 401))
    assert found.codes == ["D04"]
    assert "expired on" in found.first["cause"]


def test_d04_a_key_that_nobody_made(tenant: Tenant, doctor: Doctor) -> None:
    """D04: a mistyped key, a provider's key, and the gateway's own 401."""
    for asked in ("fbx_test_zzzz", "fbx_live_1111...", "sk-proj-abcdefgh", "Incorrect API key"):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D04"])
    body = tenant.post("/v1/chat/completions", {}, key="nonsense").body.decode()
    assert doctor(body).codes == ["D04"]


def test_d05_a_header_of_another_organisation(tenant: Tenant, doctor: Doctor) -> None:
    """D05: the provider's own complaint about OpenAI-Organization; whose key it is, is told."""
    body = json.dumps(
        {
            "error": {
                "message": "OpenAI-Organization header should match organization for API key",
                "type": "invalid_request_error",
                "param": None,
                "code": "mismatched_organization",
            }
        }
    )
    found = doctor(body, "--org", tenant.name)
    assert (found.exit, found.codes) == (1, ["D05"])
    assert tenant.name in found.first["cause"]
    assert doctor(body, "--key", tenant.key[:13]).codes == ["D05"]


def test_d06_a_model_that_is_not_there(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D06: the gateway's 404 names the nearest models; an allow list is told with its owner."""
    body = tenant.chat(model="gpt-5.4-mni").body.decode()
    by_id = refused(tenant, tenant.chat(model="gpt-5.4-mni", stream=True), 404)
    for asked in (body, by_id):
        found = doctor(asked)
        assert (found.exit, found.codes, found.document["area"]) == (1, ["D06"], "not_billing")
        assert "gpt-5.4-mini" in found.first["fixes"][0]["text"]
    run("projects", "update", "main", "--org", org(tenant), "--models", "gpt-5.4-m*",
            "--owner", "ann")  # fmt: skip
    # What a project allows is carried with the key, and read anew soon.
    wait_for(lambda: tenant.chat(model="gpt-5.4", max_completion_tokens=5).status == 403)
    by_id = refused(tenant, tenant.chat(model="gpt-5.4"), 403)
    for words in ((by_id,), (body.replace("gpt-5.4-mni", "gpt-5.4"), "--key", tenant.key[:13])):
        found = doctor(*words)
        assert found.codes == ["D06"]
        assert "may not call gpt-5.4" in found.first["cause"]
        assert any("ann" in fix["text"] for fix in found.first["fixes"])
    allowed = doctor(body.replace("gpt-5.4-mni", "gpt-5.4-mini"), "--key", tenant.key[:13])
    assert (allowed.exit, allowed.document["status"]) == (0, "mended")
    assert doctor(org(tenant), "--model", "gpt-5.4").codes == []


def test_d07_a_permission(tenant: Tenant, house: House, doctor: Doctor) -> None:
    """D07: a management key calls no model, and a missing scope is no billing matter."""
    admin = str(house.facts["admin_key"])
    reply = tenant.post("/v1/chat/completions", {}, key=admin)
    found = doctor(reply.body.decode(), "--key", admin)
    assert (found.exit, found.codes[0]) == (1, "D07")
    assert doctor(admin[:14]).codes == ["D07"]
    scopes = "You have insufficient permissions for this operation. Missing scopes: api.model.read"
    assert doctor(json.dumps({"error": scopes})).codes == ["D07"]
    assert doctor(tenant.key[:13]).codes == []


def test_an_upstream_that_refuses_is_not_the_tenants_trouble(
    tenant: Tenant, doctor: Doctor
) -> None:
    """ERR-08, D42: our own credit and key at the provider; the call cost nothing."""
    reply = tenant.chat({"X-Sandbox-Fault": "status=402"})
    assert reply.error["code"] == "upstream_quota_exhausted"
    tenant.calls()
    for asked in (reply.headers["x-request-id"], reply.body.decode()):
        found = doctor(asked)
        assert (found.exit, found.codes, found.document["area"]) == (1, ["D42"], "not_billing")
    reply = tenant.chat({"X-Sandbox-Fault": "status=401"})
    tenant.calls()
    assert doctor(reply.headers["x-request-id"]).codes == ["D70"]
    found = doctor(org(tenant))
    assert found.codes == ["D42", "D70"]
    assert not any(f["adds_credit"] for each in found.document["findings"] for f in each["fixes"])


def test_an_account_that_another_organisation_found_used_up(
    tenant: Tenant, house: House, doctor: Doctor
) -> None:
    """ERR-08, D42: operators were told, so everybody's diagnosis says it, until a day later."""
    facts = '{"provider": "sandbox", "account": "main", "status": "429", "request_id": "req_1"}'
    for age in ("2 days", "3 hours", "2 hours"):
        house.execute(
            "INSERT INTO outbox (kind, at, facts) VALUES ('upstream_quota_exhausted',"
            f" farebox_now() - interval '{age}', %s::jsonb)",
            facts,
        )
    try:
        found = doctor(org(tenant))
    finally:
        house.execute("DELETE FROM outbox WHERE organization_id IS NULL")
    assert (found.exit, found.codes) == (0, ["D42"])
    assert found.shown() == {"used up": "main at sandbox"}
    assert found.first["fixes"][-1]["command"] == "farebox alerts list --deployment"
    assert doctor(org(tenant)).codes == []


def test_a_suspended_organisation(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """DOC-14: whatever the balance, the organisation must be switched on first."""
    run("orgs", "update", org(tenant), "--deactivate")
    request_id = refused(tenant, spend(tenant))
    assert doctor(request_id).codes == ["D61"]
    assert doctor(org(tenant)).codes == ["D61"]
    run(*words_of(doctor(request_id).first["fixes"][0]["command"]))
    assert doctor(request_id).document["status"] == "mended"


def test_an_archived_project(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """The keys of an archived project open nothing; a key of another project is to be used."""
    run("projects", "archive", "main", "--org", org(tenant))
    request_id = refused(tenant, spend(tenant), 401)
    assert doctor(request_id).codes == ["D62"]
    assert doctor(tenant.key[:13]).codes == ["D62", "D85"]
