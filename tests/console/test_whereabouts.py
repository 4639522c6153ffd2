"""The bar adds up."""

from __future__ import annotations

from pathlib import Path

from farebox.console.whereabouts import whereabouts
from farebox.ledger.grants import Source
from farebox.storage.balance_store import read_balance
from farebox.storage.connecting import Connector
from tests.support.console_people import Payer


async def test_all_that_was_granted_is_somewhere(dsn: str, tmp_path: Path) -> None:
    """CRD-12: spent, held, left, frozen, expired and refunded are all of granted plus owed."""
    payer = Payer(dsn)
    await payer.grant("5", Source.FREE)
    await payer.grant("20")
    await payer.settle(await payer.admit("2"), 400_000, 0)
    await payer.admit("0.000000001")
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        balance = await read_balance(connection, payer.id)
    parts = {part.name: part for part in whereabouts(balance)}
    assert {name: part.amount for name, part in parts.items()} == {
        "spent": 1_000_000_000,
        "held": 1,
        "left": 23_999_999_999,
        "frozen": 0,
        "expired": 0,
        "refunded": 0,
    }
    assert (parts["spent"].x, parts["spent"].width) == (0, 40)
    assert parts["held"].width > 0, "what is there can be seen"
    assert parts["left"].x == parts["spent"].width + parts["held"].width
    assert parts["expired"].width == 0


async def test_nothing_granted_is_an_empty_bar(dsn: str) -> None:
    """A new organisation divides nothing by nothing."""
    payer = Payer(dsn)
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        balance = await read_balance(connection, payer.id)
    assert all(part.width == 0 for part in whereabouts(balance))
