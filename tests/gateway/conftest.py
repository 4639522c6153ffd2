"""A running house for the gateway's tests, and tenants in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.storage.catalogue_store import NewProvider, changing_catalogue
from farebox.storage.tenancy_store import read_deployment
from farebox.system.secrets import SecretBox
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.mock_upstream import MockUpstream, mock_upstream
from tests.support.scripted_upstream import ScriptableUpstream, Scripts
from tests.support.tenants import NewTenant, Tenant, make_tenant


@pytest.fixture(scope="session")
def house(
    postgres: TestServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """One house for all of the gateway's tests, with a provider that can be scripted."""
    with pytest.MonkeyPatch.context() as patch, postgres.database() as dsn:
        patch.setattr("farebox.assembly.directory.SimulatedUpstream", ScriptableUpstream)
        with running_house(dsn, tmp_path_factory.mktemp("home")) as running:
            yield running


@pytest.fixture
def new_tenant(house: House, request: pytest.FixtureRequest) -> NewTenant:
    """Makes tenants with names of their own."""
    made = 0

    def make(**more: Any) -> Tenant:
        nonlocal made
        made += 1
        return make_tenant(house, f"{request.node.nodeid[-150:]} {made}", **more)

    return make


@pytest.fixture
def tenant(new_tenant: NewTenant) -> Tenant:
    """A tenant with five dollars."""
    return new_tenant()


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Scripts by name, for calls that name one in ``X-Sandbox-Script``."""
    yield ScriptableUpstream.scripts
    ScriptableUpstream.scripts.clear()


@pytest.fixture(scope="session")
def mock(house: House) -> Iterator[MockUpstream]:
    """The simulated provider behind real HTTP, as the provider ``mock`` of the house."""
    with mock_upstream() as running:
        add_provider(house, "mock", running.base_url)
        yield running


def add_provider(house: House, name: str, base_url: str) -> None:
    """Add an OpenAI-compatible provider that charges by OpenAI's price list."""

    async def add() -> None:
        connection = await house.database.connector("providers").connect()
        async with connection:
            now = (await read_deployment(connection)).now
            async with changing_catalogue(connection) as change:
                await change.add_provider(
                    NewProvider(
                        id=uuid7(now, os.urandom(RANDOM_BYTES)),
                        name=name,
                        kind="openai",
                        price_list="openai",
                        base_url=base_url,
                        api_version=None,
                        secret=SecretBox(house.home).seal("sk-the-operators-own"),
                        account_id=uuid7(now, os.urandom(RANDOM_BYTES)),
                        account_name=name,
                    )
                )

    house.run(add())
