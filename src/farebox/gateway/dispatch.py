"""Sending a held call upstream, and what an upstream's refusal means to the client and the money.

A refusal bills nothing, so the hold goes back. What is wrong with the request is passed on as the
provider said it; what is wrong between us and the provider (our key, our quota) is ours, and never
looks like the tenant's own (ERR-08).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from farebox.gateway.call import Call
from farebox.gateway.desk import logger
from farebox.gateway.http import Answer, Headers
from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.upstream_errors import (
    REASONS,
    UPSTREAM_QUOTA_EXHAUSTED,
    broken,
    translated,
    without_identity,
)
from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamResponse,
    UpstreamTimeoutError,
)

ERROR_BYTES_MAX: Final = 1024 * 1024

_FORWARDED: Final = ("content-type", "openai-processing-ms", "openai-version")
_SENT: Final = ("accept-language", "openai-beta", "x-client-request-id")
_PLAIN: Final = re.compile(r"[ -~]{0,512}")


def sent_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The client's headers that go upstream: a short list, none of ours, no tenant's identity.

    One that is no plain ASCII stays behind: it must not make the provider seem out of reach.
    """
    return tuple(
        (name, headers[name])
        for name in _SENT
        if name in headers and _PLAIN.fullmatch(headers[name])
    )


def directives(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Sandbox directives; the simulated provider alone reads them."""
    return tuple((k, v) for k, v in headers.items() if k.startswith("x-sandbox-"))


def answer_headers(call: Call, response: UpstreamResponse) -> Headers:
    """Headers of an answer that comes from upstream."""
    kept = dict(response.headers)
    headers = [(name, kept[name]) for name in _FORWARDED if name in kept]
    return [*headers, ("x-request-id", call.request_id), *call.rates]


async def dispatch(call: Call, headers: Mapping[str, str]) -> UpstreamResponse | Answer:
    """Send a held call; gives the upstream's good answer, or the client's answer if it is not good.

    Raises:
        GatewayError: The upstream could not be reached, broke off, or refused our key or account;
            the hold has gone back.
    """
    request = call.upstream_request(sent_headers(headers), directives(headers))
    call.sending = asyncio.ensure_future(call.offer.upstream.send(request))
    try:
        response = await call.sending
    except asyncio.CancelledError:
        await _let_go(call.sending)
        if not call.aborted:
            raise
        call.release("aborted", http_status=503)
        raise broken(503, "was let go: the call's time was up or its node lost its holds") from None
    except UpstreamNotReachedError as error:
        call.release("upstream_not_reached", http_status=502)
        raise _unreachable(call, str(error)) from error
    except UpstreamTimeoutError as error:
        call.release("upstream_timeout", http_status=504)
        raise broken(504, "did not answer in time") from error
    except UpstreamBrokenError as error:
        call.release("upstream_broken", http_status=502)
        raise broken(502, "broke off") from error
    call.response = response
    if call.aborted:
        await response.close()
    if 200 <= response.status < 300:
        return response
    return await _refused_upstream(call, response)


async def _let_go(sending: asyncio.Future[UpstreamResponse]) -> None:
    """Close an answer whose head came in the very turn in which nobody waited for it any more."""
    if sending.done() and not sending.cancelled() and sending.exception() is None:
        await sending.result().close()


async def _refused_upstream(call: Call, response: UpstreamResponse) -> Answer:
    """Give the hold back and pass on, or translate, the provider's error.

    Raises:
        GatewayError: It is our trouble with the provider.
    """
    reason = f"upstream_status_{response.status}"
    try:
        body = await response.read(ERROR_BYTES_MAX)
    except UpstreamBrokenError:
        body = b""
    except BaseException:
        # The client goes while the reason is read: nothing was answered, nothing is billed.
        call.release(reason, http_status=response.status)
        raise
    if call.keeping is not None:
        call.keeping.add(without_identity(body))
    error = translated(response.status, body, provider=call.offer.provider.name)
    if error is not None:
        reason = REASONS.get(error.code or "", reason)
        if error.code == UPSTREAM_QUOTA_EXHAUSTED:
            _note_exhausted(call, response.status)
    call.release(reason, http_status=response.status)
    if error is not None:
        raise error
    headers = answer_headers(call, response)
    retry_after = dict(response.headers).get("retry-after")
    if retry_after is not None:
        headers.append(("retry-after", retry_after))
    return Answer(response.status, headers, without_identity(body))


def _note_exhausted(call: Call, status: int) -> None:
    """Let the operators hear of it, however the call goes on."""
    note, provider = call.desk.note_exhausted, call.offer.provider
    if note is not None:
        note(provider.account_id, provider=provider.name, status=status, call_id=call.id)


def _unreachable(call: Call, detail: str) -> GatewayError:
    logger.warning("upstream_not_reached", provider=call.offer.provider.name, detail=detail)
    return GatewayError(
        502,
        "The model provider cannot be reached; nothing was charged. Please try again.",
        kind="server_error",
        code="upstream_not_reached",
    )
