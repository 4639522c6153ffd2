"""What a call's price stands for where it is no row of the price book: a row under a plan.

Reads the book's row and the plan's version that the gateway wrote down before the first call, and
rates the one by the other again: nothing that a call was charged by is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from farebox.rating.price_book import PriceVersion
from farebox.rating.price_plans import planned_version
from farebox.storage.catalogue_store import price_version
from farebox.storage.plan_store import plan_version
from farebox.storage.sql import queries

_BOOK_COLUMNS = 12
"""Of a row of ``read_price_versions``; the plan's version follows."""


async def load_planned(
    connection: AsyncConnection[tuple[Any, ...]], ids: Iterable[UUID]
) -> dict[UUID, PriceVersion]:
    """The prices under plans among some ids, as they were charged."""
    cursor = await connection.execute(queries("price_plans")["load_planned"], (list(ids),))
    found = {}
    for planned_id, *row in await cursor.fetchall():
        book = price_version(tuple(row[:_BOOK_COLUMNS]))
        found[planned_id] = planned_version(book, plan_version(tuple(row[_BOOK_COLUMNS:])))
    return found
