"""Random traffic of every kind of command through the real store, by a seed.

It makes the books interesting (overruns, late answers, expiry in the middle of calls, disputes,
debt, limits) and says nothing about what is right: that is for the test that looks at the books.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from farebox.kit.ids import uuid7
from farebox.kit.money import Nanos, price_half_even
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    Attribution,
    Correct,
    Dispute,
    DisputeStep,
    ExpireGrants,
    Extend,
    GrantCredit,
    Lapse,
    LineItem,
    Refund,
    Release,
    Report,
    Result,
    SetFloor,
    SetLimit,
    Settle,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.range_checks import check
from farebox.ledger.scopes import ScopeKind
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 3, 1, tzinfo=UTC)
INPUT_PRICE = 2_500_000_000
OUTPUT_PRICE = 15_000_000_000
CENT = 10_000_000
ODD_NAME = 'odd "\\ %s name'


class Tenant:
    """An organisation with a project and a key."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"tenant {number}"
        self.id = new_id(chance)
        self.project_id = new_id(chance)
        self.key_id = new_id(chance)
        self.grants: list[UUID] = []
        self.calls: list[Admit] = []


def new_id(chance: random.Random) -> UUID:
    """An id as the hot path makes them, by chance of the seed."""
    return uuid7(START + timedelta(seconds=chance.randrange(10_000_000)), chance.randbytes(10))


