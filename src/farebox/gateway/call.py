"""One call's life: admitted, forwarded, metered, settled.

Whatever happens to the handler after the hold is committed - an error, a cancelled task, a client
that is gone - the hold is settled or released by work that nothing cancels; and if this process
dies, the sweep ends it. A call is charged before the last byte of its answer leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import Enum
from typing import Final
from uuid import UUID

from msgspec import structs

from farebox.gateway.attribution import Labels
from farebox.gateway.bodies import LIMIT_FIELDS, CallBody
from farebox.gateway.bounding import count_prompt, may_count
from farebox.gateway.desk import (
    PATIENCE_SECONDS,
    SETTLE_SECONDS_MAX,
    Desk,
    NoteRequest,
    logger,
    patiently,
)
from farebox.gateway.http import Headers
from farebox.gateway.keeping import JSON, Keeping
from farebox.gateway.metering import estimated_usage, prompt_tokens
from farebox.gateway.openai_errors import (
    away,
    charge_pending,
    invalid_request,
    model_not_allowed,
    refused,
)
from farebox.gateway.pricing import Priced, price
from farebox.gateway.project_rules import capped, may_call, output_default, output_maximum
from farebox.gateway.rate_headers import rate_headers
from farebox.gateway.sales import Offer
from farebox.kit.errors import FareboxError, InvalidInputError, RefusedError, UnavailableError
from farebox.kit.ids import format_id
from farebox.kit.money import AMOUNT_NANOS_MAX, format_amount
from farebox.ledger.commands import Admit, Admitted, Closed, Refused, Release, Report, Settle
from farebox.ledger.holds import CallState, Dimensions
from farebox.operations.directory import Caller
from farebox.operations.refusals import Refusal
from farebox.operations.upstream import UpstreamRequest, UpstreamResponse
from farebox.rating.ceiling import Ceiling, ceiling
from farebox.rating.units import UnpricedError
from farebox.rating.usage import Usage, UsageInvalidError

ADMIT_TRIES_MAX: Final = 4
"""Tries of one admission: after a change of prices, and after counting its tokens."""

LATEST_END_AFTER: Final = timedelta(hours=2)
CALL_SECONDS_MAX: Final = (LATEST_END_AFTER - timedelta(minutes=1)).total_seconds()
"""A call is ended and charged before its hold can lapse."""

WINDOWS_MAX: Final = 2
"""A usage of more tokens than so many context windows is a fault: published windows are round."""


class _Money(Enum):
    NONE = "none"
    HELD = "held"
    CLOSING = "closing"


class Call:
    """One request that costs money."""

    def __init__(
        self, desk: Desk, caller: Caller, endpoint: str, body: CallBody, labels: Labels
    ) -> None:
        self.desk = desk
        self.caller = caller
        self.endpoint = endpoint
        self.body = body
        self.labels = labels
        self.id: UUID = desk.new_call_id()
        self.request_id = format_id("req", self.id)
        self.offer: Offer = self._offer()
        if not may_call(caller, body.model, self.offer.model):
            raise model_not_allowed(body.model)
        body.facts = capped(body.facts, output_maximum(caller, labels.feature))
        self.ceiling: Ceiling = self._ceiling()
        self.output_limit = 0
        self.look_up: Callable[[], Awaitable[Caller]] | None = None
        """Reads anew who calls: what is kept may be older than a change of plan."""
        self.rates: Headers = []
        """What the call's rate limits leave, as headers of its answer."""
        self.started_at = desk.monotonic()
        self.response: UpstreamResponse | None = None
        self.aborted = False
        self.sending: asyncio.Future[UpstreamResponse] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.epoch = 0
        self._money = _Money.NONE
        self.keeping: Keeping | None = None
        """What is to be stored of the call; None where nothing is."""
        self.is_streaming = False
        """Whether events pass, the last of them after the charge."""
        self._prompt_tokens: int | None = None

    @property
    def first_slice(self) -> int:
        """Output tokens that admission holds of a sliced stream; zero where all is held at once."""
        return 0

    # Admission.

    async def admit(self) -> None:
        """Hold the call's worst case, or refuse it.

        Raises:
            GatewayError: The refusal, in OpenAI's shape.
        """
        desk = self.desk
        if not desk.node.may_admit:
            raise away()
        if self.ceiling.crosses_long_context and may_count(self.body, self.offer.facts):
            await self._count()
        result = await self._admit()
        desk.metrics.admission.observe(desk.monotonic() - self.started_at)
        if isinstance(result, Admitted):
            self.output_limit = result.output_limit
            desk.note_use(self.caller.id, self.caller.project_id, result.admitted_at)
            if desk.note_request is not None:
                # After this turn, while the call is on its way.
                asyncio.get_running_loop().call_soon(self._note, desk.note_request)
            if result.rates:
                self.rates = rate_headers(result.rates, result.admitted_at)
            self._money = _Money.HELD
            if desk.note_content is not None and self.caller.content_days is not None:
                self.keeping = Keeping(desk.note_content, self.caller, self.id, self.body.raw)
            desk.running[self.id] = self
            self._timer = asyncio.get_running_loop().call_later(
                CALL_SECONDS_MAX, lambda: desk.spawn(self.abort())
            )
            desk.metrics.open_calls.inc()
            return
        if result.code == "stale_catalogue":
            raise away()  # it changes faster than we can rate
        desk.metrics.refusals.labels(result.code).inc()
        desk.note_refusal(self._refused(result))
        raise refused(result, help_url=desk.help_url, classic=desk.classic_codes)

    def _note(self, note: NoteRequest) -> None:
        about = self.labels.attribution
        note(
            self.caller.organization_id,
            self.caller.project_id,
            self.caller.id,
            run=about.run,
            user=about.user,
            model=self.body.model,
            body=self.body.raw,
        )

    async def _admit(self) -> Admitted | Refused:
        for tried in range(ADMIT_TRIES_MAX):
            countable = may_count(self.body, self.offer.facts)
            await self._remember_prices()
            result = await self._ask(0.0 if countable else PATIENCE_SECONDS)
            if isinstance(result, Admitted):
                return result
            if result.code == "stale_catalogue" and tried < ADMIT_TRIES_MAX - 1:
                await self._rate_anew()
            elif countable and result.needed:
                await self._count()
            else:
                return result
        raise away()

    async def _remember_prices(self) -> None:
        """Have it written down what this call's prices stand for, before anything is charged."""
        try:
            await self.desk.sales.remember()
        except UnavailableError as error:
            raise away() from error

    async def _ask(self, patience_seconds: float) -> Admitted | Refused:
        bound = self.ceiling
        self.epoch = self.desk.node.epoch
        first = self.offer.versions[0]
        command = Admit(
            organization_id=self.caller.organization_id,
            call_id=self.id,
            node_id=self.desk.node.id,
            epoch=self.epoch,
            catalogue_revision=self.offer.revision,
            fixed=bound.fixed,
            output_price=bound.output_price,
            output_min=self.first_slice or bound.output_min,
            output_max=self.first_slice or bound.output_max,
            latest_end_after=LATEST_END_AFTER,
            dimensions=Dimensions(
                project_id=self.caller.project_id,
                key_id=self.caller.id,
                feature=self.labels.feature,
                environment=self.labels.environment,
                model=first.model,
                lane=first.lane.value,
                endpoint=self.endpoint,
            ),
            price_id=first.id,
            upstream_account_id=self.offer.provider.account_id,
            plan_id=self.caller.plan_id,
            input_tokens=bound.input_tokens,
            streamed=self.body.stream,
            attribution=self.labels.attribution,
        )
        try:
            result = await self.desk.bookkeeper.submit(command, patience_seconds=patience_seconds)
        except UnavailableError as error:
            raise away() from error
        except InvalidInputError as error:
            raise invalid_request(f"This call cannot be held: {error.message}.") from error
        assert isinstance(result, Admitted | Refused), result
        return result

    async def _rate_anew(self) -> None:
        try:
            await self.desk.sales.refresh()
            if self.look_up is not None:
                self.caller = await self.look_up()
        except UnavailableError as error:
            raise away() from error
        self.offer = self._offer()
        self.ceiling = self._ceiling()

    async def _count(self) -> None:
        """Take the exact count in place of the bound in bytes."""
        counted = await count_prompt(self.body, self.desk.count_tokens)
        self.body.facts = structs.replace(self.body.facts, counted_tokens=counted)
        self.ceiling = self._ceiling()

    def _offer(self) -> Offer:
        return self.desk.sales.offer(
            self.body.model,
            service_tier=self.body.service_tier,
            currency=self.caller.currency,
            plan_id=self.caller.plan_id,
        )

    def _ceiling(self) -> Ceiling:
        try:
            return ceiling(
                self.body.facts,
                self.offer.facts,
                self.offer.versions,
                default_output_tokens=output_default(self.caller, self.labels.feature),
            )
        except RefusedError as error:
            raise invalid_request(error.message) from error

    def _refused(self, result: Refused) -> Refusal:
        return Refusal(
            call_id=self.id,
            organization_id=self.caller.organization_id,
            project_id=self.caller.project_id,
            key_id=self.caller.id,
            model=self.body.model,
            endpoint=self.endpoint,
            user=self.labels.attribution.user,
            feature=self.labels.feature,
            refusal=result,
        )

    # The way upstream.

    def upstream_request(
        self, headers: tuple[tuple[str, str], ...], directives: tuple[tuple[str, str], ...]
    ) -> UpstreamRequest:
        """The request as it leaves: usage asked for, the limit and the tier that are held."""
        changes: dict[str, object] = {}
        if self.offer.model != self.body.model:
            changes["model"] = self.offer.model
        if self.body.stream:
            changes["stream_options"] = self.body.forced_stream_options()
        facts, bound_max = self.body.facts, self.ceiling.output_max
        if not facts.embeddings:
            # The limit that is held goes up in the one field that this provider knows.
            known, other = LIMIT_FIELDS
            if self.offer.provider.price_list not in ("openai", "azure"):
                known, other = other, known
            granted = bound_max if self.first_slice else self.output_limit
            limit = facts.output_limit or granted // facts.choices
            changes |= {known: limit, other: None}
            if self.body.service_tier is None and self.offer.names_tier:
                changes["service_tier"] = "default"
        return UpstreamRequest(
            endpoint=f"/{self.endpoint}",
            body=self.body.encode(changes),
            headers=headers,
            sandbox_headers=directives,
        )

    # The end.

    def price(self, usage: Usage, service_tier: str | None) -> Priced:
        """What a usage comes to.

        Args:
            usage: What was used.
            service_tier: The tier that the answer reports.

        Raises:
            UsageInvalidError: It has no price, or more than any: no usage that anybody had.
        """
        try:
            priced = price(self.offer, self.desk.sales.catalogue, usage, service_tier)
        except UnpricedError as error:
            raise UsageInvalidError("usage", f"has no price: {error.message}") from error
        if priced.total > AMOUNT_NANOS_MAX:
            raise UsageInvalidError("usage", "comes to more than any balance")
        window = self.offer.facts.context_window
        if window and not self.body.facts.embeddings:
            tokens = usage.input_total + usage.output_total
            if tokens > WINDOWS_MAX * max(window, self.body.facts.choices * window):
                raise UsageInvalidError("usage", f"has {tokens} tokens, more than the model takes")
        return priced

    async def settle(
        self,
        priced: Priced,
        *,
        estimated: bool = False,
        reason: str = "",
        http_status: int = 200,
    ) -> Closed:
        """Charge the call and wait until the charge is durable.

        Args:
            priced: What it used, at the book's price.
            estimated: Whether the usage is our own count.
            reason: Why the end was not an ordinary one.
            http_status: What the client is told; 499 where it is gone.

        Raises:
            GatewayError: 503: the database stayed away; the charge may follow, or the hold lapses.
        """
        began_at = self.desk.monotonic()
        command = Settle(
            organization_id=self.caller.organization_id,
            call_id=self.id,
            metered=priced.total,
            cost=priced.cost,
            lines=priced.lines,
            usage=priced.counts,
            estimated=estimated or priced.estimated,
            reason=reason or priced.reason,
            http_status=http_status,
            latency_ms=self.latency_ms,
            lane=priced.lane,
            price_id=priced.price_id,
        )
        self._money = _Money.CLOSING
        task = self.desk.spawn(self._submit_settle(command))
        try:
            closed = await patiently(task, SETTLE_SECONDS_MAX)
        except (TimeoutError, FareboxError) as error:
            logger.error("settle_failed", request_id=self.request_id, error=repr(error))
            raise charge_pending(self.request_id) from error
        self.desk.metrics.settlement.observe(self.desk.monotonic() - began_at)
        assert isinstance(closed, Closed)
        return closed

    async def _submit_settle(self, command: Settle) -> Closed:
        try:
            result = await self.desk.bookkeeper.submit(command)
        finally:
            self._ended()
        if not isinstance(result, Closed):
            raise UnavailableError(f"The charge was refused: {result}")
        metrics = self.desk.metrics
        (metrics.late if result.state is CallState.LATE else metrics.settled).inc()
        metrics.charged_nanos.inc(result.charge)
        metrics.absorbed_nanos.inc(result.absorbed)
        if result.absorbed:
            metrics.overruns.inc()
            logger.warning(
                "overrun_absorbed",
                request_id=self.request_id,
                absorbed=format_amount(result.absorbed),
            )
        self._note_failure(command.reason)
        if command.estimated:
            metrics.estimated.inc()
            logger.info("charge_estimated", request_id=self.request_id, reason=command.reason)
        return result

    def release(self, reason: str, *, http_status: int = 0) -> None:
        """Give the hold back, in the background: the client need not wait for it."""
        if self._money is not _Money.HELD:
            return
        self._money = _Money.CLOSING
        self.desk.spawn(
            self._submit_release(
                Release(
                    organization_id=self.caller.organization_id,
                    call_id=self.id,
                    reason=reason,
                    http_status=http_status,
                    latency_ms=self.latency_ms,
                )
            )
        )

    async def _submit_release(self, command: Release) -> None:
        try:
            await self.desk.bookkeeper.submit(command)
        finally:
            self._ended()
        self.desk.metrics.released.inc()
        self._note_failure(command.reason)

    def _note_failure(self, reason: str) -> None:
        """A call that failed is a series of its own, in the metrics and in the log (ERR-10)."""
        if self.desk.metrics.failed(reason):
            logger.warning("call_failed", request_id=self.request_id, reason=reason)

    def _ended(self) -> None:
        if self.keeping is not None and not self.is_streaming:
            self.keeping.hand_over(JSON)
        if self.desk.running.pop(self.id, None) is not None:
            self.desk.metrics.open_calls.dec()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def is_held(self) -> bool:
        """Tell whether the hold is still to be ended."""
        return self._money is _Money.HELD

    @property
    def latency_ms(self) -> int:
        """Milliseconds since the request came in."""
        return int((self.desk.monotonic() - self.started_at) * 1000)

    # Estimates and reports.

    async def estimate(self, output_tokens: int) -> Usage:
        """What the call used by our own count."""
        if self._prompt_tokens is None:
            self._prompt_tokens = await prompt_tokens(self.body, self.desk.count_tokens)
        return estimated_usage(self._prompt_tokens, output_tokens)

    def output_so_far(self) -> int | None:
        """Output tokens so far, for a call that can tell; None where nothing can be told."""
        return None

    async def report(self) -> None:
        """Note the use so far with the hold, so that a lapse charges it."""
        output_tokens = self.output_so_far()
        if output_tokens is None or self.response is None or not self.is_held:
            return
        priced = self.price(await self.estimate(output_tokens), None)
        report = Report(
            organization_id=self.caller.organization_id,
            call_id=self.id,
            node_id=self.desk.node.id,
            epoch=self.epoch,
            metered=priced.total,
            cost=priced.cost,
            input_tokens=priced.counts.input_tokens,
            output_tokens=priced.counts.output_tokens,
        )
        try:
            async with asyncio.timeout(1.0):
                await self.desk.bookkeeper.submit(report)
        except (UnavailableError, TimeoutError):
            return  # the next report says more

    async def abort(self) -> None:
        """Close the upstream: the node has lost its holds, or the call its time."""
        self.aborted = True  # an answer that has not begun is closed when it does
        if self.sending is not None:
            self.sending.cancel()
        if self.response is not None:
            await self.response.close()
