"""Refusals and failures in the shape that OpenAI's clients know.

Billing refusals are 429 with type ``insufficient_quota``, a code that names the cause, and
``x-should-retry: false``, so that official clients try once; money that open holds block is a
``rate_limit_error`` with ``retry-after``, because trying again helps. The database away is 503,
never 401 (DESIGN.md, fixed contracts; ERR-01, ERR-03, ERR-04).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from uuid import UUID

from farebox.advice.error_codes import FINDING_PATH, finding_url
from farebox.gateway.http import Answer, Headers, json_answer
from farebox.gateway.rate_headers import rate_headers
from farebox.ledger.commands import Refused
from farebox.ledger.limits import OBSERVED, Effect, Measure, Origin
from farebox.operations.key_status import KEY_MESSAGES, MISSING_KEY

RETRY_AFTER_HELD_SECONDS: Final = 2
RETRY_AFTER_AWAY_SECONDS: Final = 1

BILLING_UNAVAILABLE: Final = "billing_unavailable"
"""The database is away: the answer is 503, whoever asks."""

CLASSIC_CODE: Final = "insufficient_quota"
"""The one code of billing refusals that clients from before the causes had codes look for."""

_NO_RETRY: Final = ("x-should-retry", "false")

_NODE_LOST: Final = frozenset({"stale_epoch", "hold_closed"})
"""This node was given up, maybe while its admission was in doubt: nothing is wrong with the money,
and another try (of a new call) will be taken."""


class GatewayError(Exception):
    """An answer that ends a request early."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or []
        self.call_id: UUID | None = None
        """The call that it refused, where that is recorded."""

    def explain(self, base: str) -> None:
        """Let the message link to the page that explains its code (ERR-03).

        Args:
            base: The console's address; empty where none is known.
        """
        if base.rstrip("/") + FINDING_PATH not in self.message:
            self.message = _linked(self.message, finding_url(self.code or "", base))

    def answer(self, request_id: str) -> Answer:
        """The HTTP answer, with the request id that the doctor takes (ERR-07)."""
        return json_answer(
            self.status,
            {"error": self.document()},
            [("x-request-id", request_id), *self.headers],
        )

    def problem(self, request_id: str) -> Answer:
        """The same as ``application/problem+json``, for our own API."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.message,
            "code": self.code,
        }
        headers = [("x-request-id", request_id), *self.headers]
        return json_answer(self.status, document, headers, content_type="application/problem+json")

    def document(self) -> dict[str, str | None]:
        """The error object: all four keys, always."""
        return {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }


def invalid_request(message: str, *, param: str | None = None, status: int = 400) -> GatewayError:
    """The request itself is wrong."""
    return GatewayError(status, message, param=param)


def too_large(limit_bytes: int) -> GatewayError:
    """The request's body is larger than the limit."""
    return GatewayError(
        413,
        f"The request's body is larger than {limit_bytes // 1024 // 1024} MiB.",
        code="body_too_large",
    )


def internal(error: Exception) -> GatewayError:
    """A fault of ours."""
    return GatewayError(
        500,
        f"Something went wrong here ({type(error).__name__}); nothing more was charged than the "
        "call's record shows.",
        kind="server_error",
        code="internal_error",
    )


def missing_key() -> GatewayError:
    """No key at all."""
    return GatewayError(401, MISSING_KEY)


def wrong_key(reason: str = "key_not_found") -> GatewayError:
    """A key that may not call: the code says so in the provider's own word (ERR-04)."""
    return GatewayError(401, KEY_MESSAGES[reason], code="invalid_api_key")


def unknown_model(model: str) -> GatewayError:
    """A model that nobody here serves or that has no price."""
    return GatewayError(
        404,
        f"The model `{model[:100]}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )


def model_not_allowed(model: str) -> GatewayError:
    """A model that the key's project may not call: no billing matter (ORG-17, ERR-04)."""
    return GatewayError(
        403,
        f"This key's project does not have access to the model `{model[:100]}`. Ask for a model on "
        "its list, or have the list changed: farebox projects update --models.",
        code="model_not_allowed",
        param="model",
    )


def unpriced_lane(message: str, *, named: bool) -> GatewayError:
    """A model that is known but has no price: in the tier that was named, or at all."""
    if named:
        return invalid_request(message, param="service_tier")
    return GatewayError(404, message, code="model_not_found", param="model")


def away() -> GatewayError:
    """The database is away: nothing can be charged, so nothing may run."""
    return GatewayError(
        503,
        "Billing is unavailable for a moment; nothing was charged. Please try again.",
        kind="service_unavailable_error",
        code=BILLING_UNAVAILABLE,
        headers=[("retry-after", str(RETRY_AFTER_AWAY_SECONDS))],
    )


def charge_pending(request_id: str) -> GatewayError:
    """The database went away after the answer was made: its charge may still follow."""
    return GatewayError(
        503,
        "Billing went away before this answer's charge was durable, so the answer was withheld; "
        f"it may still be charged: see /api/v1/calls/{request_id}.",
        kind="service_unavailable_error",
        code=BILLING_UNAVAILABLE,
        headers=[_NO_RETRY],
    )


def refused(refusal: Refused, *, help_url: str = "", classic: bool = False) -> GatewayError:
    """An admission that the engine refused.

    Args:
        refusal: What the engine said, with its figures.
        help_url: Where a person adds credit or raises a limit (ERR-03).
        classic: Give a billing refusal the classic code, whatever its cause; message, link and
            record still name it (ERR-02).
    """
    if refusal.code in KEY_MESSAGES:
        return wrong_key(refusal.code)
    allocated = refusal.limit is not None and refusal.limit.effect == Effect.ALLOCATION
    explained = finding_url("D22" if allocated else refusal.code, help_url)
    if refusal.blocked_by_holds or refusal.retry_after_seconds is not None:
        seconds = refusal.retry_after_seconds or RETRY_AFTER_HELD_SECONDS
        return GatewayError(
            429,
            _linked(refusal.message, explained),
            kind="rate_limit_error",
            code=refusal.code,
            headers=[("retry-after", str(seconds)), *rate_headers(refusal.rates, None)],
        )
    if refusal.code == "organization_suspended":
        return GatewayError(
            429,
            _linked(refusal.message, explained),
            kind="billing_not_active",
            code="billing_not_active",
            headers=[_NO_RETRY],
        )
    if refusal.code in _NODE_LOST:
        return away()
    return GatewayError(
        429,
        _linked(refusal.message + _remedy(refusal), explained or help_url),
        kind="insufficient_quota",
        code=CLASSIC_CODE if classic else refusal.code,
        headers=[_NO_RETRY],
    )


def _remedy(refusal: Refused) -> str:
    """What helps against a limit, as far as it does: a total never resets (ERR-03)."""
    limit = refusal.limit
    if limit is None or limit.effect == Effect.STOP:
        return ""  # the message has said it
    asking = f" Ask {limit.owner}." if limit.owner else ""
    if limit.measure in OBSERVED:
        return asking
    raising = "Raise the limit"
    if limit.origin == Origin.TIER:
        raising, asking = "Ask for a higher usage tier", ""
    if limit.measure == Measure.MONEY and refusal.needed > limit.maximum:
        return f" {raising}, or ask for less output.{asking}"  # no window has room for it
    if limit.resets_at is None:
        return f" {raising}; it never resets.{asking}"
    return f" {raising}, or wait until it resets.{asking}"


def _linked(message: str, url: str) -> str:
    """A refusal with the page that explains it and says what helps (ERR-03)."""
    return f"{message} See {url}" if url else message
