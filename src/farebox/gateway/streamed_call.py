"""A call that is answered as a stream: events pass as they come, the end waits for the charge.

The event that carries the last ``finish_reason`` and all after it are held back until the usage is
settled. When the client goes, the upstream is closed and the metered tokens are charged, unless the
answer was finished: then its usage is waited for, for a moment (ENGINE.md, "The end of a call").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import msgspec
from typing_extensions import override

from farebox.gateway import streaming
from farebox.gateway.call import Call
from farebox.gateway.desk import USAGE_AFTER_DISCONNECT_SECONDS, logger
from farebox.gateway.keeping import EVENTS, Keeping
from farebox.gateway.metering import OutputMeter
from farebox.gateway.openai_errors import CLASSIC_CODE, GatewayError
from farebox.gateway.pricing import Priced, tier_of
from farebox.kit.errors import UnavailableError
from farebox.kit.money import format_amount, price_up
from farebox.ledger.commands import Closed, Done, Extend
from farebox.operations.upstream import UpstreamBrokenError, UpstreamResponse
from farebox.rating.usage import UsageInvalidError, normalize_usage

TAIL_BYTES_MAX: Final = 16 * 1024 * 1024
"""What is held back until the charge; an upstream that goes on for longer has lost its way."""


SLICE_HEADROOM_TOKENS: Final = 256
"""Output tokens that a sliced stream keeps held ahead of what is metered."""

ABORT_SECONDS_MAX: Final = 5.0
"""How long a stream may take to end by itself once its upstream is closed."""


class StreamedCall(Call):
    """A call with a stream for an answer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._meter = OutputMeter(self.desk.count_tokens)
        self._splitter = streaming.EventSplitter()
        self._first: bytes | None = None
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._usage_event: bytes | None = None
        self._holding_back = False
        self._finished = 0
        self._usage: object = None
        self._usage_is_old = False
        self._tier: str | None = None
        self._failed = False
        self._gone = False
        self._cut = False
        self._slices = 0
        self._over = asyncio.Event()

    def stream(self, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        """The answer's bytes; must be read to its end, or until it has been told to abandon."""
        self.response = response
        self.is_streaming = True
        events = self._run(response)
        return events if self.keeping is None else _kept(events, self.keeping)

    def abandon(self) -> None:
        """The client is gone: close the upstream, or wait a moment for a finished answer's usage.

        The stream then ends by itself and charges what was used.
        """
        if self._gone or not self.is_held:
            return
        self._gone = True
        self.desk.spawn(self._close_upstream())

    async def forsaken(self) -> None:
        """The client went before the answer began: charge what the provider has read by then."""
        if self.is_held:
            self._gone = True
            await self._charge("client_disconnected", http_status=499)

    @property
    @override
    def first_slice(self) -> int:
        """Output tokens that admission holds of a sliced stream; zero where all is held at once."""
        if not self.caller.slices or self.body.facts.choices != 1:
            return 0
        return min(SLICE_HEADROOM_TOKENS, self.ceiling.output_max)

    async def _keep_ahead(self) -> bool:
        """Keep a headroom of output held ahead of what is metered; False where no more fits."""
        metered, most = self._meter.tokens(), self.ceiling.output_max
        held = self.output_limit
        if held >= most or held - metered >= SLICE_HEADROOM_TOKENS:
            return True
        wanted = min(most, max(held, metered) + SLICE_HEADROOM_TOKENS)
        command = Extend(
            organization_id=self.caller.organization_id,
            call_id=self.id,
            node_id=self.desk.node.id,
            epoch=self.epoch,
            amount=price_up(wanted - held, self.ceiling.output_price),
            step=self._slices + 1,
            tokens=wanted - held,
        )
        try:
            result = await self.desk.bookkeeper.submit(command)
        except UnavailableError:
            result = None
        if isinstance(result, Done):
            self._slices += 1
            self.output_limit = wanted
            return True
        logger.warning("slice_refused", request_id=self.request_id, metered_tokens=metered)
        self._cut = self._failed = True
        return False

    @override
    async def abort(self) -> None:
        """Close the upstream; where the client reads no more, charge without it."""
        await super().abort()
        if self.response is None:
            return  # the handler that waited for its head ends the call
        with suppress(TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS_MAX):
                await self._over.wait()
        if self.is_held and self.response is not None:
            await self._charge("aborted", http_status=503)

    async def _run(self, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        try:
            try:
                async for chunk in response.chunks():
                    ready = self._take(chunk)
                    if self.first_slice and not await self._keep_ahead():
                        break
                    if ready:
                        yield ready
                if not self._cut:
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
            self._over.set()
            await response.close()

    async def _close_upstream(self) -> None:
        if self._is_finished and self._usage is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(USAGE_AFTER_DISCONNECT_SECONDS):
                    await self._over.wait()
        if self.response is not None:
            await self.response.close()

    @override
    def output_so_far(self) -> int | None:
        """Output tokens of the events so far."""
        return self._meter.tokens()

    @property
    def _is_finished(self) -> bool:
        return self._finished >= self.body.answers

    def _take(self, chunk: bytes) -> bytes:
        """Read a piece of the stream; gives what may be passed on at once."""
        ready: list[bytes] = []
        for event in self._splitter.feed(chunk):
            self._look_at(event)
            if self._holding_back:
                self._keep(event)
            elif event is not self._usage_event:
                ready.append(event)
        return ready[0] if len(ready) == 1 else b"".join(ready)

    def _keep(self, event: bytes) -> None:
        self._tail_bytes += len(event)
        if self._tail_bytes > TAIL_BYTES_MAX:
            raise streaming.EventTooLargeError
        self._tail.append(event)

    def _take_last(self) -> None:
        """Read what stands behind the last blank line; a stream without an end has broken off."""
        event = self._splitter.flush().rstrip(b"\r\n") + b"\n\n"
        if streaming.read_chunk(event) is not None or streaming.is_done(event):
            self._look_at(event)
            self._keep(event)
        if not self._holding_back and self._usage is None:
            self._failed = not self._gone

    def _look_at(self, event: bytes) -> None:
        if self._first is None:
            self._first = event
        self._meter.add(event)
        if self._usage is None and not self._finished and streaming.is_plain(event):
            return  # nearly every event
        self._finished += streaming.finishes(event)
        if streaming.carries_usage(event):
            self._note_usage(event)
            self._holding_back = self._holding_back or self._is_finished
        elif streaming.carries_error(event):
            self._failed = self._holding_back = True
        elif streaming.is_done(event) or self._is_finished:
            self._holding_back = True
        elif self._usage is not None and streaming.text_of(event):
            self._usage_is_old = True  # it was told before the answer's end

    def _note_usage(self, event: bytes) -> None:
        chunk = streaming.read_chunk(event)
        if chunk is not None and chunk.usage is not None:
            self._usage, self._usage_is_old = chunk.usage, False
            self._tier = tier_of(chunk.service_tier) or self._tier
            if not chunk.choices:
                self._usage_event = event  # it leaves with the end, wherever it came

    # The end.

    async def _end(self) -> list[bytes]:
        """Charge the call; gives the last events."""
        reason, status = "", 200
        if self._failed:
            reason, status = "upstream_broken", 502
        if self._cut:
            reason, status = "slice_refused", 429
        if self._gone:
            reason, status = "client_disconnected", 499
        if self._failed and self._usage is None and not self._meter.tokens():
            # It failed before it produced anything billable (DED-14).
            self.release(reason, http_status=status)
            return [*self._tail, *self._failure("nothing was charged for it")]
        try:
            closed = await self._charge(reason, http_status=status)
        except GatewayError as error:
            return [_error_event(error)]
        return [
            *self._last_events(closed),
            *self._failure("what it had produced was charged"),
        ]

    def _failure(self, charged: str) -> list[bytes]:
        """The event that tells of a break, unless the provider's own does."""
        if not self._failed or any(map(streaming.carries_error, self._tail)):
            return []
        if self._cut:
            spent = GatewayError(
                429,
                f"The answer was cut off: the money for more of it is not there; {charged}.",
                kind="insufficient_quota",
                code=CLASSIC_CODE if self.desk.classic_codes else "credit_balance_exhausted",
            )
            return [_error_event(spent)]
        failure = GatewayError(
            502,
            f"The model provider broke off its answer; {charged}.",
            kind="server_error",
            code="upstream_error",
        )
        return [_error_event(failure)]

    def _last_events(self, closed: Closed) -> list[bytes]:
        """The held-back events: usage with its cost for who asked, without it for who did not."""
        events: list[bytes] = []
        tail = list(self._tail)
        if self._usage_event is not None and not any(e is self._usage_event for e in tail):
            ends = (place for place, event in enumerate(tail) if streaming.is_done(event))
            tail.insert(next(ends, len(tail)), self._usage_event)
        for event in tail:
            chunk = streaming.read_chunk(event) if streaming.carries_usage(event) else None
            if chunk is None or not isinstance(chunk.usage, dict):
                events.append(event)
            elif self.body.include_usage:
                events.append(streaming.with_cost(event, format_amount(closed.charge)))
            elif chunk.choices:
                events.append(event)
        return [b"".join(events)] if events else []

    async def _charge(self, reason: str, *, http_status: int = 200) -> Closed:
        """Settle by the provider's usage, or by our own count where there is none."""
        priced: Priced | None = None
        tier = self._reported_tier()
        if self._usage_is_old:
            reason = reason or "usage_incomplete"
        elif self._usage is not None:
            try:
                priced = self.price(normalize_usage(self._usage, flavor="chat"), tier)
            except UsageInvalidError as error:
                reason = f"usage_invalid: {error.message}"[:200]
        else:
            reason = reason or "usage_missing"
        estimated = priced is None
        if priced is None:
            priced = self.price(await self.estimate(self._meter.tokens()), tier)
        return await self.settle(
            priced, estimated=estimated, reason=reason, http_status=http_status
        )

    def _reported_tier(self) -> str | None:
        """The tier of the usage chunk, else of the end, else of the beginning."""
        if self._tier is None:
            for event in (*reversed(self._tail), self._first or b""):
                chunk = streaming.read_chunk(event) if b'"service_tier"' in event else None
                if chunk is not None and chunk.service_tier is not None:
                    return tier_of(chunk.service_tier)
        return self._tier


async def _kept(
    events: AsyncGenerator[bytes, None], keeping: Keeping
) -> AsyncGenerator[bytes, None]:
    """The same bytes, kept as they leave."""
    try:
        async for piece in events:
            keeping.add(piece)
            yield piece
    finally:
        keeping.hand_over(EVENTS)
        await events.aclose()


def _error_event(error: GatewayError) -> bytes:
    return b"data: " + msgspec.json.encode({"error": error.document()}) + b"\n\n"
