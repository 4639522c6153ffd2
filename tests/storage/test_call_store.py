"""Calls on PostgreSQL, explained from what the engine wrote."""

from __future__ import annotations

from typing import Any

import pytest

from farebox.kit.ids import format_id
from farebox.kit.money import parse_amount
from farebox.operations.calls import explain_call, list_calls
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.connecting import Connector
from tests.support.small_books import SmallBooks, small_books


async def explained(dsn: str, books: SmallBooks, name: str) -> dict[str, Any]:
    """The explanation of a call of that name."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        return await explain_call(
            PostgresCallStore(connection), books.calls[name], for_operator=True
        )


@pytest.mark.parametrize("name", ["settled", "beyond", "late", "returned"])
async def test_the_parts_of_a_charge_add_up(dsn: str, name: str) -> None:
    """DED-04, DED-07: lines, draws and postings of a call each add up to its charge."""
    books = await small_books(dsn)
    call = await explained(dsn, books, name)
    charge = parse_amount(call["charge"])
    assert charge > 0
    assert sum(parse_amount(line["amount"]) for line in call["lines"]) == charge
    assert sum(parse_amount(draw["amount"]) for draw in call["draws"]) == charge
    posted = [parse_amount(posting["entries"].get("revenue", "0")) for posting in call["postings"]]
    assert -sum(posted) == charge
    assert call["price"]["id"] == format_id("price", books.traffic.price_id)
    assert call["price"]["source"] == "operator"


async def test_a_closed_call_shows_all_that_is_known(dsn: str) -> None:
    """ATT-01: who, what, how much and when; the decision with the figures of each limit."""
    books = await small_books(dsn)
    call = await explained(dsn, books, "settled")
    tenant = books.tenant
    assert call["id"] == format_id("req", books.calls["settled"])
    assert call["status"] == "settled"
    assert call["organization_id"] == str(tenant.id)
    assert call["organization"]["name"] == tenant.name
    assert call["project"] == {"id": format_id("proj", tenant.project_id), "name": "search"}
    assert call["key"] == {
        "id": format_id("key", tenant.key_id),
        "name": "laptop",
        "prefix": "fb-",
    }
    assert call["attribution"]["user"] == "u1"
    assert call["attribution"]["feature"] == "search"
    assert call["attribution"]["tags"] == {"team": "blue"}
    assert (call["model"], call["lane"], call["currency"]) == ("gpt-5.4", "standard", "USD")
    assert call["decision"]["needed"] == call["hold"]["amount"] == "0.01"
    assert call["decision"]["available"] == "1.03"
    (limit,) = call["decision"]["limits"]
    assert (limit["scope"], limit["period"], limit["maximum"]) == (
        "organization",
        "month",
        "100.00",
    )
    assert limit["left"] == "100.00"
    assert call["http_status"] == 200
    assert call["ended_at"] >= call["admitted_at"] > "2026-03-01"
    assert call["operator"]["upstream_account"] == "main"
    assert call["draws"][0]["source"] == "free"
    assert call["draws"][0]["reference"] == "order 1"


async def test_late_returned_and_open_calls_show_what_is_special(dsn: str) -> None:
    """CRD-11: a late change, the breakage of a returned earmark, a hold's own earmarks."""
    books = await small_books(dsn)
    late = await explained(dsn, books, "late")
    assert late["status"] == "late"
    assert parse_amount(late["late_change"]["charge"]) < 0
    assert [posting["kind"] for posting in late["postings"]] == ["calls", "late"]

    returned = await explained(dsn, books, "returned")
    assert [posting["kind"] for posting in returned["postings"]] == ["calls", "breakage"]
    assert returned["postings"][1]["grant_id"] == format_id("grant", books.free)

    running = await explained(dsn, books, "open")
    assert (running["status"], running["charge"], running["ended_at"]) == ("open", "0.00", None)
    (earmark,) = running["hold"]["earmarks"]
    assert earmark["grant_id"] == format_id("grant", books.purchased)
    assert earmark["amount"] == running["hold"]["amount"] == "0.01"
    assert running["hold"]["latest_end"] > running["admitted_at"]
    assert running["operator"]["node_id"] == format_id("node", books.traffic.node_id)
    assert running["draws"] == []


async def test_progress_of_a_running_call_is_shown(dsn: str) -> None:
    """What a stream has used so far is there before it ends."""
    books = await small_books(dsn)
    books.traffic.sql("UPDATE hold SET progress = '{5000,4000,7,9}'")
    call = await explained(dsn, books, "open")
    assert call["hold"]["metered_so_far"] == "0.000005"
    assert (call["usage"]["input_tokens"], call["usage"]["output_tokens"]) == (7, 9)


async def test_a_call_is_explained_though_its_names_are_gone(dsn: str) -> None:
    """A grant, a price or a limit that is no longer there does not hide the charge."""
    books = await small_books(dsn)
    books.traffic.sql("DELETE FROM price_version")
    books.traffic.sql("DELETE FROM credit_grant WHERE id = %s", books.free)
    books.traffic.sql("UPDATE call SET limit_figures = NULL, key_id = id, tags = NULL")
    call = await explained(dsn, books, "settled")
    assert call["price"] == {"id": format_id("price", books.traffic.price_id)}
    assert call["draws"][0]["source"] == "unknown"
    assert call["draws"][0]["amount"] == call["charge"]
    assert call["decision"]["limits"] == []
    assert call["key"]["name"] is None
    assert call["attribution"]["tags"] == {}


async def test_calls_of_others_are_not_listed(dsn: str) -> None:
    """A list has one organisation's calls and nothing else."""
    books = await small_books(dsn)
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        store = PostgresCallStore(connection)
        rows, _ = await list_calls(store, books.tenant.id)
        assert len(rows) == len(books.calls)
        assert await list_calls(store, books.tenant.project_id) == ([], None)
