"""The real upstream: what it sends, and what it refuses to be set up with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.operations.upstream import UpstreamNotReachedError, UpstreamRequest
from farebox.providers.openai_compatible import OpenAICompatibleUpstream
from tests.support.scripted_server import Connection, ScriptedServer, answer, scripted_server


async def _ok(connection: Connection) -> None:
    """Answer every request with an empty object."""
    while True:
        await connection.request()
        await connection.send(answer(b"{}"))


@asynccontextmanager
async def _asking(
    secret: str | None = "sk-upstream", path: str = "/v1", **settings: Any
) -> AsyncIterator[tuple[OpenAICompatibleUpstream, ScriptedServer]]:
    async with scripted_server(_ok) as server:
        base_url = server.base_url.removesuffix("/v1") + path
        upstream = OpenAICompatibleUpstream(base_url, secret, **settings)
        yield upstream, server
        await upstream.aclose()


async def _ask(upstream: OpenAICompatibleUpstream, request: UpstreamRequest) -> None:
    response = await upstream.send(request)
    assert await response.read(1000) == b"{}"


def _lines(sent: bytes) -> tuple[str, dict[str, str], bytes]:
    """The request line, the headers and the body of a request on the wire."""
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in rest]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header is there twice"
    return first, {name.lower(): value for name, value in pairs}, body


async def test_a_request_goes_out_as_it_came_with_our_key() -> None:
    """The body is forwarded byte for byte; the key, a plain encoding and the type are added."""
    body = b'{"model" : "gpt-5.4",\n "messages":[]}'
    async with _asking() as (upstream, server):
        await _ask(upstream, UpstreamRequest("/chat/completions", body))
    first, headers, sent = _lines(server.requests[0])
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert sent == body
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "authorization": "Bearer sk-upstream",
        "accept-encoding": "identity",
        "accept": "*/*",
        "content-type": "application/json",
        "user-agent": "farebox",
        "content-length": str(len(body)),
    }


async def test_no_tenant_secret_goes_upstream_whatever_the_gateway_passes() -> None:
    """ATT: a client's key, organisation, cookies and Farebox's own headers stay here."""
    private = (
        ("authorization", "Bearer fb-client"),
        ("openai-organization", "org-tenant"),
        ("openai-project", "proj-tenant"),
        ("cookie", "session=1"),
        ("x-farebox-user", "alice"),
        ("x-sandbox-usage", "prompt=1"),
        ("x-client-request-id", "c-1"),
    )
    request = UpstreamRequest(
        "/chat/completions",
        b"{}",
        headers=private,
        sandbox_headers=(("x-sandbox-fault", "status=500"),),
    )
    async with _asking() as (upstream, server):
        await _ask(upstream, request)
    wire = server.requests[0].lower()
    for word in (b"fb-client", b"tenant", b"session", b"alice", b"x-farebox", b"x-sandbox"):
        assert word not in wire
    assert _lines(server.requests[0])[1]["x-client-request-id"] == "c-1"


async def test_a_client_keeps_its_content_type_and_agent() -> None:
    """A multipart body needs the boundary that its client chose."""
    lines = (("content-type", "multipart/form-data; boundary=x"), ("user-agent", "sdk/1"))
    async with _asking() as (upstream, server):
        await _ask(upstream, UpstreamRequest("/audio/transcriptions", b"--x--", headers=lines))
    headers = _lines(server.requests[0])[1]
    assert headers["content-type"] == "multipart/form-data; boundary=x"
    assert headers["user-agent"] == "sdk/1"


async def test_a_local_server_needs_no_key() -> None:
    """Without a secret no authorisation is sent at all."""
    async with _asking(None) as (upstream, server):
        await _ask(upstream, UpstreamRequest("/models", b"", method="GET"))
    first, headers, body = _lines(server.requests[0])
    assert first == "GET /v1/models HTTP/1.1"
    assert body == b""
    assert "authorization" not in headers
    assert "api-key" not in headers


async def test_azure_takes_its_key_and_version_its_own_way() -> None:
    """Azure's current API: the key in api-key, the version in the query."""
    settings: dict[str, Any] = {"style": "azure", "api_version": "preview"}
    async with _asking("az-key", "/openai/v1", **settings) as (upstream, server):
        await _ask(upstream, UpstreamRequest("/chat/completions", b"{}"))
        await _ask(upstream, UpstreamRequest("/files?limit=2", b"", method="GET"))
    first, headers, _ = _lines(server.requests[0])
    assert first == "POST /openai/v1/chat/completions?api-version=preview HTTP/1.1"
    assert headers["api-key"] == "az-key"
    assert "authorization" not in headers
    second = _lines(server.requests[1])[0]
    assert second == "GET /openai/v1/files?limit=2&api-version=preview HTTP/1.1"


