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
from farebox.gateway.dispatch import answer_headers, broken, dispatch
from farebox.gateway.http import Answer
from farebox.gateway.metering import answer_text
from farebox.gateway.pricing import tier_of
from farebox.kit.money import format_amount
from farebox.operations.upstream import UpstreamBrokenError, UpstreamResponse
from farebox.rating.usage import Usage, UsageInvalidError, normalize_usage

Flavor = Literal["chat", "embeddings"]


class _Reply(msgspec.Struct, frozen=True):
    """What matters of a whole answer."""

    usage: Any = None
    service_tier: Any = None


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
    except UpstreamBrokenError as error:
        # Nobody said what it used, so nothing is billed for it (field bug 50).
        call.release("upstream_broken", http_status=502)
        raise broken(502, "broke off its answer") from error
    usage, tier, estimated, reason = _usage_of(call, body, flavor)
    closed = await call.settle(
        usage, service_tier=tier, estimated=estimated, reason=reason, http_status=response.status
    )
    charged = [
        ("x-farebox-charge", format_amount(closed.charge)),
        ("x-farebox-balance", format_amount(closed.available)),
    ]
    return Answer(response.status, [*answer_headers(call, response), *charged], body)


def _usage_of(call: Call, body: bytes, flavor: Flavor) -> tuple[Usage, str | None, bool, str]:
    """The answer's usage and tier; our own count where it says none, or nonsense."""
    try:
        reply = _reply.decode(body)
        raw, tier = reply.usage, tier_of(reply.service_tier)
    except (msgspec.DecodeError, RecursionError):
        raw, tier = None, None
    if raw is not None:
        try:
            return normalize_usage(raw, flavor=flavor), tier, False, ""
        except UsageInvalidError as error:
            reason = f"usage_invalid: {error.message}"[:200]
    else:
        reason = "usage_missing"
    return call.estimate(_counted_output(call, body)), tier, True, reason


def _counted_output(call: Call, body: bytes) -> int:
    try:
        text = answer_text(_any.decode(body))
    except (msgspec.DecodeError, RecursionError):
        return 0
    return call.desk.count_tokens(text) if text else 0
