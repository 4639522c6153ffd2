"""A call that is answered as a stream: events pass as they come, the end waits for the charge.

The event that carries the last ``finish_reason`` and all after it are held back until the usage is
settled. When the client goes, the upstream is closed and the metered tokens are charged, unless the
answer was finished: then its usage is waited for, for a moment (ENGINE.md, "The end of a call").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from typing_extensions import override

from farebox.gateway import streaming
from farebox.gateway.call import Call
from farebox.gateway.desk import USAGE_AFTER_DISCONNECT_SECONDS, logger
from farebox.gateway.metering import OutputMeter
from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.pricing import tier_of
from farebox.kit.money import format_amount
from farebox.ledger.commands import Closed
from farebox.operations.upstream import UpstreamBrokenError, UpstreamResponse
from farebox.rating.usage import Usage, UsageInvalidError, normalize_usage


class StreamedCall(Call):
    """A call with a stream for an answer."""

    _tail: list[bytes]
    _meter: OutputMeter

    def stream(self, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        """The answer's bytes; must be read to its end, or until it has been told to abandon."""
        self.response = response
        self._meter = OutputMeter(self.desk.count_tokens)
        self._tail = []
        self._splitter = streaming.EventSplitter()
        self._finished = 0
        self._usage: object = None
        self._tier: str | None = None
        self._failed = False
        self._gone = False
        return self._run(response)

    def abandon(self) -> None:
        """The client is gone: close the upstream, or wait a moment for a finished answer's usage.

        The stream then ends by itself and charges what was used.
        """
        if self._gone or not self.is_held:
            return
        self._gone = True
        self.desk.spawn(self._close_upstream())

    async def _run(self, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        try:
            try:
                async for chunk in response.chunks():
                    if ready := self._take(chunk):
                        yield ready
                self._take_last()
            except (UpstreamBrokenError, streaming.EventTooLargeError) as error:
                self._failed = not self._gone
                logger.warning("stream_broken", request_id=self.request_id, error=repr(error))
            for piece in await self._end():
                yield piece
        except BaseException:
            # This task is being ended: the call still gets its charge.
            if self.is_held:
                self.desk.spawn(self._charge("interrupted", http_status=499))
            raise
        finally:
            await response.close()

    async def _close_upstream(self) -> None:
        if self._is_finished and self._usage is None:
            await asyncio.sleep(USAGE_AFTER_DISCONNECT_SECONDS)
        if self.response is not None:
            await self.response.close()

    @override
    def output_so_far(self) -> int | None:
        """Output tokens of the events so far."""
        return self._meter.tokens()

    @property
    def _is_finished(self) -> bool:
        return self._finished >= self.body.facts.choices

    def _take(self, chunk: bytes) -> bytes:
        """Read a piece of the stream; gives what may be passed on at once."""
        ready: list[bytes] = []
        for event in self._splitter.feed(chunk):
            self._look_at(event)
            if self._tail or self._is_finished:
                self._tail.append(event)
            else:
                ready.append(event)
        return ready[0] if len(ready) == 1 else b"".join(ready)

    def _take_last(self) -> None:
        rest = self._splitter.flush()
        if rest.strip():
            event = rest.rstrip(b"\r\n") + b"\n\n"
            self._look_at(event)
            self._tail.append(event)

    def _look_at(self, event: bytes) -> None:
        self._meter.add(event)
        self._finished += streaming.finishes(event)
        if streaming.carries_usage(event):
            chunk = streaming.read_chunk(event)
            if chunk is not None and chunk.usage is not None:
                self._usage = chunk.usage
                self._tier = tier_of(chunk.service_tier) or self._tier
        elif streaming.carries_error(event):
            self._failed = True
            self._tail.append(event)

    # The end.

    async def _end(self) -> list[bytes]:
        """Charge the call; gives the last events."""
        reason = "upstream_broken" if self._failed else ""
        status = 200
        if self._gone:
            reason, status = "client_disconnected", 499
        try:
            closed = await self._charge(reason, http_status=status)
        except GatewayError as error:
            return [_error_event(error)]
        if self._failed and not any(map(streaming.carries_error, self._tail)):
            failure = GatewayError(
                502,
                "The model provider broke off its answer; what it had produced was charged.",
                kind="server_error",
                code="upstream_error",
            )
            return [*self._last_events(closed), _error_event(failure)]
        return self._last_events(closed)

    def _last_events(self, closed: Closed) -> list[bytes]:
        """The held-back events: usage with its cost for who asked, without it for who did not."""
        events: list[bytes] = []
        for event in self._tail:
            chunk = streaming.read_chunk(event) if streaming.carries_usage(event) else None
            if chunk is None or chunk.usage is None:
                events.append(event)
            elif self.body.include_usage:
                events.append(streaming.with_cost(event, format_amount(closed.charge)))
            elif chunk.choices:
                events.append(event)
        return [b"".join(events)] if events else []

    async def _charge(self, reason: str, *, http_status: int = 200) -> Closed:
        """Settle by the provider's usage, or by our own count where there is none."""
        usage, estimated = None, False
        if self._usage is not None:
            try:
                usage = normalize_usage(self._usage, flavor="chat")
            except UsageInvalidError as error:
                reason = f"usage_invalid: {error.message}"[:200]
        if usage is None:
            usage, estimated = self._metered(), True
            reason = reason or "usage_missing"
        return await self.settle(
            usage,
            service_tier=self._tier,
            estimated=estimated,
            reason=reason,
            http_status=http_status,
        )

    def _metered(self) -> Usage:
        return self.estimate(self._meter.tokens())


def _error_event(error: GatewayError) -> bytes:
    return b"data: " + msgspec.json.encode({"error": error.document()}) + b"\n\n"
