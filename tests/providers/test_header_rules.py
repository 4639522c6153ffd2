"""Which headers cross to a provider and back."""

from __future__ import annotations

import pytest

from farebox.providers.header_rules import downstream_headers, upstream_headers


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "api-key", "x-api-key", "cookie", "host", "content-length"),
        *("openai-organization", "openai-project", "OpenAI-Organization", "Authorization"),
        *("x-farebox-user", "x-farebox-", "x-sandbox-usage", "x-forwarded-for", "x-real-ip"),
        *("connection", "transfer-encoding", "te", "upgrade", "expect", "accept-encoding"),
        *("keep-alive", "proxy-authorization", "proxy-connection", "trailer", "forwarded"),
    ],
)
def test_what_never_goes_upstream(name: str) -> None:
    """No credential, cookie, tenant's organisation, Farebox or hop header reaches a provider."""
    assert upstream_headers([(name, "x"), ("openai-beta", "y")]) == [("openai-beta", "y")]


@pytest.mark.parametrize(
    ("name", "value"), [("x-a", "1\r\nauthorization: x"), ("x-a", "\0"), ("x a", "1"), ("", "1")]
)
def test_a_header_cannot_smuggle_another(name: str, value: str) -> None:
    """A control character in a header is refused before anything is written."""
    with pytest.raises(ValueError, match="HTTP forbids"):
        upstream_headers([(name, value)])


def test_what_comes_back() -> None:
    """An answer's headers come in lower case, without those of the hop, its framing and cookies."""
    answer = [
        ("Content-Type", "application/json"),
        ("Content-Length", "12"),
        ("Content-Encoding", "gzip"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "Keep-Alive, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("X-Hop", "1"),
        ("Set-Cookie", "__cf_bm=1"),
        ("X-Request-Id", "req_1"),
        ("Retry-After", "1"),
    ]
    assert downstream_headers(answer) == (
        ("content-type", "application/json"),
        ("x-request-id", "req_1"),
        ("retry-after", "1"),
    )
