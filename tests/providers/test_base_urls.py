"""Reading a provider's base URL."""

from __future__ import annotations

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.providers.base_urls import parse_base_url


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("  HTTPS://API.OpenAI.com/v1/ ", "https://api.openai.com/v1"),
        ("http://127.0.0.1:8000/v1//", "http://127.0.0.1:8000/v1"),
        ("http://localhost:11434", "http://localhost:11434"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://x.openai.azure.com/openai/v1/", "https://x.openai.azure.com/openai/v1"),
        ("https://host/a%20b/v1", "https://host/a%20b/v1"),
    ],
)
def test_one_place_has_one_spelling(text: str, spelling: str) -> None:
    """A base URL is kept in lower case where case does not count, without a trailing slash."""
    assert parse_base_url(text) == spelling


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1 to 2048"),
        ("https://" + "a" * 3000, "1 to 2048"),
        ("api.openai.com/v1", "begin with http"),
        ("ftp://host/v1", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("https://", "name a host"),
        ("https:///v1", "name a host"),
        ("https://host:0/v1", "name a host"),
        ("https://host:99999/v1", "no URL"),
        ("https://[::1/v1", "no URL"),
        ("https://user:hunter2@host/v1", "credentials"),
        ("https://host/v1?api-version=1", "query"),
        ("https://host/v1#x", "fragment"),
        ("https://host/v1?", "query"),
        ("https://host/a b", "ASCII"),
        ("https://host/\r\nx", "ASCII"),
        ("https://bücher.example/v1", "punycode"),
        ("https://host/../v1", "plain path"),
        ("https://host//v1", "plain path"),
        ("https://host/v1\\x", "plain path"),
        ("https://host/v1/chat/completions", "without an endpoint"),
        ("https://host/openai/deployments/{model}", "only for Azure"),
    ],
)
def test_a_bad_base_url_is_refused_with_its_fault(text: str, fault: str) -> None:
    """An operator who mistypes a base URL reads which rule it breaks, never a secret in it."""
    with pytest.raises(InvalidInputError, match=fault) as refused:
        parse_base_url(text)
    assert refused.value.field == "base_url"
    assert "hunter2" not in refused.value.message


def test_azure_may_leave_the_deployment_open() -> None:
    """Azure's older form has the deployment in the path, which may stand for any model."""
    text = "https://x.openai.azure.com/openai/deployments/{model}"
    assert parse_base_url(text, style="azure") == text
    with pytest.raises(InvalidInputError, match="whole path segment"):
        parse_base_url("https://x.openai.azure.com/openai/pre{model}", style="azure")
