"""Prices and providers by the native API."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.storage.request_store import PostgresRequestStore
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of

PRICE = {
    "provider": "local",
    "model": "llama",
    "prices": {"input": "1.5", "output": "6", "cached_input": "0.15"},
    "context_window": 8_000,
}


async def test_a_price_is_set_and_never_edited(house: House) -> None:
    """DED-07: a change is another version; the list shows what is in force, or every version."""
    async with house.operator() as operator:
        first = await operator.done("POST", "/prices", PRICE, key="p")
        again = await operator.done("POST", "/prices", PRICE, key="p")
        second = await operator.done(
            "POST", "/prices", PRICE | {"prices": {"input": "2", "output": "6"}}
        )
        later = PRICE | {"effective_at": "2199-01-01T00:00:00Z"}
        await operator.done("POST", "/prices", later)
        standing = await operator.every("/prices?provider=local")
        versions = await operator.every("/prices?provider=local&every_version=true", limit=1)
        past = await operator.ask(
            "POST", "/prices", PRICE | {"effective_at": "2020-01-01T00:00:00Z"}
        )
    assert first == again
    assert first["prices"] == {"input": "1.50", "cached_input": "0.15", "output": "6.00"}
    assert standing == [second]
    assert [each["prices"]["input"] for each in versions] == ["1.50", "2.00", "1.50"]
    assert problem_of(past, 422)["errors"][0]["field"] == "effective_at"


async def test_a_price_and_the_memory_of_its_answer_commit_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between both leaves neither: the repetition sets the one price and adds the one
    provider, as the README promises of every change of tables.
    """
    provider = {"name": "local", "base_url": "https://llm.example.org/v1", "api_key": "sk-1"}
    finish, faults = PostgresRequestStore.finish, ["prices", "providers"]

    async def failing(store: Any, caller: str, key: str, answer: Any) -> None:
        if key in faults:
            faults.remove(key)
            raise RuntimeError("died")
        await finish(store, caller, key, answer)

    monkeypatch.setattr(PostgresRequestStore, "finish", failing)
    async with house.operator() as operator:
        for path, order in (("prices", PRICE), ("providers", provider)):
            problem_of(await operator.ask("POST", f"/{path}", order, key=path), 500)
            made = await operator.done("POST", f"/{path}", order, key=path)
            assert await operator.done("POST", f"/{path}", order, key=path) == made
            assert len(await operator.every("/audit?subject_id=" + made["id"])) == 1
        prices = await operator.every("/prices?provider=local&every_version=true")
    assert len(prices) == 1
    assert faults == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prices": {"input": "1"}}, "prices.output"),
        ({"prices": {"input": "-1", "output": "1"}}, "prices.input"),
        ({"prices": {"input": "1", "output": "1", "gold": "1"}}, "prices"),
        ({"provider": "a b"}, "provider"),
        ({"currency": "dollars"}, "currency"),
        ({"output_max": 0}, "output_max"),
    ],
)
async def test_a_price_that_cannot_be_is_refused(
    change: dict[str, object], field: str, house: House
) -> None:
    """The field is named."""
    async with house.operator() as operator:
        answer = await operator.ask("POST", "/prices", PRICE | change)
    assert problem_of(answer, 422)["errors"][0]["field"] == field


async def test_an_unlikely_price_must_be_confirmed(house: House) -> None:
    """Field bugs 31, 32: a hundred times the price in force is refused until it is meant."""
    dear = PRICE | {"prices": {"input": "150", "output": "6"}}
    async with house.operator() as operator:
        await operator.done("POST", "/prices", PRICE)
        refused = await operator.ask("POST", "/prices", dear)
        made = await operator.done("POST", "/prices", dear | {"confirm": True})
    assert problem_of(refused, 422)["errors"][0]["field"] == "prices.input"
    assert made["prices"]["input"] == "150.00"


async def test_an_organisation_sees_what_it_pays(house: House) -> None:
    """Decision 16: prices as its plan makes them, in its currency."""
    async with house.operator() as operator, house.member(Role.VIEWER) as viewer:
        await operator.done("POST", "/prices", PRICE)
        await operator.done("POST", "/prices", PRICE | {"currency": "EUR"})
        plan = await operator.done(
            "POST", "/price-plans", {"name": "Retail", "markup_basis_points": 2_000}
        )
        await operator.done("PUT", f"{house.path}/price-plan", {"plan_id": plan["id"]})
        (mine,) = await viewer.every(f"{house.path}/prices")
    assert (mine["currency"], mine["prices"]["input"]) == ("USD", "1.80")
    assert "plan Retail" in mine["source"]


async def test_a_provider_s_key_is_never_shown(house: House) -> None:
    """Secrets are write-only: not in the answer, the list, the audit log, nor the database."""
    secret = "sk-very-secret-indeed"
    order = {"name": "openai", "base_url": "https://api.openai.com/v1/", "api_key": secret}
    async with house.operator() as operator:
        made = await operator.done("POST", "/providers", order)
        taken = await operator.ask("POST", "/providers", order)
        listed = await operator.every("/providers")
        with psycopg.connect(house.dsn) as sql:
            (stored,) = sql.execute("SELECT secret FROM provider").fetchone() or (None,)
        events = await operator.done("GET", "/audit")
        removed = await operator.ask("DELETE", f"/providers/{made['id']}")
        gone = await operator.ask("DELETE", f"/providers/{made['id']}")
    assert listed == [made]
    assert (made["has_key"], made["base_url"]) == (True, "https://api.openai.com/v1")
    assert secret not in str(made) + str(events)
    assert stored
    assert secret.encode() not in bytes(stored)
    assert problem_of(taken, 409)["code"] == "conflict"
    assert removed.status_code == 204
    problem_of(gone, 404)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "https://u:p@x/v1"}, "base_url"),
        ({"api_version": "2024-01-01"}, "api_version"),
        ({"api_key": "two words"}, "api_key"),
        ({"kind": "simulated"}, "kind"),
        ({"name": "a b"}, "name"),
    ],
)
async def test_a_provider_that_cannot_be_spoken_to_is_refused(
    change: dict[str, object], field: str, house: House
) -> None:
    """Now, not at the first call; a secret is not repeated."""
    order: dict[str, object] = {"name": "openai", "base_url": "https://api.openai.com/v1"}
    async with house.operator() as operator:
        answer = await operator.ask("POST", "/providers", order | change)
    problem = problem_of(answer, 422)
    assert problem["errors"][0]["field"] == field
    assert "two words" not in str(problem)
