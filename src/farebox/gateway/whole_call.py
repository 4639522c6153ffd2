"""A call that is answered as a whole: settle, then the head (ENGINE.md, "The end of a call").

A client that goes away meanwhile changes nothing: the provider is already at work and will bill the
answer, so it is read to its end and charged once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from farebox.gateway.call import Call
from farebox.gateway.desk import ANSWER_BYTES_MAX
from farebox.gateway.dispatch import answer_headers, dispatch
from farebox.gateway.http import Answer
from farebox.gateway.metering import answer_text
from farebox.gateway.pricing import Priced, tier_of
from farebox.gateway.upstream_errors import answer_too_large, broken
from farebox.kit.money import format_amount
from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamResponse,
    UpstreamTooLargeError,
)
from farebox.rating.usage import UsageInvalidError, normalize_usage

Flavor = Literal["chat", "embeddings"]


class _Reply(msgspec.Struct, frozen=True):
    """What matters of a whole answer."""

    usage: Any = None
    service_tier: Any = None
    error: Any = None


_reply: Final = msgspec.json.Decoder(_Reply)
_any: Final = msgspec.json.Decoder()


async def answer_whole(call: Call, headers: Mapping[str, str], flavor: Flavor) -> Answer:
    """Run an admitted call to its charged answer.

    Raises:
        GatewayError: The upstream failed, or the charge could not be made durable.
    """
    try:
        response = await dispatch(call, headers)
        if isinstance(response, Answer):
            return response
        return await finish_whole(call, response, flavor)
    finally:
        # Whatever ended this early, and nothing was charged: the hold goes back.
        call.release("interrupted")
        if call.response is not None:
            await call.response.close()


async def finish_whole(call: Call, response: UpstreamResponse, flavor: Flavor) -> Answer:
    """Read, charge and pass on a good answer."""
    try:
        body = await response.read(ANSWER_BYTES_MAX)
    except UpstreamTooLargeError as error:
        # The provider bills it whole; we charge what we can count, and pass nothing on.
        priced = call.price(await call.estimate(0), None)
        await call.settle(priced, estimated=True, reason="answer_too_large", http_status=502)
        raise answer_too_large() from error
    except UpstreamBrokenError as error:
        # Nobody said what it used, so nothing is billed for it (field bug 50).
        call.release("upstream_broken", http_status=502)
        raise broken(502, "broke off its answer") from error
    if call.keeping is not None:
        call.keeping.add(body)
    reply = _read(body)
    if reply.error and reply.usage is None:
        # Some providers report a failure with status 200; no tokens are billed for it (DED-14).
        call.release("upstream_error", http_status=502)
        raise broken(502, "answered with an error")
    priced, estimated, reason = await _priced(call, body, reply, flavor)
    closed = await call.settle(
        priced, estimated=estimated, reason=reason, http_status=response.status
    )
    charged = [
        ("x-farebox-charge", format_amount(closed.charge)),
        ("x-farebox-balance", format_amount(closed.available)),
    ]
    return Answer(response.status, [*answer_headers(call, response), *charged], body)


def _read(body: bytes) -> _Reply:
    try:
        return _reply.decode(body)
    except (ValueError, RecursionError):  # no JSON object, or no UTF-8
        return _Reply()


async def _priced(
    call: Call, body: bytes, reply: _Reply, flavor: Flavor
) -> tuple[Priced, bool, str]:
    """The answer's usage at the book's price; our own count where it says none, or nonsense."""
    tier, reason = tier_of(reply.service_tier), "usage_missing"
    if reply.usage is not None:
        try:
            return call.price(normalize_usage(reply.usage, flavor=flavor), tier), False, ""
        except UsageInvalidError as error:
            reason = f"usage_invalid: {error.message}"[:200]
    usage = await call.estimate(_counted_output(call, body))
    return call.price(usage, tier), True, reason


def _counted_output(call: Call, body: bytes) -> int:
    try:
        text = answer_text(_any.decode(body))
    except (ValueError, RecursionError):
        return 0
    return call.desk.count_tokens(text) if text else 0
