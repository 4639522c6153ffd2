"""The migration that gave a tier's limits their origin: counters and open holds come along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from farebox.kit.money import Nanos
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Measure, Origin, Period
from farebox.operations.check_books import check_books
from farebox.operations.tier_limits import limit_changes
from farebox.storage import migrate as migrating
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.balance_store import list_limits
from farebox.storage.connecting import Connector
from farebox.tenancy.tiers import Tier, TierRate
from tests.support.shop import Shop
from tests.support.till import new_id

SQL = Path(migrating.__file__).parent / "migrations" / "versions" / "0006_limits.sql"
BUILD = Tier(
    id=new_id(),
    currency="USD",
    position=0,
    name="Build",
    monthly_maximum=Nanos(100),
    rates=(TierRate(models="gpt*", calls_per_day=50),),
)


async def test_what_tiers_had_set_becomes_theirs_with_its_counters(shop: Shop) -> None:
    """LIM-05, LIM-06: no cap is ever without its count; the next step finds no change."""
    till = shop.till
    month: dict[str, Any] = {"organization_id": till.organization_id, "period": Period.MONTH}
    day: dict[str, Any] = {
        "measure": Measure.CALLS,
        "period": Period.UTC_DAY,
        "maximum": 50,
        "models": "gpt*",
    }
    await shop.run(
        till.grant(1_000),
        SetLimit(**month, maximum=90, owner="ann"),
        SetLimit(**month, maximum=100, models="*", owner="tier Build"),
        SetLimit(organization_id=till.organization_id, owner="tier Build", **day),
    )
    settled, running = till.admit(30), till.admit(40)
    await shop.run(settled, running)
    await shop.run(till.settle(settled, 25))
    with psycopg.connect(shop.dsn) as connection:
        connection.execute("DROP VIEW call_scope")  # the migration's other part makes it
        connection.execute(SQL.read_bytes())
        # It came before anybody remembered; one that came later would have to do this itself.
        connection.execute("UPDATE organization SET id = id")

    connector = Connector(shop.dsn, name="test", durable=False)
    async with await connector.connect() as connection:
        limits = await list_limits(connection, till.organization_id)
        shown = {
            (each.rule.measure, each.rule.origin, each.rule.models): (each.used, each.held)
            for each in limits
        }
        assert shown == {
            (Measure.MONEY, Origin.MANUAL, ""): (25, 40),
            (Measure.MONEY, Origin.TIER, ""): (25, 40),
            (Measure.CALLS, Origin.TIER, "gpt*"): (1, 1),
        }
        assert list(limit_changes(till.organization_id, BUILD, limits)) == []
        await shop.run(till.settle(running, 33))
        await shop.run(SetLimit(**month, maximum=None))
        refused = await shop.run(till.admit(43))
        assert (refused.code, refused.limit.used) == ("organization_usage_limit_exceeded", 58)
        assert (await check_books(PostgresAuditStore(connection))).is_clean
