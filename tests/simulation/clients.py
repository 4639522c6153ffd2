"""Everybody outside: callers with their retries and their patience, operators with their orders."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import structs

from farebox.kit.errors import UnavailableError
from farebox.kit.money import Nanos, price_up
from farebox.ledger.commands import (
    AnyCommand,
    Attribution,
    Correct,
    Dispute,
    DisputeStep,
    Forget,
    GrantCredit,
    Granted,
    Refund,
    Result,
    SetFloor,
    SetLimit,
    SetZone,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.lane import QuarantinedError
from tests.simulation.calls import CallAnswer, End, Script, SimulatedCall
from tests.simulation.gateways import Gateway, GoneError
from tests.simulation.prices import OUTPUT_PRICES

if TYPE_CHECKING:
    from tests.simulation.world import World

CLIENT_SECONDS_MAX: Final = 300.0
"""After this a client closes the connection."""

RETRIED: Final = frozenset({"balance_held", "rate_limit_exceeded", "stale_epoch"})
"""Refusals that a client answers by trying again."""

MEASURES: Final = (Measure.MONEY, Measure.TOKENS, Measure.CALLS, Measure.PARALLEL)
EFFECTS: Final = (Effect.HARD, Effect.ALERT, Effect.SHADOW)

CALL_TRIES_MAX: Final = 4
ORDER_TRIES_MAX: Final = 40


@dataclass
class Tenant:
    """An organisation, as the people of it know it."""

    organization_id: UUID
    projects: dict[UUID, list[UUID]]
    """Each with its keys, the newest last."""
    calls_left: int
    ceiling: int
    """A usual one, in nanos."""
    grants: list[tuple[UUID, int]] = field(default_factory=list)
    disputed: list[UUID] = field(default_factory=list)


class People:
    """The outside of one organisation."""

    def __init__(self, world: World, tenant: Tenant, number: int) -> None:
        self.world = world
        self.tenant = tenant
        self.chance = random.Random(f"{world.plan.seed} people {number}")

    # Callers.

    async def caller(self) -> None:
        """Call again and again until the tenant's calls are used up."""
        plan = self.world.plan
        while self.tenant.calls_left > 0:
            self.tenant.calls_left -= 1
            mean = plan.seconds * plan.callers * plan.organizations / plan.calls
            await asyncio.sleep(0.01 if plan.storm else self.chance.expovariate(1 / mean))
            script = self._script()
            for _ in range(CALL_TRIES_MAX):
                again = await self._call(script)
                if not again:
                    break
                await asyncio.sleep(self.chance.uniform(0.01, 3.0))

    async def _call(self, script: Script) -> bool:
        """Make a call; True where it is worth another try."""
        gateway = self.world.pick_gateway(self.chance)
        if gateway is None:
            return True
        call = SimulatedCall(gateway, script)
        self.world.maybe_poison(call.id)
        task, reply = gateway.serve(call.handle)
        leaves = self.chance.random() < self.world.plan.disconnect_chance
        if self.chance.random() < self.world.plan.disconnect_chance:
            self.world.leavers[call.id] = task.cancel
        mean = 1 / max(0.001, script.seconds)
        patience = self.chance.expovariate(mean) if leaves else CLIENT_SECONDS_MAX
        await asyncio.wait({reply}, timeout=patience)
        if not reply.done():
            self.world.trace.note("disconnect", "client", call.id.hex[-6:])
            if call.is_admitting or self.chance.random() < 0.1:
                task.cancel()
            else:
                call.client_gone()
            return False
        try:
            answer: CallAnswer = reply.result()
        except (GoneError, QuarantinedError) as error:
            self.world.trace.note("client gone", "client", call.id.hex[-6:], type(error).__name__)
            return isinstance(error, GoneError)
        self.world.books.told(answer)
        self.world.trace.count(f"client told {answer.said} {answer.code}".rstrip())
        return answer.said == "away" or answer.code in RETRIED

    def _script(self) -> Script:
        chance, plan, tenant = self.chance, self.world.plan, self.tenant
        ceiling = max(2, int(tenant.ceiling * chance.uniform(0.4, 1.6)))
        price = chance.choice(OUTPUT_PRICES)
        output_part = ceiling // 2 if price else 0
        project_id, keys = chance.choice(list(tenant.projects.items()))
        tokens = output_part * 1_000_000 // price if price else 7
        streamed = chance.random() < 0.4
        slice_tokens = max(1, tokens // 4) if streamed and price and chance.random() < 0.3 else 0
        open_ended = chance.random() < 0.2 and not slice_tokens and tokens >= 8
        overrun = chance.random() < plan.overrun_share
        exact = chance.random() < plan.exact_share
        share = chance.uniform(1.05, 2.0) if overrun else 1.0 if exact else chance.random()
        end = chance.choices(list(End), (85, 6, 6, 3))[0]
        fallback = not streamed and chance.random() < 0.05
        return Script(
            organization_id=tenant.organization_id,
            project_id=project_id,
            key_id=keys[-1 if chance.random() < 0.95 else -2 :][0],
            fixed=ceiling - price_up(tokens, price),
            output_price=price,
            output_min=max(1, tokens // 8) if open_ended else tokens,
            output_max=tokens,
            streamed=streamed,
            slice_tokens=slice_tokens,
            fallback=max(1, ceiling // 3) if fallback else 0,
            end=end,
            seconds=chance.expovariate(1 / plan.upstream_seconds),
            pieces=chance.randint(1, 12),
            input_share=share,
            output_share=share,
            stubborn=end is not End.HANGS and chance.random() < 0.05,
            dimensions=(chance.choice(("", "search")), chance.choice(("gpt-5.4", "gpt-5.4-mini"))),
            attribution=Attribution(
                user=chance.choice(("", "u1", "u2")),
                run=chance.choice(("", "", "r1", "r1/s1", "r1/s1/t1")),
                tags={"team": "blue"},
            ),
        )

    # Operators.

    async def operators(self) -> None:
        """Order something now and then."""
        plan = self.world.plan
        times = sorted(self.chance.uniform(0, plan.seconds) for _ in range(plan.operators))
        orders = []
        for at in times:
            await asyncio.sleep(max(0.0, at - self.world.loop.time()))
            orders.append(self.world.begin(self.order(self._wish())))
        await asyncio.gather(*orders)

    async def order(self, command: AnyCommand) -> Result | None:
        """Have a command carried out, through one gateway after another until one answers."""
        for _ in range(ORDER_TRIES_MAX):
            gateway = self.world.pick_gateway(self.chance)
            if gateway is None:
                await asyncio.sleep(1.0)
                continue
            _, reply = gateway.serve(_submitting(gateway, command))
            await asyncio.wait({reply}, timeout=self.chance.uniform(0.5, 30.0))
            if not reply.done():
                self.world.trace.count("order sent again")
                continue
            try:
                result: Result = reply.result()
            except (GoneError, UnavailableError):
                await asyncio.sleep(self.chance.uniform(0.1, 2.0))
                continue
            except QuarantinedError:
                return None
            if isinstance(result, Granted) and isinstance(command, GrantCredit):
                self.tenant.grants.append((command.grant_id, command.amount))
            return result
        return None

    def _wish(self) -> AnyCommand:
        makers: tuple[tuple[int, Callable[[], AnyCommand]], ...] = (
            (8, self.grant),
            (2, self._refund),
            (3, self._dispute),
            (4 if self.world.plan.hostile else 1, self._correct),
            (4 * self.world.plan.limited, self._limit),
            (2, self._floor),
            (1 * self.world.plan.limited, self._zone),
            (2 * self.world.plan.limited, self._forget),
        )
        weights = [weight for weight, _ in makers]
        return self.chance.choices([maker for _, maker in makers], weights)[0]()

    def grant(self, amount: int | None = None) -> GrantCredit:
        """Some credit: for good, for a while, or for later."""
        chance, now = self.chance, self.world.database.now()
        hostile = self.world.plan.hostile
        lasting = amount is not None and chance.random() < (0.2 if hostile else 0.7)
        starts = None
        if amount is None and chance.random() < 0.2:
            starts = now + timedelta(seconds=chance.uniform(-5, 30))
        ends = (starts or now) + timedelta(seconds=chance.uniform(5, 1.2 * self.world.plan.seconds))
        return GrantCredit(
            organization_id=self.tenant.organization_id,
            grant_id=self.world.new_id(),
            source=self._source(is_first=amount is not None),
            amount=Nanos(amount or max(1, int(self.world.plan.credit * chance.random() * 0.4))),
            effective_at=starts,
            expires_at=None if lasting else ends,
            reference="order 1",
        )

    def _source(self, *, is_first: bool) -> Source:
        if is_first:
            return Source.PURCHASED
        if self.world.plan.hostile and self.chance.random() < 0.5:
            return Source.FREE  # it repays no debt, and burns before what was purchased
        return self.chance.choice(list(Source))

    def _known_grant(self) -> tuple[UUID, int]:
        grants = self.tenant.grants[0 if self.world.plan.hostile else 1 :]
        return self.chance.choice(grants) if grants else (self.world.new_id(), 10)

    def _refund(self) -> Refund:
        grant_id, amount = self._known_grant()
        return Refund(
            organization_id=self.tenant.organization_id,
            command_id=self.world.new_id(),
            grant_id=grant_id,
            amount=Nanos(max(1, int(amount * self.chance.random() * 0.5))),
            note="by the seed",
        )

    def _dispute(self) -> Dispute:
        """A payment is disputed, or a dispute comes to its end."""
        disputed = self.tenant.disputed
        if disputed and self.chance.random() < 0.7:
            grant_id, step = disputed.pop(), self.chance.choice((DisputeStep.WON, DisputeStep.LOST))
        else:
            grant_id, step = self._known_grant()[0], DisputeStep.OPENED
            disputed.append(grant_id)
        return Dispute(organization_id=self.tenant.organization_id, grant_id=grant_id, step=step)

    def _correct(self) -> Correct:
        most = self.world.plan.credit * 0.2
        return Correct(
            organization_id=self.tenant.organization_id,
            command_id=self.world.new_id(),
            amount=Nanos(max(1, int(most * self.chance.random()))),
            note="by the seed",
        )

    def _limit(self) -> SetLimit:
        """A limit set, lowered, raised or taken away, on whatever calls are counted under."""
        chance, tenant = self.chance, self.tenant
        org = self.world.database.ledger.organizations[tenant.organization_id]
        project_id, keys = chance.choice(list(tenant.projects.items()))
        scope_kind, scope_ref = chance.choice(
            (
                *((ScopeKind.ORGANIZATION, ""),) * 4,
                (ScopeKind.PROJECT, project_id.hex),
                (ScopeKind.KEY, keys[-1].hex),
                (ScopeKind.KEY, ""),
                (ScopeKind.USER, "u1"),
                (ScopeKind.USER, ""),
                (ScopeKind.FEATURE, "search"),
                (ScopeKind.TAG, "team=blue"),
            )
        )
        measure = chance.choices(MEASURES, (6, 2, 1, 1))[0]
        near = org.spent + org.reserved + org.unsecured_held
        maximum = int(near * chance.choice((0.7, 1.0, 1.3, 3.0)))
        maximum += chance.randrange(2 + 3 * tenant.ceiling)
        if measure in {Measure.CALLS, Measure.PARALLEL}:
            maximum = chance.choice((1, 3, 10, 40))
        period = chance.choice(
            (Period.MONTH, Period.MONTH, Period.DAY, Period.MINUTE, Period.TOTAL)
        )
        effect = chance.choices(EFFECTS, (8, 1, 1))[0]
        tiers = scope_kind is ScopeKind.ORGANIZATION and effect is Effect.HARD
        limit = SetLimit(
            organization_id=tenant.organization_id,
            scope_kind=scope_kind,
            scope_ref=scope_ref,
            measure=measure,
            period=Period.TOTAL if measure is Measure.PARALLEL else period,
            effect=effect,
            origin=Origin.TIER if tiers and chance.random() < 0.2 else Origin.MANUAL,
            models=chance.choice(("", "", "", "gpt-5.4-mini", "gpt-5*")),
            maximum=None if chance.random() < 0.2 else maximum,
            raised_to=2 * maximum if chance.random() < 0.1 else None,
            thresholds=(50, 100),
        )
        limit = self._unmodelled(limit) if self.world.plan.beyond_the_model else limit
        per_minute = (limit.measure, limit.period) == (Measure.CALLS, Period.MINUTE)
        return structs.replace(limit, count_failed=not per_minute or maximum % 2 == 0)

    def _unmodelled(self, limit: SetLimit) -> SetLimit:
        """Sometimes a limit of a kind that the second implementation does not know."""
        chance = self.chance
        match chance.randrange(4):
            case 0:
                if limit.period is Period.TOTAL and limit.measure is not Measure.PARALLEL:
                    return limit
                return structs.replace(limit, effect=Effect.THROTTLE, origin=Origin.MANUAL)
            case 1:
                return structs.replace(
                    limit,
                    scope_kind=ScopeKind.PROJECT,
                    scope_ref=chance.choice(list(self.tenant.projects)).hex,
                    measure=Measure.MONEY,
                    period=chance.choice((Period.MONTH, Period.DAY)),
                    effect=Effect.ALLOCATION,
                    origin=Origin.MANUAL,
                    models="",
                    maximum=chance.choice((None, int(self.world.plan.credit * chance.random()))),
                )
            case 2:
                return structs.replace(
                    limit,
                    scope_kind=ScopeKind.RUN,
                    scope_ref=chance.choice(("r1", "r1/s1")),
                    origin=Origin.MANUAL,
                    measure=chance.choice((Measure.SECONDS, Measure.DEPTH, Measure.MONEY)),
                    period=Period.TOTAL,
                    maximum=chance.choice((None, 0, 1, 20)),
                )
            case _:
                return limit

    def _zone(self) -> SetZone:
        """Another zone: its days and months begin hours earlier or later, one in half an hour."""
        zone = self.chance.choice(("UTC", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati"))
        return SetZone(organization_id=self.tenant.organization_id, zone=zone)

    def _forget(self) -> Forget:
        """As the worker asks, of whatever scopes there are."""
        mine = self.tenant.organization_id
        numbers = [of for org, of in self.world.database.ledger.limits if org == mine]
        return Forget(organization_id=mine, numbers=tuple(sorted(numbers)) or (0,))

    def _floor(self) -> SetFloor:
        share = self.chance.choice((0.0, 0.0, 0.05, 0.3))
        return SetFloor(
            organization_id=self.tenant.organization_id,
            floor=Nanos(int(self.world.plan.credit * share)),
        )


def _submitting(gateway: Gateway, command: AnyCommand) -> Callable[[], Awaitable[Result]]:
    return lambda: gateway.submit(command)
