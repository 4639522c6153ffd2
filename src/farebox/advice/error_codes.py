"""Which finding an error code means: ours, the provider's, and what a bare status says.

One place for all doors: the gateway links each refusal to its finding with :func:`finding_url`, and
the doctor begins with :func:`finding_of` (DOC-06).
"""

from __future__ import annotations

from typing import Final

from farebox.advice.codes import Code
from farebox.ledger.scopes import ScopeKind

_OWN: Final = {
    # The engine's refusals.
    "credit_balance_exhausted": Code.D12,
    "credit_balance_expired": Code.D11,
    "credit_balance_negative": Code.D13,
    "balance_held": Code.D63,
    "rate_limit_exceeded": Code.D17,
    "organization_usage_limit_exceeded": Code.D20,
    "credit_set_aside": Code.D88,
    "key_not_found": Code.D04,
    "key_revoked": Code.D04,
    "key_expired": Code.D04,
    "project_archived": Code.D62,
    "organization_suspended": Code.D61,
    "organization_not_found": Code.D04,
    "stale_epoch": Code.D71,
    "stale_catalogue": Code.D71,
    "hold_closed": Code.D71,
    "hold_not_found": Code.D71,
    "exists_with_different_fields": Code.D83,
    # The gateway's own answers.
    "billing_unavailable": Code.D71,
    "internal_error": Code.D83,
    "body_too_large": Code.D68,
    "headers_too_large": Code.D68,
    "malformed_request": Code.D68,
    "too_slow": Code.D68,
    "too_many_connections": Code.D17,
    "method_not_allowed": Code.D68,
    "unknown_url": Code.D68,
    "not_found": Code.D81,
    "upstream_error": Code.D69,
    "upstream_not_reached": Code.D69,
    "upstream_too_large": Code.D69,
    "upstream_quota_exhausted": Code.D42,
    "upstream_credentials_refused": Code.D70,
    "permission_denied": Code.D07,
    "model_not_allowed": Code.D06,
}

_PROVIDERS: Final = {
    # What OpenAI's own API says, now and in the past (openai.com, "Error codes").
    "insufficient_quota": Code.D12,
    "billing_not_active": Code.D61,
    "billing_hard_limit_reached": Code.D19,
    "invalid_api_key": Code.D04,
    "missing_api_key": Code.D04,
    "mismatched_organization": Code.D05,
    "mismatched_project": Code.D05,
    "insufficient_permissions": Code.D07,
    "model_not_found": Code.D06,
    "unsupported_model": Code.D06,
    "invalid_service_tier": Code.D06,
    "unsupported_country_region_territory": Code.D80,
    "slow_down": Code.D17,
    "request_too_large": Code.D17,
    "server_is_overloaded": Code.D69,
    "service_unavailable": Code.D69,
    "server_error": Code.D69,
    "context_length_exceeded": Code.D68,
    "invalid_prompt": Code.D68,
    "connection_refused": Code.D72,
    "card_declined": Code.D84,
    "payment_failed": Code.D84,
    "expired_card": Code.D84,
    "insufficient_funds": Code.D84,
    "authentication_required": Code.D84,
}

_LIMIT_WORDS: Final = ("spend", "token", "call", "time", "depth")
_OF_KIND: Final = {ScopeKind.ORGANIZATION: Code.D19, ScopeKind.PROJECT: Code.D18}

_LIMITS: Final = {
    f"{kind.value}_{word}_limit_exceeded": _OF_KIND.get(kind, Code.D21)
    for kind in ScopeKind
    for word in _LIMIT_WORDS
}

_STOPS: Final = {f"{kind.value}_stopped": Code.D89 for kind in ScopeKind}

KNOWN: Final = {**_PROVIDERS, **_OWN, **_LIMITS, **_STOPS}
"""Error code -> the finding it means when nothing more is known."""

_TYPES: Final = {
    "insufficient_quota": Code.D12,
    "billing_not_active": Code.D61,
    "requests": Code.D17,
    "tokens": Code.D17,
    "rate_limit_error": Code.D17,
    "rate_limit_exceeded": Code.D17,
    "permission_error": Code.D07,
    "authentication_error": Code.D04,
    "service_unavailable_error": Code.D69,
    "server_error": Code.D69,
    "invalid_request_error": Code.D68,
}

_STATUSES: Final = {
    400: Code.D68,
    401: Code.D04,
    402: Code.D12,
    403: Code.D07,
    404: Code.D68,
    405: Code.D68,
    408: Code.D69,
    413: Code.D68,
    415: Code.D68,
    422: Code.D68,
    500: Code.D83,
    502: Code.D69,
    503: Code.D71,
    504: Code.D69,
}

MONEY: Final = frozenset({Code.D11, Code.D12, Code.D13, Code.D63, Code.D64, Code.D65, Code.D88})
"""Findings that are about what there is to spend."""

LIMITS: Final = frozenset({Code.D17, Code.D18, Code.D19, Code.D20, Code.D21, Code.D22, Code.D89})
"""Findings that are about a limit."""

ALSO_THE_PROVIDERS: Final = frozenset(
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
"""Codes of credit and budgets that a client may also have got from the provider itself."""

FINDING_PATH: Final = "/doctor/"
"""Where the console explains a finding."""


def finding_of(code: str) -> Code | None:
    """The finding that an error code means; None for a code that nobody here gives."""
    return KNOWN.get(code.strip().lower())


def finding_url(code: str, base: str) -> str:
    """Where a refusal's finding is explained: what its message links to (ERR-03).

    Args:
        code: The error code, or a finding's own code.
        base: The console's address; empty where none is known.

    Returns:
        The address, empty if the code or the address is not known.

    >>> finding_url("project_spend_limit_exceeded", "http://127.0.0.1:8081/")
    'http://127.0.0.1:8081/doctor/D18'
    """
    known = Code(code) if code in Code.__members__ else finding_of(code)
    return f"{base.rstrip('/')}{FINDING_PATH}{known.value}" if known and base else ""


def finding_of_error(*, code: str = "", kind: str = "", status: int | None = None) -> Code | None:
    """The finding of an error by the most exact thing that it says: code, then type, then status.

    Args:
        code: ``error.code``.
        kind: ``error.type``.
        status: The HTTP status.
    """
    found = finding_of(code) if code else None
    if found is None and kind:
        by_kind = kind.strip().lower()
        found = _TYPES.get(by_kind) or finding_of(by_kind)
        if found is Code.D68 and status not in {None, 400}:
            found = None  # OpenAI's broadest type stands beside every status
    if found is None and status is not None:
        found = _STATUSES.get(status)
    return found
