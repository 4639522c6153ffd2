"""How the simulated provider says no."""

from __future__ import annotations

import msgspec
import pytest

from farebox.providers.simulated.failures import on_request


@pytest.mark.parametrize(
    ("status", "kind", "code", "retry"),
    [
        (400, "invalid_request_error", None, False),
        (401, "invalid_request_error", "invalid_api_key", False),
        (404, "invalid_request_error", "model_not_found", False),
        (429, "requests", "rate_limit_exceeded", True),
        (500, "server_error", None, False),
        (502, "server_error", None, False),
        (503, "service_unavailable_error", "server_is_overloaded", True),
    ],
)
def test_an_ordered_status_has_the_providers_shape(
    status: int, kind: str, code: str | None, retry: bool
) -> None:
    """The envelope has all four keys, and says when to try again only where that helps."""
    failure = on_request(status, None)
    error = msgspec.json.decode(failure.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (failure.status, error["type"], error["code"]) == (status, kind, code)
    assert ("retry-after" in dict(failure.headers)) is retry


def test_the_providers_own_quota_can_be_played() -> None:
    """ERR-08: a provider account without money is told by its code, and not with a retry."""
    failure = on_request(429, "credit_balance_exhausted")
    error = msgspec.json.decode(failure.body)["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "credit_balance_exhausted")
    assert failure.headers == ()
