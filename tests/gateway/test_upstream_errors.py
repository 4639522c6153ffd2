"""A provider's errors: what the tenant may read, and what is only the operator's."""

from __future__ import annotations

import json

import pytest

from farebox.gateway.upstream_errors import translated, without_identity


def body(**error: object) -> bytes:
    """An error in OpenAI's shape."""
    return json.dumps({"error": {"message": "m", **error}}).encode()


@pytest.mark.parametrize(
    ("status", "data", "code"),
    [
        (400, body(code="context_length_exceeded"), None),
        (404, body(code="model_not_found"), None),
        (429, body(code="rate_limit_exceeded", type="tokens"), None),
        (500, body(), None),
        (402, b"{}", "upstream_quota_exhausted"),
        (429, body(type="insufficient_quota", code="anything"), "upstream_quota_exhausted"),
        (429, body(code="insufficient_quota"), "upstream_quota_exhausted"),
        (400, body(code="billing_hard_limit_reached"), "upstream_quota_exhausted"),
        (403, body(code="model_not_found"), "upstream_credentials_refused"),
        (401, b"", "upstream_credentials_refused"),
        (
            403,
            body(code="unsupported_country_region_territory"),
            "unsupported_country_region_territory",
        ),
        (302, b"", "upstream_error"),
        (500, b"<html>", "upstream_error"),
        (400, b'{"error":"x"}', "upstream_error"),
        (400, body(code=["x"], type={"y": 1}), None),
    ],
    ids=range(15),
)
def test_whose_fault_it_is(status: int, data: bytes, code: str | None) -> None:
    """ERR-08, ERR-09: passed on where it is about the request, else it is about our account."""
    error = translated(status, data, provider="openai")
    assert (None if error is None else error.code) == code
    if error is not None:
        assert error.kind in {"server_error", "invalid_request_error", "request_forbidden"}
        assert error.status in {status, 502, 503}
        assert "insufficient_quota" not in error.message


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{"error":"no such model"}', "no such model"),
        (b'{"detail":"field required"}', "field required"),
        (b'{"message":"' + b"x" * 5_000 + b'"}', "xxx"),
        (b'{"detail":[{"loc":1}]}', ""),
        (b"<html>page</html>", ""),
        (b"[]", ""),
        (b"\xff", ""),
    ],
    ids=range(7),
)
def test_a_sentence_of_another_shape(data: bytes, detail: str) -> None:
    """The sentence is kept, a page for people is not."""
    error = translated(400, data, provider="x")
    assert error is not None
    assert detail in error.message
    assert "page" not in error.message
    assert len(error.message) < 700


def test_our_names_at_the_provider() -> None:
    """Our organisation and project there are nobody's business."""
    said = b"in organization org-AbCd1234 project proj_XyZw9876 on tokens"
    assert without_identity(said) == (
        b"in organization the provider's account project the provider's account on tokens"
    )
    assert without_identity(b"reorg-anise the project_name") == b"reorg-anise the project_name"
