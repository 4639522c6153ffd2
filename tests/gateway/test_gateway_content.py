"""What calls say: nowhere unless their project stores it, and then as it was sent."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from farebox.operations.content import CONTENT_BYTES_MAX
from tests.support.house import House
from tests.support.scripted_upstream import DONE, ScriptedResponse, Scripts, delta, usage_chunk
from tests.support.tenants import MODEL, NewTenant, Tenant, call_id, chat_body, wait_for


def stores(tenant: Tenant, *, days: int | None) -> None:
    """Have the tenant's project store content, as an API change does for running gateways."""
    tenant.house.execute(
        "UPDATE project SET stores_content = %s, content_retention_days = %s WHERE id = %s",
        days is not None,
        days,
        tenant.project_id,
    )
    tenant.house.execute("UPDATE directory SET revision = revision + 1")
    assert tenant.get("/readyz").status == 200  # it reads the revision


def places(house: House, marker: str) -> list[str]:
    """Every table in which a text stands, as text or as bytes."""
    tables = house.query(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'p')"
        " AND c.relnamespace = 'public'::regnamespace"
    )
    found = []
    for (table,) in tables:
        sql = (
            f"SELECT count(*) FROM {table} AS t WHERE strpos(t::text, %s) > 0"
            " OR strpos(t::text, encode(%s::text::bytea, 'hex')) > 0"
        )
        if house.query(sql, marker, marker)[0][0]:
            found.append(table)
    return found


def stored(tenant: Tenant, count: int = 1) -> list[tuple[Any, ...]]:
    """What is stored of the tenant's calls, once it is so many."""
    sql = (
        "SELECT request, request_bytes, answer, answer_bytes, answer_type, call_id,"
        " ends_on - stored_at::date FROM call_content WHERE organization_id = %s"
        " ORDER BY call_id"
    )
    wait_for(lambda: len(tenant.house.query(sql, tenant.organization_id)) >= count)
    return tenant.house.query(sql, tenant.organization_id)


def make_calls(tenant: Tenant, scripts: Scripts, marker: str) -> None:
    """Calls of every kind of end, with the marker in what is asked and in what is answered."""
    said = [delta(f"{marker} said"), delta("", finish="stop"), usage_chunk(10, 5), DONE]
    scripts["said"] = lambda _: ScriptedResponse(list(said))
    refused = b'{"error":{"message":"no ' + marker.encode() + b'","type":"invalid_request_error"}}'
    scripts["refused"] = lambda _: ScriptedResponse([refused], status=400)
    whole = b'{"choices":[{"message":{"content":"' + marker.encode() + b' said"}}],"usage":{'
    whole += b'"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}'
    scripts["whole"] = lambda _: ScriptedResponse([whole])
    text = f"please {marker}"
    for script, more in (
        ("said", {"stream": True}),
        ("whole", {}),
        ("refused", {}),
    ):
        headers = {"X-Sandbox-Script": script, "X-Secret": marker}
        tenant.post("/v1/chat/completions", chat_body(text, **more), headers)
    tenant.post("/v1/chat/completions", {"model": MODEL, "messages": text})
    tenant.post("/v1/chat/completions", chat_body(text, max_tokens=-1))
    tenant.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": text})
    tenant.calls()


def test_nothing_is_stored_unless_a_project_says_so(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """DESIGN: with the setting off, no table has a trace of what calls said, however they ended."""
    tenant, marker = new_tenant(), f"marker{uuid4().hex}"
    make_calls(tenant, scripts, marker)
    poor = new_tenant(credit="0.000001")
    assert poor.chat(max_tokens=4_000).status == 429
    poor.post("/v1/chat/completions", chat_body(f"please {marker}", max_tokens=4_000))
    poor.refusals(2)
    assert len(tenant.calls()) >= 3
    assert places(house, marker) == []


def test_what_is_stored_is_what_was_sent(
    new_tenant: NewTenant, house: House, scripts: Scripts
) -> None:
    """Request and answer byte by byte, a stream's events as they left, in one table alone."""
    tenant, marker = new_tenant(), f"marker{uuid4().hex}"
    stores(tenant, days=7)
    said = [delta(f"{marker} said"), delta("", finish="stop"), usage_chunk(10, 5), DONE]
    scripts["said"] = lambda _: ScriptedResponse(list(said))
    body = chat_body(f"please {marker}", stream=True)
    reply = tenant.post("/v1/chat/completions", body, {"X-Sandbox-Script": "said"})
    ((request, size, answer, answer_size, kind, stored_id, days),) = stored(tenant)
    assert (answer, answer_size, kind) == (reply.body, len(reply.body), "text/event-stream")
    assert marker.encode() in request
    assert (size, stored_id, days) == (len(request), call_id(reply), 8)
    whole = tenant.post("/v1/chat/completions", chat_body(f"again {marker}"))
    assert stored(tenant, 2)[1][2:5] == (whole.body, len(whole.body), "application/json")
    held = set(places(house, marker))
    assert {name.rstrip("0123456789_") for name in held} == {"call_content"}


def test_a_refused_call_stores_nothing(new_tenant: NewTenant, house: House) -> None:
    """What was never sent to a provider is no content, even where content is stored."""
    tenant, marker = new_tenant(credit="0.000001"), f"marker{uuid4().hex}"
    stores(tenant, days=7)
    body = chat_body(f"please {marker}", max_tokens=4_000)
    assert tenant.post("/v1/chat/completions", body).status == 429
    tenant.refusals(1)
    assert places(house, marker) == []


def test_an_upstreams_refusal_is_stored_with_what_was_asked(
    new_tenant: NewTenant, scripts: Scripts
) -> None:
    """A provider's 400 is an answer like any other; what is secret in it stays behind."""
    tenant = new_tenant()
    stores(tenant, days=7)
    body = b'{"error":{"message":"bad parameter","type":"invalid_request_error"}}'
    scripts["bad"] = lambda _: ScriptedResponse([body], status=400)
    reply = tenant.post("/v1/chat/completions", chat_body(), {"X-Sandbox-Script": "bad"})
    assert reply.status == 400
    assert stored(tenant)[0][2] == reply.body


def test_large_content_is_cut_and_says_so(new_tenant: NewTenant) -> None:
    """A bound on everything: what is beyond it is not kept, its size is."""
    tenant = new_tenant(credit="100.00")
    stores(tenant, days=1)
    body = chat_body("x" * (CONTENT_BYTES_MAX + 1_000), max_tokens=10)
    assert tenant.post("/v1/chat/completions", body).status == 200
    request, size = stored(tenant)[0][:2]
    assert len(request) == CONTENT_BYTES_MAX < size


def test_switching_it_off_holds_from_the_next_call(new_tenant: NewTenant) -> None:
    """The setting is read with the key: what comes after the change is stored no more."""
    tenant = new_tenant()
    stores(tenant, days=7)
    tenant.chat()
    stores(tenant, days=None)
    tenant.chat()
    tenant.calls()
    assert len(stored(tenant)) == 1
