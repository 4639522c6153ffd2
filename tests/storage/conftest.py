"""What the tests of this room may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from tests.support.office import Office, open_office
from tests.support.shop import Shop


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Shop]:
    """A database with one organisation."""
    shop = Shop(dsn)
    yield shop
    await shop.store.aclose()


@pytest.fixture
def empty(dsn: str) -> Iterator[str]:
    """A database with nothing in it."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    admin = psycopg.conninfo.make_conninfo(dsn, dbname="postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_empty TEMPLATE template0".encode())
    yield psycopg.conninfo.make_conninfo(dsn, dbname=f"{name}_empty")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}_empty WITH (FORCE)".encode())


@pytest.fixture
async def office(dsn: str) -> AsyncIterator[Office]:
    """The use cases of the management plane on a fresh database."""
    async with open_office(dsn) as office:
        yield office
