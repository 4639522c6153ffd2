"""A database with one organisation: a store to send batches, and a way to look and to meddle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from farebox.ledger.commands import (
    AnyCommand,
)
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from tests.support.till import Till


class Shop:
    """A database with one organisation, a store, and a way to look and to meddle."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.till = self.new_till()
        self.store = self.new_store()

    @classmethod
    def of(cls, dsn: str) -> Shop:
        """A store on a database whose organisations are there already."""
        shop = cls.__new__(cls)
        shop.dsn = dsn
        shop.store = shop.new_store()
        return shop

    def new_till(self, **options: Any) -> Till:
        """Another organisation."""
        till = Till(**options)
        till.put_into_database(self.dsn)
        return till

    def new_store(self) -> PostgresBatchStore:
        """Another lane."""
        return PostgresBatchStore(Connector(self.dsn, name="test", durable=False))

    async def run(self, *commands: AnyCommand, resent: bool = False) -> Any:
        """One batch; one command's result stands for itself."""
        results = await self.store.run(commands, resent=resent)
        return results[0] if len(commands) == 1 else results

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement behind the engine's back."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def locked(self, till: Till) -> Iterator[psycopg.Connection[Any]]:
        """Somebody else holds the organisation's row."""
        with psycopg.connect(self.dsn) as other:
            other.execute(
                "SELECT FROM organization WHERE id = %s FOR UPDATE", (till.organization_id,)
            )
            yield other
            other.rollback()

    def totals(self) -> tuple[int, int, int]:
        """What is spent, reserved and left of the till's credit."""
        ((spent, reserved, left),) = self.sql(
            "SELECT spent_nanos, reserved_nanos, unreserved_nanos FROM organization WHERE id = %s",
            self.till.organization_id,
        )
        return spent, reserved, left

    async def until_waiting(self) -> int:
        """Wait until the store waits for a lock; its server process."""
        async with asyncio.timeout(10):
            while True:
                found = self.sql(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock'"
                )
                if found:
                    return int(found[0][0])
                await asyncio.sleep(0.01)
