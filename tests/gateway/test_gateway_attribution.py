"""Who a call is for lands in its row; who we are, and who the tenant is, never goes upstream."""

from __future__ import annotations

import json

import pytest

from tests.support.mock_upstream import MockUpstream
from tests.support.tenants import PROVIDER_SECRET, Tenant, call_id

MOCKED = "mock/gpt-5.4"


def test_headers_land_in_the_row(tenant: Tenant) -> None:
    """ATT-01: every label of the headers is in the call's row, in people's own letters too."""
    reply = tenant.chat(
        {
            "X-Farebox-User": "  Zo\u00eb  ".encode().decode("latin-1"),
            "X-Farebox-Feature": "search",
            "X-Farebox-Environment": "staging",
            "X-Farebox-Run": "run-7",
            "X-Farebox-Priority": "High",
            "X-Farebox-Tags": "team=search, tier = gold,team=ranking,empty=",
            "X-Client-Request-Id": "mine-1",
            "X-Stainless-Retry-Count": "2",
        },
        user="not this one",
    )
    row = tenant.only_call()
    assert row.id == call_id(reply)
    assert (row.user, row.feature, row.environment, row.run) == (
        "Zo\u00eb",
        "search",
        "staging",
        "run-7",
    )
    assert (row.priority, row.client_request_id, row.retry_count) == ("high", "mine-1", 2)
    assert row.tags == {"team": "ranking", "tier": "gold", "empty": ""}
    assert (row.project_id, row.key_id) == (tenant.project_id, tenant.key_id)
    assert (row.model, row.endpoint, row.lane) == ("gpt-5.4", "chat/completions", "standard")
    assert row.latency_ms >= 0
    tenant.check_books()


def test_openais_own_fields_count_too(tenant: Tenant) -> None:
    """ATT-03: ``safety_identifier``, ``user`` and ``metadata`` of the body label a call."""
    tenant.chat(user="u-1", metadata={"team": "search", "n": "1"})
    tenant.chat(user="u-1", safety_identifier="s-1")
    tenant.chat({"X-Farebox-User": "h-1", "X-Farebox-Tags": "team=x"}, metadata={"team": "search"})
    tenant.chat()
    first, second, third, fourth = tenant.calls()
    assert (first.user, first.tags) == ("u-1", {"team": "search", "n": "1"})
    assert second.user == "s-1"
    assert (third.user, third.tags) == ("h-1", {"team": "x"})
    assert (fourth.user, fourth.tags or {}, fourth.environment) == ("", {}, "production")


@pytest.mark.parametrize("stream", [False, True])
def test_labels_that_no_database_keeps(tenant: Tenant, stream: bool) -> None:
    """A NUL in a label is dropped; it must not make the database reject the admission."""
    reply = tenant.chat(
        stream=stream,
        user="a\0b",
        metadata={"k\0ey": "v\0alue", "long" * 100: "x" * 1_000, "\0": ""},
    )
    assert reply.status == 200, reply.body
    row = tenant.only_call()
    assert row.user == "ab"
    assert row.tags == {"key": "value", ("long" * 100)[:64]: "x" * 256, "": ""}
    assert tenant.house.query("SELECT count(*) FROM quarantine")[0][0] == 0
    tenant.check_books()


def test_too_much_metadata_is_cut_not_refused(tenant: Tenant) -> None:
    """What does not fit is left out of the row; the header's tags go before all others."""
    tags = ",".join(f"h{i}=v" for i in range(32))
    tenant.chat({"X-Farebox-Tags": tags}, metadata={f"m{i}": "v" for i in range(40)})
    tenant.chat(metadata={f"m{i}": "v" for i in range(40)}, user="u" * 500)
    first, second = tenant.calls()
    assert first.tags == {f"h{i}": "v" for i in range(32)}
    assert second.tags == {f"m{i}": "v" for i in range(32)}
    assert second.user == "u" * 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_never_goes_upstream(tenant: Tenant, mock: MockUpstream, stream: bool) -> None:
    """Decision 18: no label, no key, no organisation and no directive reaches the provider."""
    reply = tenant.chat(
        {
            "X-Farebox-User": "zoe",
            "X-Farebox-Anything-New": "secret",
            "X-Sandbox-Usage": "prompt=1,cached=0,completion=1",
            "X-Sandbox-Fault": "status=500",
            "OpenAI-Organization": "org-tenant",
            "OpenAI-Project": "proj-tenant",
            "Cookie": "session=1",
            "X-Forwarded-For": "10.0.0.1",
            "X-Api-Key": "sk-tenant",
            "Api-Key": "sk-tenant",
            "X-Stainless-Lang": "python",
            "X-Client-Request-Id": "mine-2",
            "OpenAI-Beta": "assistants=v2",
            "Accept-Language": "d\u00e9".encode().decode("latin-1"),
        },
        model=MOCKED,
        stream=stream,
        user="end-user-1",
        metadata={"team": "search"},
    )
    assert reply.status == 200, reply.body
    sent = mock.requests[-1]
    names = {name for name, _ in sent.headers}
    assert names <= {
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "openai-beta",
        "user-agent",
        "x-client-request-id",
    }
    assert sent.header("authorization") == f"Bearer {PROVIDER_SECRET}"
    assert sent.header("x-client-request-id") == "mine-2"
    whole = json.dumps(sent.headers) + sent.body.decode()
    for secret in (tenant.key, "org-tenant", "sk-tenant", "zoe", "10.0.0.1", "session"):
        assert secret not in whole
    body = json.loads(sent.body)
    assert (body["user"], body["metadata"]) == ("end-user-1", {"team": "search"})
    # And nothing of the provider's own reaches the tenant.
    assert "openai-organization" not in reply.headers
    assert reply.headers["x-request-id"].startswith("req_")
    assert PROVIDER_SECRET.encode() not in reply.body
    call = tenant.only_call()
    assert (call.user, call.http_status, call.estimated) == ("zoe", 200, False)
    tenant.check_books()
