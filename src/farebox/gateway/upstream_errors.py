"""A provider's error as the tenant gets it: in OpenAI's shape, and only what is the tenant's.

What is wrong with the request is passed on as the provider said it. What is wrong between us and
the provider (our key, our quota, our account's name) is the operator's, and never looks like the
tenant's own (ERR-08).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from farebox.gateway.desk import logger
from farebox.gateway.openai_errors import GatewayError

DETAIL_CHARACTERS_MAX: Final = 500

_IDENTITY: Final = re.compile(rb"\b(?:org|proj)[-_][A-Za-z0-9]{4,}")
"""Our own organisation or project at the provider, as its messages name it."""

_OWN_QUOTA: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_not_active",
        "billing_hard_limit_reached",
    }
)

UPSTREAM_QUOTA_EXHAUSTED: Final = "upstream_quota_exhausted"
"""The operator's own account at the provider is empty (ERR-08)."""

REGION_UNSUPPORTED: Final = "unsupported_country_region_territory"
"""The provider does not serve the place that the gateway calls from (ERR-09)."""

REASONS: Final = {
    UPSTREAM_QUOTA_EXHAUSTED: UPSTREAM_QUOTA_EXHAUSTED,
    REGION_UNSUPPORTED: "upstream_region_unsupported",
}
"""Error code -> why the call ended, where the provider's status does not say it."""


def broken(status: int, what: str) -> GatewayError:
    """The upstream failed after it had the request."""
    return GatewayError(
        status,
        f"The model provider {what}; nothing was charged for it. Please try again.",
        kind="server_error",
        code="upstream_error",
    )


def answer_too_large() -> GatewayError:
    """The answer is larger than we pass on; what the provider had read was charged."""
    return GatewayError(
        502,
        "The model provider's answer is larger than the gateway passes on; its prompt was charged. "
        "Ask for less in one call.",
        kind="server_error",
        code="upstream_too_large",
        headers=[("x-should-retry", "false")],
    )


def without_identity(body: bytes) -> bytes:
    """A provider's error without the names of our account there."""
    return _IDENTITY.sub(b"the provider's account", body)


def translated(status: int, body: bytes, *, provider: str) -> GatewayError | None:
    """What to say instead of a provider's error; None where its own words will do.

    Args:
        status: What it answered with; not a success.
        body: What it said.
        provider: Our name for it, for the operator's log.
    """
    error = _error_object(body)
    if status == 402 or (error is not None and _names_quota(error)):
        logger.error("upstream_quota_exhausted", provider=provider, status=status)
        return GatewayError(
            503,
            "The gateway's own credit at the model provider is used up; tell its operator. "
            "Your balance is not the cause.",
            kind="server_error",
            code=UPSTREAM_QUOTA_EXHAUSTED,
            headers=[("x-should-retry", "false")],
        )
    if error is not None and error.get("code") == REGION_UNSUPPORTED:
        logger.error("upstream_region_unsupported", provider=provider, status=status)
        return GatewayError(
            403,
            "The model provider does not serve the country, region or territory that this gateway "
            "calls from; tell its operator.",
            kind="request_forbidden",
            code=REGION_UNSUPPORTED,
        )
    if status in {401, 403, 407}:
        logger.error("upstream_credentials_refused", provider=provider, status=status)
        return GatewayError(
            502,
            "The model provider refused the gateway's own credentials; tell its operator.",
            kind="server_error",
            code="upstream_credentials_refused",
            headers=[("x-should-retry", "false")],
        )
    if status < 400:
        logger.error("upstream_redirects", provider=provider, status=status)
        return broken(502, f"answered with status {status}")
    if error is None:
        return _reshaped(status, body)
    return None


def _reshaped(status: int, body: bytes) -> GatewayError:
    """An error that is not in OpenAI's shape, in that shape."""
    detail = _detail(without_identity(body))
    said = f": {detail}" if detail else ""
    if status >= 500:
        return broken(status, f"answered with status {status}{said}")
    return GatewayError(
        status, f"The model provider answered with status {status}{said}", code="upstream_error"
    )


def _detail(body: bytes) -> str:
    """The sentence in an error of another shape; nothing of a page made for people."""
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(document, dict):
        for name in ("error", "message", "detail"):
            if isinstance(document.get(name), str):
                return str(document[name])[:DETAIL_CHARACTERS_MAX]
    return ""


def _names_quota(error: dict[str, Any]) -> bool:
    named = (error.get("code"), error.get("type"))
    return any(isinstance(name, str) and name in _OWN_QUOTA for name in named)


def _error_object(body: bytes) -> dict[str, Any] | None:
    """The error of a body in OpenAI's shape; None of any other."""
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else None
