"""The catalogue on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from psycopg import AsyncConnection

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.operations.catalogue_import import plan_import
from farebox.providers.price_catalogue import import_catalogue
from farebox.rating.price_book import PRICE_NANOS_MAX, ModelFacts, PriceVersion
from farebox.rating.units import Lane, Unit
from farebox.storage import catalogue_store
from farebox.storage.catalogue_store import (
    NewProvider,
    changing_catalogue,
    import_prices,
    load_catalogue,
    read_providers,
    read_revision,
    read_versions,
)
from farebox.storage.connecting import Connector

VERSION = PriceVersion(
    id=UUID(int=1),
    provider="openai",
    model="gpt-5.4",
    lane=Lane.FLEX,
    currency="USD",
    effective_at=datetime(2026, 3, 1, tzinfo=UTC),
    source="operator",
    long_context_over=272_000,
    base=((Unit.INPUT, 2_500_000_000), (Unit.OUTPUT, 15_000_000_000)),
    long=((Unit.INPUT, 5_000_000_000), (Unit.OUTPUT, 22_500_000_000)),
)
FACTS = ModelFacts(
    provider="openai",
    model="gpt-5.4",
    context_window=1_050_000,
    output_max=128_000,
    counts_o200k=True,
    image_tokens_max=12_001,
    aliases=("gpt-5.4-2026-03-05", 'odd "name" \\'),
    patterns=(r"^ft:gpt-5\.4:.*$",),
)


def new_provider(number: int = 1, **changes: object) -> NewProvider:
    """A provider ``openai`` with ids of its own."""
    values: dict[str, object] = {
        "id": UUID(int=10 + number),
        "name": "openai",
        "kind": "openai",
        "price_list": "openai",
        "base_url": "https://api.openai.com/v1",
        "api_version": None,
        "secret": b"sealed",
        "account_id": UUID(int=20 + number),
        "account_name": "main",
    }
    return NewProvider(**(values | changes))  # type: ignore[arg-type]


async def add_twice(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    """Add two providers of one name in one change."""
    async with changing_catalogue(connection) as change:
        await change.add_provider(new_provider(1))
        await change.add_provider(new_provider(2))


async def test_a_catalogue_is_read_as_it_was_written(dsn: str) -> None:
    """DED-13: a version with its lane and long-context table, and a model, come back the same."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        before = await read_revision(connection)
        async with changing_catalogue(connection) as change:
            assert await change.insert_price_versions([VERSION]) == 1
            await change.write_models([FACTS])
            added = await change.add_provider(new_provider())
        catalogue = await load_catalogue(connection)

    assert catalogue.revision == catalogue.prices.revision == change.revision == before + 1
    assert list(catalogue.prices.versions()) == [VERSION]
    assert catalogue.prices.facts("openai", "gpt-5.4") == FACTS
    assert catalogue.prices.resolve("openai", "ft:gpt-5.4:acme") == "gpt-5.4"
    assert catalogue.providers == (added,)
    assert added.secret == b"sealed"


async def test_a_version_that_is_known_is_not_written_again(dsn: str) -> None:
    """A price version is never edited: the same id again changes nothing."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        async with changing_catalogue(connection) as change:
            await change.insert_price_versions([VERSION])
        other = structs.replace(VERSION, base=((Unit.INPUT, 1),))
        async with changing_catalogue(connection) as change:
            assert await change.insert_price_versions([other]) == 0
        catalogue = await load_catalogue(connection)
    assert list(catalogue.prices.versions()) == [VERSION]


async def test_a_change_that_fails_changes_nothing(dsn: str) -> None:
    """The revision and the rows commit together or not at all."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        before = await read_revision(connection)
        with pytest.raises(ConflictError):
            await add_twice(connection)
        assert await read_revision(connection) == before
        assert await read_providers(connection) == []


async def test_a_removed_provider_forgets_its_secret_and_frees_its_name(dsn: str) -> None:
    """A name can be used again; the account, on which calls cost money, stays the same."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        async with changing_catalogue(connection) as change:
            first = await change.add_provider(new_provider(1))
            await change.remove_provider(first.id)
        assert await read_providers(connection) == []
        cursor = await connection.execute("SELECT secret FROM provider")
        assert await cursor.fetchone() == (None,)

        async with changing_catalogue(connection) as change:
            with pytest.raises(NotFoundError):
                await change.remove_provider(first.id)
        async with changing_catalogue(connection) as change:
            second = await change.add_provider(new_provider(2, secret=None))
        assert await read_providers(connection) == [second]
    assert (second.id, second.account_id, second.secret) == (first.id, first.account_id, None)


async def test_two_imports_at_once_add_everything_once(dsn: str) -> None:
    """Two nodes that start together bring the same catalogue in; one of them finds it there."""
    connector = Connector(dsn, name="test", durable=False)
    now = datetime(2026, 11, 20, tzinfo=UTC)
    async with await connector.connect() as one, await connector.connect() as other:
        plans = await asyncio.gather(
            *(import_prices(each, [VERSION], [FACTS], now) for each in (one, other))
        )
        catalogue = await load_catalogue(one)
    assert sorted(len(plan.versions) for plan in plans) == [0, 1]
    assert list(catalogue.prices.versions()) == [VERSION]


async def test_an_import_that_would_break_the_catalogue_is_not_written(dsn: str) -> None:
    """A row that cannot be charged from would stop every node from loading prices: no commit."""
    wrong = structs.replace(VERSION, base=((Unit.INPUT, PRICE_NANOS_MAX + 1),))
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        before = await read_revision(connection)
        with pytest.raises(InvalidInputError):
            await import_prices(connection, [wrong], [FACTS], datetime(2026, 11, 20, tzinfo=UTC))
        assert await read_revision(connection) == before
        assert list((await load_catalogue(connection)).prices.versions()) == []


async def test_the_whole_imported_catalogue_comes_back_the_same(dsn: str) -> None:
    """Thousands of imported rows are written in one statement and read back exactly."""
    snapshot = import_catalogue()
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        async with changing_catalogue(connection) as change:
            written = await change.insert_price_versions(snapshot.versions)
            await change.write_models(snapshot.facts)
        catalogue = await load_catalogue(connection)
    assert written == len(snapshot.versions)
    assert {v.id: v for v in catalogue.prices.versions()} == {v.id: v for v in snapshot.versions}
    for facts in snapshot.facts:
        assert catalogue.prices.facts(facts.provider, facts.model) == facts


async def test_a_slow_machine_does_not_lose_its_import(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 1: the first start plans thousands of prices; taking seconds for it breaks nothing."""

    def slow_plan(*args: Any, **settings: Any) -> Any:
        time.sleep(0.3)
        return plan_import(*args, **settings)

    monkeypatch.setattr(catalogue_store, "plan_import", slow_plan)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        # The connection's bound for idle transactions, but for the time that a test has.
        await connection.execute("SET idle_in_transaction_session_timeout = '100ms'")
        await import_prices(connection, [VERSION], [FACTS], datetime(2026, 11, 20, tzinfo=UTC))
        assert len(await read_versions(connection)) == 1
