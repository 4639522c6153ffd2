"""How the simulated provider says no: OpenAI's error object, status and headers."""

from __future__ import annotations

from typing import Final

import msgspec

# The guide to OpenAI's error codes; wording and types as captured there.
_QUOTA_CODES: Final = frozenset(
    {
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)
_TYPES: Final = {
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("service_unavailable_error", "server_is_overloaded"),
}
_CLIENT_CODES: Final = {401: "invalid_api_key", 404: "model_not_found"}


class ProviderFailure(Exception):  # noqa: N818 - it is the provider's answer, not our error
    """A refusal, with all that its answer says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode(
            {"error": {"message": message, "type": kind, "param": param, "code": code}}
        )
        """OpenAI's envelope: all four keys are always there."""
        self.headers: tuple[tuple[str, str], ...] = ()
        if retry_after_seconds is not None:
            self.headers = (("retry-after", str(retry_after_seconds)),)


def missing(param: str) -> ProviderFailure:
    """A required field is not there."""
    return ProviderFailure(
        400,
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def wrong_type(param: str, wanted: str) -> ProviderFailure:
    """A field has a value of the wrong kind."""
    return ProviderFailure(
        400, f"Invalid type for '{param}': expected {wanted}.", param=param, code="invalid_type"
    )


def wrong_value(param: str, reason: str) -> ProviderFailure:
    """A field has a value that cannot be taken."""
    return ProviderFailure(
        400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value"
    )


def unknown_model(model: str) -> ProviderFailure:
    """There is no such model."""
    return ProviderFailure(
        404,
        f"The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
    )


def bad_directive(header: str, reason: str) -> ProviderFailure:
    """A sandbox header cannot be followed; ``param`` names it."""
    return ProviderFailure(
        400, f"{header}: {reason}", param=header, code="invalid_sandbox_directive"
    )


def on_request(status: int, code: str | None) -> ProviderFailure:
    """The failure that ``X-Sandbox-Fault: status=...`` asks for."""
    if code in _QUOTA_CODES:
        # A provider account without money: retrying does not help, so nothing says when to.
        return ProviderFailure(
            status,
            "You have no credits remaining. (simulated)",
            kind="insufficient_quota",
            code=code,
        )
    default = ("server_error", None) if status >= 500 else ("invalid_request_error", None)
    kind, usual_code = _TYPES.get(status, default)
    return ProviderFailure(
        status,
        f"The sandbox was asked to answer with status {status}.",
        kind=kind,
        code=code or usual_code or _CLIENT_CODES.get(status),
        retry_after_seconds=1 if status in {429, 503} else None,
    )
