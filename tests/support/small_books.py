"""A few calls of every kind, made by the engine on a real database, each known by name."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Attribution,
    ExpireGrants,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    SetLimit,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Period
from tests.support.engine_traffic import CENT, Traffic, new_id

if TYPE_CHECKING:
    from farebox.ledger.commands import Result


class SmallBooks:
    """One tenant with a limit, three grants (free and promo, ended; purchased) and six calls.

    ``settled`` and ``beyond`` (more than its hold) and ``late`` (lapsed, then answered) and
    ``returned`` (ended after the free grant, so that its earmark is breakage) and ``released`` are
    closed; ``open`` is not.
    """

    def __init__(self, dsn: str) -> None:
        self.traffic = Traffic(dsn, seed=7, tenants=1)
        self.tenant = self.traffic.tenants[0]
        self.free = new_id(self.traffic.chance)
        self.promo = new_id(self.traffic.chance)
        self.purchased = new_id(self.traffic.chance)
        self.calls: dict[str, UUID] = {}

    async def make(self) -> None:
        """Let it all happen."""
        tenant = self.tenant
        await self.one(
            SetLimit(organization_id=tenant.id, period=Period.MONTH, maximum=Nanos(10_000 * CENT))
        )
        await self.grant(self.free, Source.FREE, 3 * CENT, hours=3)
        await self.grant(self.purchased, Source.PURCHASED, 100 * CENT, hours=1_000)
        await self.admit("settled")
        await self.one(self.traffic.settle(tenant, self.calls["settled"], scale=300))
        await self.admit("returned")
        await self.admit("beyond")
        await self.one(self.traffic.settle(tenant, self.calls["beyond"], scale=9_000))
        await self.grant(self.promo, Source.PROMO, 2 * CENT, hours=3)
        await self.admit("late")
        await self.lapse("late")
        await self.one(self.traffic.settle(tenant, self.calls["late"], scale=300))
        await self.admit("released")
        released = self.calls["released"]
        await self.one(
            Release(organization_id=tenant.id, call_id=released, reason="upstream_refused")
        )
        self.traffic.advance(timedelta(hours=4))
        await self.one(ExpireGrants(organization_id=tenant.id))
        await self.one(self.traffic.settle(tenant, self.calls["returned"], scale=300))
        await self.one(
            Refund(
                organization_id=tenant.id,
                command_id=new_id(self.traffic.chance),
                grant_id=self.purchased,
                amount=Nanos(CENT),
                note="asked for",
            )
        )
        await self.admit("open")
        await self.traffic.aclose()

    async def one(self, command: AnyCommand) -> Result:
        """Have one command decided."""
        return (await self.traffic.send([command]))[0]

    def admission(self) -> Admit:
        """A call that holds one cent."""
        plain = self.traffic.admit(self.tenant)
        dimensions = structs.replace(
            plain.dimensions, model="gpt-5.4", feature="search", environment="production"
        )
        return structs.replace(
            plain,
            fixed=Nanos(CENT),
            output_price=0,
            dimensions=dimensions,
            attribution=Attribution(user="u1", run="r1", tags={"team": "blue"}),
        )

    async def admit(self, name: str) -> None:
        """Admit a call under a name."""
        command = self.admission()
        await self.one(command)
        self.calls[name] = command.call_id

    async def lapse(self, name: str, *, metered: int = CENT // 2) -> None:
        """Let a call of that name lapse after it reported some use."""
        traffic, tenant = self.traffic, self.tenant
        report = Report(
            organization_id=tenant.id,
            call_id=self.calls[name],
            node_id=traffic.node_id,
            epoch=traffic.epoch,
            metered=Nanos(metered),
            cost=Nanos(5),
            input_tokens=9,
            output_tokens=9,
        )
        await self.one(report)
        traffic.epoch += 1
        traffic.sql("UPDATE node SET epoch = %s", traffic.epoch)
        await self.one(
            Lapse(
                organization_id=tenant.id,
                call_id=report.call_id,
                node_id=report.node_id,
                epoch=report.epoch,
                reason="node_gone",
            )
        )

    async def grant(self, grant_id: UUID, source: Source, amount: int, *, hours: int) -> None:
        """Give a grant that ends after some hours."""
        await self.one(
            GrantCredit(
                organization_id=self.tenant.id,
                grant_id=grant_id,
                source=source,
                amount=Nanos(amount),
                expires_at=self.traffic.now + timedelta(hours=hours),
                reference="order 1",
            )
        )


async def small_books(dsn: str) -> SmallBooks:
    """Make the books in an empty database."""
    books = SmallBooks(dsn)
    await books.make()
    return books