async def test_azure_deployments_are_found_by_model() -> None:
    """Azure's older API: the deployment in the path is the model that the body names."""
    settings: dict[str, Any] = {"style": "azure", "api_version": "2024-10-21"}
    path = "/openai/deployments/{model}"
    async with _asking("az-key", path, **settings) as (upstream, server):
        body = b'{"model":"my gpt/5","messages":[]}'
        await _ask(upstream, UpstreamRequest("/chat/completions", body))
        await _ask(upstream, UpstreamRequest("/models", b"", method="GET"))
        for unnamed in (b"{}", b"[]", b'{"model":".."}', b"--x--"):
            with pytest.raises(UpstreamNotReachedError, match="Azure deployment"):
                await upstream.send(UpstreamRequest("/chat/completions", unnamed))
    want = "POST /openai/deployments/my%20gpt%2F5/chat/completions?api-version=2024-10-21 HTTP/1.1"
    assert _lines(server.requests[0])[0] == want
    assert _lines(server.requests[1])[0] == "GET /openai/models?api-version=2024-10-21 HTTP/1.1"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "models", "//evil/x", "/a/../b", "/a/%2e%2e/b", "/..", "/a b", "/a\r\nx: y"),
        *("/a#b", "/a\\b", "https://evil/", "/a?b\r\nc", "/é"),
    ],
)
async def test_an_endpoint_cannot_leave_the_base_url(endpoint: str) -> None:
    """An endpoint that could reach another path or split the request is not sent."""
    async with _asking() as (upstream, server):
        with pytest.raises(UpstreamNotReachedError, match="nothing was sent"):
            await upstream.send(UpstreamRequest(endpoint, b"{}"))
    assert server.requests == []


@pytest.mark.parametrize("method", ["HEAD", "CONNECT", "get", "GET /evil HTTP/1.1\r\nx:", ""])
async def test_only_methods_whose_answers_can_be_read_are_sent(method: str) -> None:
    """An answer to HEAD has no body whatever its head says; it would be taken for another's."""
    async with _asking() as (upstream, server):
        with pytest.raises(UpstreamNotReachedError, match="no such method"):
            await upstream.send(UpstreamRequest("/models", b"", method=method))
    assert server.requests == []


async def test_what_is_remembered_of_requests_is_bounded() -> None:
    """Endpoints with ids in them do not fill the memory, and go out all the same."""
    async with _asking() as (upstream, server):
        for n in range(100):
            await _ask(upstream, UpstreamRequest(f"/files/file_{n}", b"", method="GET"))
        assert len(upstream._beginnings) < 100
    assert _lines(server.requests[99])[0] == "GET /v1/files/file_99 HTTP/1.1"


async def test_a_header_that_cannot_be_sent_stops_the_call() -> None:
    """A control character in a client's header never reaches the wire."""
    async with _asking() as (upstream, server):
        for value in ("1\n2", "1\r2", "1\x002", "\udc80"):
            with pytest.raises(UpstreamNotReachedError, match="x-a"):
                await upstream.send(UpstreamRequest("/models", b"{}", headers=(("x-a", value),)))
    assert server.requests == []


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("base_url", {"base_url": "nowhere"}),
        ("secret", {"secret": ""}),
        ("secret", {"secret": "sk-with space"}),
        ("secret", {"secret": "sk-\r\nx: y"}),
        ("api_version", {"api_version": "2024&x=1"}),
        ("connections_max", {"connections_max": 0}),
    ],
)
def test_bad_settings_are_named_and_secrets_are_not_repeated(
    field: str, settings: dict[str, Any]
) -> None:
    """A setting that cannot work is refused at once; the message never holds the key."""
    usual: dict[str, Any] = {"base_url": "https://host/v1", "secret": "sk-x"}
    with pytest.raises(InvalidInputError) as refused:
        OpenAICompatibleUpstream(**(usual | settings))
    assert refused.value.field == field
    assert "sk-" not in refused.value.message


async def test_the_key_is_in_no_representation() -> None:
    """A log line or a traceback that shows the upstream shows no key."""
    upstream = OpenAICompatibleUpstream("https://host/v1", "sk-hidden")
    assert "sk-hidden" not in repr(upstream)


async def test_a_large_body_is_sent_whole() -> None:
    """Three megabytes arrive as they are, without a warning."""
    body = b"x" * 3_000_000
    async with _asking() as (upstream, server):
        await _ask(upstream, UpstreamRequest("/chat/completions", body))
    assert server.requests[0].endswith(body)


async def test_an_answered_connection_is_used_again() -> None:
    """Calls one after the other share a connection."""
    async with _asking() as (upstream, server):
        for _ in range(3):
            response = await upstream.send(UpstreamRequest("/models", b"{}"))
            assert await response.read(1000) == b"{}"
            await response.close()  # harmless after the end
    assert server.connections == 1
    assert len(server.requests) == 3


async def test_after_closing_nothing_is_sent() -> None:
    """An upstream that was taken out of use says that nothing was sent."""
    async with _asking() as (upstream, server):
        await upstream.aclose()
        with pytest.raises(UpstreamNotReachedError):
            await upstream.send(UpstreamRequest("/models", b"{}"))
        await upstream.aclose()
    assert server.requests == []