class Traffic:
    """What is known to the outside of the engine, and what it may ask next."""

    def __init__(self, dsn: str, seed: int, *, tenants: int = 2) -> None:
        self.chance = random.Random(seed)
        self.dsn = dsn
        self.tenants = [Tenant(number, self.chance) for number in range(tenants)]
        self.node_id, self.epoch = new_id(self.chance), 1
        self.price_id, self.account_id = new_id(self.chance), new_id(self.chance)
        self.answered: dict[str, int] = {}
        """How often each kind of answer was given."""
        self._store = PostgresBatchStore(Connector(dsn, name="traffic", durable=False))
        self._make_people()

    def sql(self, statement: str, *parameters: Any) -> None:
        """Run a statement behind the engine's back."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, parameters)

    async def run(self, batches: int, *, calm: int = 0) -> None:
        """Send batches of one to six commands; settings, nodes and time change in between.

        Args:
            batches: How many.
            calm: How many follow each of them in which only calls come and go, and nothing changes:
                those are what a lane can decide by what it remembers.
        """
        for _ in range(batches):
            self._change_the_world()
            await self.send([self._any() for _ in range(self.chance.randint(1, 6))])
            for _ in range(calm):
                await self.send([self._usual() for _ in range(self.chance.randint(1, 3))], 0.02)

    async def send(self, commands: list[AnyCommand], resent: float = 0.3) -> list[Result]:
        """Have one batch decided, as the bookkeeper would; some as if they were sent again."""
        for command in commands:
            check(command)
        results = await self._store.run(commands, resent=self.chance.random() < resent)
        for command, result in zip(commands, results, strict=True):
            said = f"{type(command).__name__} {getattr(result, 'code', type(result).__name__)}"
            self.answered[said] = self.answered.get(said, 0) + 1
            if isinstance(command, Admit) and isinstance(result, Admitted) and not result.exists:
                self._tenant(command.organization_id).calls.append(command)
        return results

    async def aclose(self) -> None:
        """Let the connection go."""
        await self._store.aclose()

    def admit(self, tenant: Tenant) -> Admit:
        """A call with a small ceiling, sometimes an open one."""
        chance = self.chance
        low = chance.randrange(1, 2_000)
        return Admit(
            organization_id=tenant.id,
            call_id=new_id(chance),
            node_id=self.node_id,
            epoch=self.epoch,
            catalogue_revision=1,
            fixed=Nanos(chance.randrange(CENT)),
            input_tokens=chance.randrange(3_000),
            output_price=OUTPUT_PRICE,
            output_min=low,
            output_max=low * chance.choice((1, 1, 8)),
            latest_end_after=timedelta(hours=2),
            dimensions=Dimensions(
                tenant.project_id,
                tenant.key_id,
                chance.choice(("", "search", ODD_NAME)),
                chance.choice(("production", "")),
                chance.choice(("gpt-5.4", "gpt-5.4-mini")),
                "standard",
                "chat.completions",
            ),
            price_id=self.price_id,
            upstream_account_id=self.account_id,
            streamed=chance.random() < 0.5,
            attribution=Attribution(
                user=chance.choice(("u1", "u2", "")),
                run=chance.choice(("r1", "r1/a", "r1/a/b", "")),
                tags=chance.choice(({"team": "blue", ODD_NAME: "a=b"}, {"team": "red"}, {})),
            ),
        )

    def settle(self, tenant: Tenant, call_id: UUID, *, scale: int = 4_000) -> Settle:
        """Some usage at the price version's prices."""
        tokens = (self.chance.randrange(scale), self.chance.randrange(scale))
        lines = tuple(
            LineItem(unit, count, price, price_half_even(count, price))
            for unit, count, price in zip(
                ("input", "output"), tokens, (INPUT_PRICE, OUTPUT_PRICE), strict=True
            )
        )
        return Settle(
            organization_id=tenant.id,
            call_id=call_id,
            metered=Nanos(sum(line.amount for line in lines)),
            cost=Nanos(self.chance.randrange(CENT)),
            lines=lines,
            usage=Usage(input_tokens=tokens[0], cached_tokens=1, output_tokens=tokens[1]),
            latency_ms=self.chance.randrange(10_000),
        )

    # --- choices ------------------------------------------------------------------------------

    def _usual(self) -> AnyCommand:
        makers = (self.admit, self.admit, self._settle, self._release, self._extend, self._report)
        return self.chance.choice(makers)(self.chance.choice(self.tenants))

    def _any(self) -> AnyCommand:
        tenant = self.chance.choice(self.tenants)
        makers: tuple[tuple[int, Callable[[Tenant], AnyCommand]], ...] = (
            (10, self.admit),
            (9, self._settle),
            (2, self._release),
            (2, self._extend),
            (2, self._report),
            (3, self._lapse),
            (4, self._grant),
            (1, self._expire),
            (1, self._refund),
            (1, self._dispute),
            (1, self._correct),
            (2, self._limit),
            (1, self._floor),
        )
        weights = [weight for weight, _ in makers]
        maker = self.chance.choices([maker for _, maker in makers], weights)[0]
        return maker(tenant)

    def _known_call(self, tenant: Tenant) -> Admit:
        """Mostly one of the last calls: earlier ones have ended."""
        return self.chance.choice(tenant.calls[-12:]) if tenant.calls else self.admit(tenant)

    def _known_grant(self, tenant: Tenant) -> UUID:
        return self.chance.choice(tenant.grants[-8:]) if tenant.grants else new_id(self.chance)

    def _settle(self, tenant: Tenant) -> Settle:
        return self.settle(tenant, self._known_call(tenant).call_id)

    def _release(self, tenant: Tenant) -> Release:
        call = self._known_call(tenant)
        return Release(organization_id=tenant.id, call_id=call.call_id, reason="upstream_refused")

    def _extend(self, tenant: Tenant) -> Extend:
        call = self._known_call(tenant)
        return Extend(
            organization_id=tenant.id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            amount=Nanos(self.chance.randrange(1, CENT)),
            step=self.chance.randint(1, 3),
            tokens=self.chance.randrange(500),
        )

    def _report(self, tenant: Tenant) -> Report:
        call = self._known_call(tenant)
        return Report(
            organization_id=tenant.id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            metered=Nanos(self.chance.randrange(4 * CENT)),
            cost=Nanos(self.chance.randrange(CENT)),
            input_tokens=self.chance.randrange(500),
            output_tokens=self.chance.randrange(500),
        )

    def _lapse(self, tenant: Tenant) -> Lapse:
        call = self._known_call(tenant)
        return Lapse(
            organization_id=tenant.id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            reason="node_gone",
        )

    def _grant(self, tenant: Tenant) -> GrantCredit:
        chance = self.chance
        grant_id = self._known_grant(tenant) if chance.random() < 0.1 else new_id(chance)
        tenant.grants.append(grant_id)
        ends = self.now + timedelta(hours=chance.randint(1, 72))
        begins = self.now + timedelta(minutes=chance.randint(1, 50))
        return GrantCredit(
            organization_id=tenant.id,
            grant_id=grant_id,
            source=chance.choice(list(Source)),
            amount=Nanos(chance.randrange(1, 30 * CENT)),
            effective_at=begins if chance.random() < 0.2 else None,
            expires_at=ends if chance.random() < 0.7 else None,
            reference="order 1",
        )

    def _expire(self, tenant: Tenant) -> ExpireGrants:
        return ExpireGrants(organization_id=tenant.id)

    def _refund(self, tenant: Tenant) -> Refund:
        return Refund(
            organization_id=tenant.id,
            command_id=new_id(self.chance),
            grant_id=self._known_grant(tenant),
            amount=Nanos(self.chance.randrange(1, 5 * CENT)),
            note="asked for",
        )

    def _dispute(self, tenant: Tenant) -> Dispute:
        step = self.chance.choice(list(DisputeStep))
        return Dispute(organization_id=tenant.id, grant_id=self._known_grant(tenant), step=step)

    def _correct(self, tenant: Tenant) -> Correct:
        return Correct(
            organization_id=tenant.id,
            command_id=new_id(self.chance),
            amount=Nanos(self.chance.randrange(1, 20 * CENT)),
            note="typing error",
        )

    def _limit(self, tenant: Tenant) -> SetLimit:
        """Wide enough that most calls pass; sometimes the default of a kind, sometimes none."""
        chance = self.chance
        kind, ref = chance.choice(
            (
                (ScopeKind.ORGANIZATION, ""),
                (ScopeKind.PROJECT, tenant.project_id.hex),
                (ScopeKind.KEY, tenant.key_id.hex),
                (ScopeKind.USER, chance.choice(("u1", "u2"))),
                (ScopeKind.FEATURE, chance.choice(("search", ODD_NAME))),
                (ScopeKind.ENVIRONMENT, "production"),
                (ScopeKind.TAG, chance.choice(("team=blue", "team=red", f"{ODD_NAME}=a=b"))),
                (ScopeKind.RUN, chance.choice(("r1", "r1/a"))),
            )
        )
        measure, most = chance.choice(
            (
                (Measure.MONEY, 500 * CENT),
                (Measure.TOKENS, 300_000),
                (Measure.CALLS, 100),
                (Measure.PARALLEL, 30),
            )
        )
        # A few that come again, so that limits are changed, removed and set anew.
        period = chance.choice((Period.MONTH, Period.MONTH, *Period))
        return SetLimit(
            organization_id=tenant.id,
            scope_kind=kind,
            scope_ref="" if chance.random() < 0.3 else ref,
            measure=measure,
            period=Period.TOTAL if measure is Measure.PARALLEL else period,
            effect=chance.choice((Effect.HARD, Effect.HARD, Effect.ALERT, Effect.SHADOW)),
            models=chance.choice(("", "", "gpt-5.4", "gpt-5*")),
            maximum=chance.randrange(most) if chance.random() < 0.7 else None,
            thresholds=chance.choice(((), (50, 80, 100))),
        )

    def _floor(self, tenant: Tenant) -> SetFloor:
        return SetFloor(organization_id=tenant.id, floor=Nanos(self.chance.choice((0, 5 * CENT))))

    # --- the world ----------------------------------------------------------------------------

    def _tenant(self, organization_id: UUID) -> Tenant:
        return next(tenant for tenant in self.tenants if tenant.id == organization_id)

    def _make_people(self) -> None:
        self.now = START
        self.sql(
            "UPDATE deployment SET clock_offset = %s - clock_timestamp()",
            self.now + timedelta(seconds=1),
        )
        self.sql(
            "INSERT INTO node (id, epoch, name) VALUES (%s, %s, 'n')", self.node_id, self.epoch
        )
        self.sql("INSERT INTO upstream_account (id, name) VALUES (%s, 'main')", self.account_id)
        self.sql(
            "INSERT INTO price_version (id, provider, model, lane, effective_at, source,"
            " long_context_over, base_units, base_prices, long_units, long_prices)"
            " VALUES (%s, 'openai', 'gpt-5.4', 'standard', %s, 'operator', 272000,"
            " '{input,output}', %s, '{input,output}', %s)",
            self.price_id,
            START,
            [INPUT_PRICE, OUTPUT_PRICE],
            [2 * INPUT_PRICE, 2 * OUTPUT_PRICE],
        )
        for tenant in self.tenants:
            self.sql("INSERT INTO organization (id, name) VALUES (%s, %s)", tenant.id, tenant.name)
            self.sql(
                "INSERT INTO project (id, organization_id, name) VALUES (%s, %s, 'search')",
                tenant.project_id,
                tenant.id,
            )
            self.sql(
                "INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)"
                " VALUES (%s, %s, %s, 'laptop', %s, 'fb-')",
                tenant.key_id,
                tenant.id,
                tenant.project_id,
                self.chance.randbytes(32),
            )

    def _change_the_world(self) -> None:
        chance = self.chance
        if chance.random() < 0.15:
            self.advance(timedelta(minutes=chance.choice((5, 60, 600, 6_000))))
        if chance.random() < 0.05:
            self.epoch += 1
            self.sql("UPDATE node SET epoch = %s WHERE id = %s", self.epoch, self.node_id)
        if chance.random() < 0.05:
            self.sql(
                "UPDATE organization SET on_overrun = %s, on_lapse = %s WHERE id = %s",
                chance.choice(("absorb", "owe")),
                chance.choice(("metered", "nothing", "ceiling")),
                chance.choice(self.tenants).id,
            )

    def advance(self, by: timedelta) -> None:
        """Move the sandbox clock on."""
        self.now += by
        self.sql("UPDATE deployment SET clock_offset = clock_offset + %s", by)
