"""Prices under plans: what a call was charged by stays explainable and checked."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from farebox.rating.price_book import PriceVersion
from farebox.rating.price_plans import PlanTerms, planned_version
from farebox.rating.units import Lane, Unit
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.catalogue_store import changing_catalogue
from farebox.storage.plan_store import remember_planned
from farebox.storage.planned_prices import load_planned
from tests.support.office import Office

BOOK = PriceVersion(
    id=UUID(int=5),
    provider="openai",
    model="gpt-5.4",
    lane=Lane.STANDARD,
    currency="USD",
    effective_at=datetime(2026, 1, 1, tzinfo=UTC),
    source="test",
    long_context_over=272_000,
    base=((Unit.INPUT, 2_500), (Unit.OUTPUT, 15_000)),
    long=((Unit.INPUT, 5_000), (Unit.OUTPUT, 22_500)),
)


async def test_a_price_under_a_plan_is_found_again(office: Office) -> None:
    """DESIGN promise 3: by its id alone, as it was charged; noted once, however often sent."""
    connection = office.connection
    plan = await office.plans.revise("Reseller", PlanTerms(markup=2_000))
    async with changing_catalogue(connection) as change:
        await change.insert_price_versions([BOOK])
    planned = planned_version(BOOK, plan)
    assert await load_planned(connection, [planned.id]) == {}
    for _ in range(2):
        await remember_planned(connection, [(planned.id, BOOK.id, plan.id)])
    # A later version of the plan changes nothing of what was charged.
    await office.plans.revise("Reseller", PlanTerms(markup=9_000))
    assert await load_planned(connection, [planned.id, BOOK.id]) == {planned.id: planned}

    tables = await PostgresAuditStore(connection).price_tables([planned.id, BOOK.id])
    assert tables[planned.id] == (
        {"input": 3_000, "output": 18_000},
        {"input": 6_000, "output": 27_000},
    )
    assert tables[BOOK.id][0] == {"input": 2_500, "output": 15_000}
    shown = await PostgresCallStore(connection)._price(planned.id)
    assert shown is not None
    assert (shown.id, shown.source) == (planned.id, "test; plan Reseller v1")
