"""A call's life in a gateway, as ``gateway.call`` leads it, with a scripted upstream.

The gateway's HTTP, bodies, prices and token counts are not simulated; the order of what it asks of
the bookkeeper, and what it does when an answer does not come, is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from farebox.kit.errors import FareboxError, UnavailableError
from farebox.kit.money import Nanos, price_half_even, price_up
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Attribution,
    Closed,
    Done,
    Extend,
    LineItem,
    Refused,
    Release,
    Report,
    Settle,
    Usage,
)
from farebox.ledger.holds import CallState, Dimensions
from tests.simulation.prices import INPUT_PRICE

if TYPE_CHECKING:
    from tests.simulation.gateways import Gateway

SETTLE_SECONDS_MAX: Final = 30.0
ADMIT_TRIES_MAX: Final = 4
"""All as the gateway has them."""


class End(Enum):
    """What the upstream does with a call."""

    ANSWERS = "answers"
    REFUSES = "refuses"
    BREAKS = "breaks"
    HANGS = "hangs"


@dataclass(frozen=True)
class Script:
    """One call as its client asks for it, and what its upstream will do."""

    organization_id: UUID
    project_id: UUID
    key_id: UUID
    fixed: int
    output_price: int
    output_min: int
    output_max: int
    streamed: bool
    slice_tokens: int
    """Output tokens that a sliced stream holds ahead; zero: everything is held at once."""
    fallback: int
    """Nanos that a dearer fallback needs beyond the ceiling, once the first upstream refuses."""
    end: End
    seconds: float
    pieces: int
    input_share: float
    output_share: float
    """How much of the ceiling the answer uses: 1 is exactly all of it, more is an overrun."""
    stubborn: bool
    """Nothing ends it before its hold's latest end, as when a process was stopped."""
    dimensions: tuple[str, str] = ("", "gpt-5.4")
    """Feature and model."""
    attribution: Attribution = field(default_factory=Attribution)


@dataclass
class CallAnswer:
    """What the client gets."""

    said: str
    """``whole``, ``refused``, ``away``, ``broken``, ``pending`` or ``failed``."""
    call_id: UUID
    code: str = ""
    charge: int = 0


class _Money(Enum):
    NONE = "none"
    HELD = "held"
    CLOSING = "closing"


