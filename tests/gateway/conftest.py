"""A running house for the gateway's tests, and tenants in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.loops import LoopFactory, loops_for
from tests.support.mock_upstream import MockUpstream, mock_upstream
from tests.support.scripted_upstream import ScriptableUpstream, Scripts
from tests.support.tenants import NewTenant, Tenant, add_provider, make_tenant

ON_A_WIRE = ("test_server",)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Run what touches a wire on both loops."""
    return loops_for(item, on_a_wire=ON_A_WIRE)


@pytest.fixture(scope="session")
def house(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
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
