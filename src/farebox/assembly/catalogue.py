"""Bringing the price list that this version of Farebox ships with into the database."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from farebox.operations.catalogue_import import ImportPlan, plan_import
from farebox.storage.catalogue_store import changing_catalogue, load_catalogue, read_versions
from farebox.storage.tenancy_store import read_deployment


async def import_prices(connection: AsyncConnection[tuple[Any, ...]]) -> ImportPlan:
    """Import what is new or has changed; prices that are there are never edited.

    Args:
        connection: In autocommit mode.
    """
    # Slow to import, and needed here alone.
    from farebox.providers.price_catalogue import import_catalogue  # noqa: PLC0415

    snapshot = import_catalogue()
    catalogue = await load_catalogue(connection)
    now = (await read_deployment(connection)).now
    plan = plan_import(
        await read_versions(connection),
        catalogue.prices.all_facts(),
        snapshot.versions,
        snapshot.facts,
        now,
    )
    if not plan.is_empty:
        async with changing_catalogue(connection) as change:
            await change.insert_price_versions(plan.versions)
            await change.write_models(plan.facts)
    return plan
