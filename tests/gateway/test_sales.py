"""What is on sale: of the newest revision that was read, and refused where it has no price."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.gateway import sales as sales_module
from farebox.gateway.openai_errors import GatewayError
from farebox.gateway.sales import Sales
from farebox.kit.errors import UnavailableError
from farebox.rating.units import Lane
from tests.support.scripted_upstream import ScriptedResponse, ScriptedUpstream
from tests.support.small_gateway import (
    NOW,
    PROVIDER_ROW,
    VERSIONS,
    MemoryDirectory,
    version,
)

OTHER = structs.replace(PROVIDER_ROW, id=UUID(int=77), name="other")


@pytest.fixture
def directory() -> MemoryDirectory:
    """One provider with gpt-5.4 in three lanes, and a model with one."""
    return MemoryDirectory(ScriptedUpstream(lambda _: ScriptedResponse([])))


async def opened(directory: MemoryDirectory) -> Sales:
    """The sales, read once."""
    sales = Sales(directory, monotonic=time.monotonic)
    await sales.refresh()
    return sales


def refusal(sales: Sales, model: str, tier: str | None = None, currency: str = "USD") -> Any:
    """The error of a request."""
    with pytest.raises(GatewayError) as caught:
        sales.offer(model, service_tier=tier, currency=currency)
    return caught.value


@pytest.mark.parametrize(
    ("tier", "lanes"),
    [
        (None, ["standard"]),
        ("default", ["standard"]),
        ("flex", ["flex"]),
        ("priority", ["standard", "priority"]),
        ("auto", ["standard", "flex", "priority"]),
    ],
)
async def test_the_lanes_of_an_offer(
    directory: MemoryDirectory, tier: str | None, lanes: list[str]
) -> None:
    """DED-13: every lane that the request may be served in is in the offer."""
    sales = await opened(directory)
    offer = sales.offer("gpt-5.4", service_tier=tier, currency="USD")
    assert [version.lane.value for version in offer.versions] == lanes
    assert offer.names_tier
    assert (offer.revision, offer.model) == (1, "gpt-5.4")


async def test_a_model_with_one_lane(directory: MemoryDirectory) -> None:
    """No tier is named upstream for it; auto means its one lane; others are refused by name."""
    sales = await opened(directory)
    for tier in (None, "auto", "default"):
        offer = sales.offer("gpt-standard-only", service_tier=tier, currency="USD")
        assert [version.lane for version in offer.versions] == [Lane.STANDARD]
        assert not offer.names_tier
    for tier in ("flex", "priority"):
        error = refusal(sales, "gpt-standard-only", tier)
        assert (error.status, error.param) == (400, "service_tier")
    assert refusal(sales, "gpt-5.4", "scale").param == "service_tier"


async def test_names(directory: MemoryDirectory) -> None:
    """A model goes by its aliases and by its provider's prefix; the client's own name goes up."""
    directory.providers = (PROVIDER_ROW, OTHER)
    sales = await opened(directory)
    for name, provider, model in (
        ("gpt-5.4", "openai", "gpt-5.4"),
        ("gpt-5.4-2026-03-05", "openai", "gpt-5.4-2026-03-05"),
        ("other/gpt-5.4", "other", "gpt-5.4"),
        ("openai/gpt-5.4-2026-03-05", "openai", "gpt-5.4-2026-03-05"),
    ):
        offer = sales.offer(name, service_tier=None, currency="USD")
        assert (offer.provider.name, offer.model) == (provider, model)
        assert offer.versions[0].model == "gpt-5.4"
    for name in ("gpt-6", "other/gpt-6", "nobody/gpt-5.4", "/gpt-5.4", "other/", "gpt-5.4/"):
        error = refusal(sales, name)
        assert (error.status, error.code) == (404, "model_not_found")
    assert sales.models() == [("gpt-5.4", "openai"), ("gpt-standard-only", "openai")]


async def test_another_currency(directory: MemoryDirectory) -> None:
    """Decision 16: without prices in the organisation's currency its calls are refused."""
    sales = await opened(directory)
    error = refusal(sales, "gpt-5.4", currency="EUR")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "no EUR price" in error.message


async def test_a_price_that_is_not_in_force_yet(directory: MemoryDirectory) -> None:
    """A version counts from its instant on, by the engine's time."""
    seconds = 50.0
    dearer = structs.replace(
        version(9, Lane.STANDARD, 20), effective_at=NOW + timedelta(seconds=10)
    )
    only_later = structs.replace(dearer, model="gpt-later", id=UUID(int=901))
    directory.versions = (*VERSIONS, dearer, only_later)
    sales = Sales(directory, monotonic=lambda: seconds)
    await sales.refresh()
    before = sales.offer("gpt-5.4", service_tier=None, currency="USD")
    assert before.versions[0].id == VERSIONS[0].id
    assert refusal(sales, "gpt-later").code == "model_not_found"
    seconds += 10.0
    after = sales.offer("gpt-5.4", service_tier=None, currency="USD")
    assert after.versions[0].id == dearer.id
    assert sales.offer("gpt-later", service_tier=None, currency="USD").versions


async def test_an_offer_is_kept_until_a_price_begins(
    directory: MemoryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same request is offered the same, but never across a change or for ever more names."""
    sales = await opened(directory)

    def ask(model: str = "gpt-5.4", tier: str | None = None) -> Any:
        return sales.offer(model, service_tier=tier, currency="USD")

    first = ask()
    assert ask() is first
    assert ask(tier="flex").versions != first.versions
    await sales.refresh()
    assert ask() is first
    directory.revision, directory.versions = 2, VERSIONS[1:]
    await sales.refresh()
    assert refusal(sales, "gpt-5.4").code == "model_not_found"
    directory.revision, directory.versions = 3, VERSIONS
    await sales.refresh()
    assert ask().revision == 3
    monkeypatch.setattr(sales_module, "KEPT_MAX", 1)
    kept = ask()
    assert ask("openai/gpt-5.4").model == "gpt-5.4"
    assert ask() is not kept
    assert ask().versions == kept.versions


async def test_it_is_read_again_when_it_grows(
    directory: MemoryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new revision is loaded, an old one is not, and the database's absence harms nothing."""
    monkeypatch.setattr(sales_module, "REFRESH_SECONDS", 0.01)
    sales = Sales(directory, monotonic=time.monotonic)
    await sales.start()
    try:
        await asyncio.sleep(0.1)
        assert directory.loads == 1
        directory.revision = 2
        await asyncio.sleep(0.1)
        assert (sales.catalogue.revision, directory.loads) == (2, 2)
        directory.error = UnavailableError()
        await asyncio.sleep(0.05)
        assert sales.offer("gpt-5.4", service_tier=None, currency="USD").revision == 2
        directory.error, directory.revision = None, 3
        await asyncio.sleep(0.1)
        assert sales.catalogue.revision == 3
    finally:
        await sales.aclose()


async def test_many_ask_at_once(directory: MemoryDirectory) -> None:
    """A crowd that finds its prices stale loads them once."""
    sales = await opened(directory)
    directory.revision = 2
    await asyncio.gather(*(sales.refresh() for _ in range(20)))
    assert directory.loads == 2