class SimulatedCall:
    """One request that costs money."""

    def __init__(self, gateway: Gateway, script: Script) -> None:
        self.gateway = gateway
        self.script = script
        self.id = gateway.world.new_id()
        self.epoch = 0
        self.held = 0
        self.output_limit = 0
        self.is_admitting = True
        self.started_at = gateway.process.monotonic()
        self._aborted = asyncio.Event()
        self._gone = asyncio.Event()
        self._output = 0
        self._slices = 0
        self._money = _Money.NONE
        self._timer: asyncio.TimerHandle | None = None

    # Admission.

    async def handle(self) -> CallAnswer:
        """Serve the request."""
        try:
            result = await self._admit()
        except UnavailableError:
            return self._answer("away")
        finally:
            self.is_admitting = False
        if isinstance(result, Refused):
            return self._answer("refused", code=result.code)
        self._money = _Money.HELD
        self.held, self.output_limit = result.held, result.output_limit
        self.gateway.running[self.id] = self
        if not self.script.stubborn:
            self._timer = self.gateway.world.loop.call_later(
                self.gateway.world.plan.call_seconds_max,
                lambda: self.gateway.spawn(self.abort()),
            )
        if self.script.streamed:
            return await self._stream()
        return await self._whole()

    async def _admit(self) -> Admitted | Refused:
        if not self.gateway.node.may_admit:
            raise UnavailableError
        for _ in range(ADMIT_TRIES_MAX):
            command = self._command()
            self.gateway.world.books.asked(command)
            patience = self.gateway.world.plan.patience_seconds
            result = await self.gateway.submit(command, patience_seconds=patience)
            assert isinstance(result, Admitted | Refused), result
            if isinstance(result, Admitted) or result.code != "stale_catalogue":
                return result
            self.gateway.world.refresh_catalogue(self.gateway)
        raise UnavailableError

    def _command(self) -> Admit:
        script, world = self.script, self.gateway.world
        self.epoch = self.gateway.node.epoch
        slice_tokens = min(script.slice_tokens, script.output_max)
        feature, model = script.dimensions
        return Admit(
            organization_id=script.organization_id,
            call_id=self.id,
            node_id=self.gateway.node.id,
            epoch=self.epoch,
            catalogue_revision=world.known_revision(self.gateway),
            fixed=Nanos(script.fixed),
            output_price=script.output_price,
            output_min=slice_tokens or script.output_min,
            output_max=slice_tokens or script.output_max,
            latest_end_after=timedelta(seconds=world.plan.latest_end_seconds),
            dimensions=Dimensions(
                script.project_id, script.key_id, feature, "production", model, "standard", "chat"
            ),
            price_id=world.price_id,
            upstream_account_id=world.price_id,
            input_tokens=script.fixed,
            streamed=script.streamed,
            attribution=script.attribution,
        )

    # Whole answers.

    async def _whole(self) -> CallAnswer:
        try:
            if not await self._send():
                self.release("upstream_refused")
                return self._answer("broken")
            if self.script.end is End.BREAKS:
                self.release("upstream_broken")
                return self._answer("broken")
            return await self._settle(*self._usage())
        finally:
            self.release("interrupted")

    async def _send(self) -> bool:
        """Wait for the upstream; False where it bills nothing."""
        script = self.script
        seconds = 1e9 if script.end is End.HANGS else script.seconds
        if script.fallback:
            # The first upstream refused; a dearer one is held for before it is asked.
            if await self._aborts_within(script.seconds / 4):
                return False
            command = self._extend(script.fallback, 0)
            try:
                result = await self.gateway.submit(command)
            except UnavailableError:
                return False
            if not isinstance(result, Done):
                return False
            self.held += script.fallback
        if await self._aborts_within(seconds):
            return False
        return script.end is not End.REFUSES

    async def _aborts_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._aborted.wait()
        except TimeoutError:
            return False
        return True

    # Streams.

    async def _stream(self) -> CallAnswer:
        script = self.script
        try:
            if script.end is End.REFUSES:
                self.release("upstream_refused")
                return self._answer("broken")
            wanted = self._scaled(
                script.output_share,
                script.output_max if script.slice_tokens else self.output_limit,
            )
            is_cut = await self._is_cut(wanted)
            is_whole = self._output == wanted and script.end is End.ANSWERS and not is_cut
            if not (self._output or is_whole or self._gone.is_set()):
                self.release("upstream_broken")
                return self._answer("broken")
            reason = "" if is_whole else "slice_refused" if is_cut else "interrupted"
            answer = await self._settle(*self._metered(), estimated=not is_whole, reason=reason)
        except BaseException:
            if self._money is _Money.HELD:
                self.gateway.spawn(
                    self._settle(*self._metered(), estimated=True, reason="interrupted")
                )
            raise
        if answer.said == "whole" and not is_whole:
            answer.said = "broken"
        return answer

    async def _is_cut(self, wanted: int) -> bool:
        """Read the stream to its end; True where the money for more of it is not there."""
        script = self.script
        for piece in range(script.pieces):
            if await self._ends_within(script.seconds / script.pieces):
                break
            self._output = wanted * (piece + 1) // script.pieces
            if script.end is End.BREAKS and piece >= script.pieces // 2:
                break
            if script.slice_tokens and not await self._keep_ahead():
                return True
        return False

    def _metered(self) -> tuple[int, int]:
        return self._input_tokens(), self._output

    async def _ends_within(self, seconds: float) -> bool:
        """Wait for the next piece; True where the upstream is closed before it comes."""
        waits = [asyncio.ensure_future(e.wait()) for e in (self._aborted, self._gone)]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        return bool(done)

    async def _keep_ahead(self) -> bool:
        """Hold a slice more where the metered output comes near what is held."""
        script = self.script
        if self.output_limit >= script.output_max:
            return True
        while self.output_limit - self._output < script.slice_tokens:
            wanted = min(script.output_max, self.output_limit + script.slice_tokens)
            if wanted == self.output_limit:
                return True
            amount = price_up(wanted - self.output_limit, script.output_price)
            if amount:
                try:
                    result = await self.gateway.submit(
                        self._extend(amount, wanted - self.output_limit)
                    )
                except UnavailableError:
                    return False
                if not isinstance(result, Done):
                    return False
                self.held += amount
            self.output_limit = wanted
        return True

    def _extend(self, amount: int, tokens: int) -> Extend:
        self._slices += 1
        return Extend(
            organization_id=self.script.organization_id,
            call_id=self.id,
            node_id=self.gateway.node.id,
            epoch=self.epoch,
            amount=Nanos(amount),
            step=self._slices,
            tokens=tokens,
        )

    # Usage.

    def _scaled(self, share: float, whole: int) -> int:
        return whole if share == 1 else int(whole * share)

    def _input_tokens(self) -> int:
        return self._scaled(self.script.input_share, self.script.fixed)

    def _usage(self) -> tuple[int, int]:
        """Input and output tokens of a whole answer."""
        script = self.script
        tokens = self._scaled(script.output_share, self.output_limit)
        return self._input_tokens() + self._scaled(script.output_share, script.fallback), tokens

    def _lines(self, input_tokens: int, output_tokens: int) -> tuple[LineItem, ...]:
        price = self.script.output_price
        return (
            LineItem("input", input_tokens, INPUT_PRICE, Nanos(input_tokens)),
            LineItem("output", output_tokens, price, price_half_even(output_tokens, price)),
        )

    # The end.

    async def _settle(
        self, input_tokens: int, output_tokens: int, *, estimated: bool = False, reason: str = ""
    ) -> CallAnswer:
        lines = self._lines(input_tokens, output_tokens)
        metered = Nanos(sum(line.amount for line in lines))
        latency = self.gateway.process.monotonic() - self.started_at
        command = Settle(
            organization_id=self.script.organization_id,
            call_id=self.id,
            metered=metered,
            cost=Nanos(metered // 2),
            lines=lines,
            usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
            estimated=estimated,
            reason=reason,
            latency_ms=int(latency * 1000),
        )
        self._money = _Money.CLOSING
        task = self.gateway.spawn(self._submit_settle(command))
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                closed = await asyncio.shield(task)
        except (TimeoutError, FareboxError):
            self.gateway.world.trace.count("charge pending")
            return self._answer("pending")
        return self._answer("whole", charge=closed.charge)

    async def _submit_settle(self, command: Settle) -> Closed:
        try:
            result = await self.gateway.submit(command)
        finally:
            self._ended()
        if not isinstance(result, Closed):
            raise UnavailableError(f"The charge was refused: {result}")
        self.gateway.world.trace.count(
            "late settle" if result.state is CallState.LATE else "settled"
        )
        return result

    def release(self, reason: str) -> None:
        """Give the hold back, in the background."""
        if self._money is _Money.HELD:
            self._money = _Money.CLOSING
            self.gateway.spawn(self._submit_release(reason))

    async def _submit_release(self, reason: str) -> None:
        try:
            await self.gateway.submit(
                Release(organization_id=self.script.organization_id, call_id=self.id, reason=reason)
            )
        finally:
            self._ended()

    def _ended(self) -> None:
        self.gateway.running.pop(self.id, None)
        if self._timer is not None:
            self._timer.cancel()

    async def report(self) -> None:
        """Note a stream's use so far with its hold."""
        if not self.script.streamed or self._money is not _Money.HELD:
            return
        lines = self._lines(self._input_tokens(), self._output)
        metered = Nanos(sum(line.amount for line in lines))
        command = Report(
            organization_id=self.script.organization_id,
            call_id=self.id,
            node_id=self.gateway.node.id,
            epoch=self.epoch,
            metered=metered,
            cost=Nanos(metered // 2),
            input_tokens=self._input_tokens(),
            output_tokens=self._output,
        )
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.gateway.submit(command)

    async def abort(self) -> None:
        """Close the upstream: the node has lost its holds, or the call its time."""
        self.gateway.world.trace.count("call aborted")
        self._aborted.set()

    def client_gone(self) -> None:
        """The client closed the connection; the provider of a whole answer is at work already."""
        self._gone.set()

    def _answer(self, said: str, *, code: str = "", charge: int = 0) -> CallAnswer:
        return CallAnswer(said, self.id, code, charge)
