"""``GET /v1/key`` on the gateway: what a key is told of itself over HTTP (LIM-10)."""

from __future__ import annotations

import msgspec

from farebox.kit.ids import format_id
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.key_status import KeyStatus
from tests.support.tenants import NewTenant, Tenant


def test_a_key_is_told_what_is_left_of_it(tenant: Tenant) -> None:
    """LIM-10: the same limit that the call's own headers tell, and its charge is in it."""
    tenant.house.command(
        SetLimit(
            organization_id=tenant.organization_id,
            scope_kind=ScopeKind.KEY,
            scope_ref=tenant.key_id.hex,
            measure=Measure.CALLS,
            period=Period.UTC_DAY,
            maximum=7,
        )
    )
    reply = tenant.chat()
    assert reply.status == 200
    answer = tenant.get("/v1/key")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    status = msgspec.json.decode(answer.body, type=KeyStatus)
    assert status.id == format_id("key", tenant.key_id)
    (rate,) = status.rate_limits
    assert (rate.limit, rate.used, rate.held, rate.remaining) == (7, 1, 0, 6)
    assert reply.headers["x-ratelimit-limit-requests"] == str(rate.limit)
    assert status.balance.available == reply.headers["x-farebox-balance"]


def test_the_user_of_its_calls_is_told_with_the_same_header(tenant: Tenant) -> None:
    """LIM-10, ATT-01: what a call with a header was counted under is what a question with it shows;
    a header that is wrong is named.
    """
    tenant.house.command(
        SetLimit(
            organization_id=tenant.organization_id,
            scope_kind=ScopeKind.USER,
            measure=Measure.CALLS,
            period=Period.MONTH,
            maximum=7,
        )
    )
    headers = {"X-Farebox-User": "Zoë".encode().decode("latin-1")}
    assert tenant.chat(headers=headers).status == 200
    answer = tenant.send("GET", "/v1/key", None, headers)
    nameless = tenant.get("/v1/key")
    wrong = tenant.send("GET", "/v1/key", None, {"X-Farebox-Tags": "red"})
    (limit,) = msgspec.json.decode(answer.body, type=KeyStatus).limits
    assert (limit.scope_id, limit.used, limit.remaining) == ("Zoë", 1, 6)
    assert msgspec.json.decode(nameless.body, type=KeyStatus).limits == []
    assert (wrong.status, wrong.error["param"]) == (400, "X-Farebox-Tags")


def test_a_key_that_opens_nothing_is_told_nothing(tenant: Tenant, new_tenant: NewTenant) -> None:
    """ERR-04: 401 in OpenAI's shape; a key for one organisation says nothing of another."""
    other = new_tenant()
    wrong = tenant.get("/v1/key", key="fbx_test_" + "2" * 44)
    posted = tenant.post("/v1/key", {})
    tenant.revoke(tenant.key_id)
    revoked = tenant.get("/v1/key")
    assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    assert (revoked.status, revoked.error["code"]) == (401, "invalid_api_key")
    assert "revoked" in revoked.error["message"]
    assert (posted.status, posted.headers["allow"]) == (405, "GET, HEAD")
    named = msgspec.json.decode(other.get("/v1/key").body, type=KeyStatus)
    assert named.organization.id == format_id("org", other.organization_id)
    assert named.limits == named.rate_limits == []


def test_the_bounds_of_the_named_feature_are_told(tenant: Tenant) -> None:
    """LIM-10, SAV-12: what its calls get is what a question with their header shows."""
    tenant.house.execute(
        """UPDATE project SET feature_caps = '{"chat": {"output_tokens_max": 20}}' WHERE id = %s""",
        tenant.project_id,
    )
    answer = tenant.send("GET", "/v1/key", None, {"X-Farebox-Feature": "chat"})
    assert msgspec.json.decode(answer.body, type=KeyStatus).output_tokens_max == 20
    nameless = msgspec.json.decode(tenant.get("/v1/key").body, type=KeyStatus)
    assert nameless.output_tokens_max is None
