"""Requests that the server refuses before any handler sees them, in OpenAI's shape (ERR-01)."""

from __future__ import annotations

from farebox.gateway.openai_errors import GatewayError


def malformed(detail: str) -> GatewayError:
    """Bytes that are no request, or that two servers could read as two different ones."""
    return GatewayError(400, f"This is no valid HTTP request: {detail}.", code="malformed_request")


def head_too_large(bytes_max: int, lines_max: int) -> GatewayError:
    """More head than anybody needs."""
    return GatewayError(
        431,
        f"The request's head is larger than {bytes_max // 1024} KiB or has more than {lines_max} "
        "headers. Send fewer or shorter ones.",
        code="headers_too_large",
    )


def too_slow(part: str) -> GatewayError:
    """A client that began a request and did not go on."""
    return GatewayError(
        408, f"The request's {part} did not arrive in time. Please try again.", code="too_slow"
    )


def too_many_connections() -> GatewayError:
    """Every place is taken."""
    return GatewayError(
        503,
        "The gateway has as many connections as it takes. Please try again.",
        kind="service_unavailable_error",
        code="too_many_connections",
        headers=[("retry-after", "1")],
    )
