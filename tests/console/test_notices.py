"""UXF-05: expired, used up, owed, held, frozen and not begun are said each by its own name."""

from __future__ import annotations

from datetime import timedelta
from os import urandom
from uuid import UUID

import psycopg
import pytest

from farebox.assembly.database import open_pool
from farebox.console.notices import notices
from farebox.kit.money import Nanos
from farebox.ledger.commands import Correct, Dispute, DisputeStep, GrantCredit, SetFloor
from farebox.ledger.grants import Source
from farebox.storage.connecting import Connector
from farebox.storage.console_store import PostgresConsoleStore
from tests.support.console_people import Payer

UNIT = 1_000_000_000


async def said(payer: Payer) -> list[tuple[str, str, int | None]]:
    """Kind, title and amount of each notice."""
    pool = await open_pool(Connector(payer.dsn, name="test", durable=False), size=1)
    async with pool:
        store = PostgresConsoleStore(pool)
        view = await store.view_organization(operator(payer.dsn), payer.id, holds=1, calls=1)
    return [(notice.kind, notice.title, notice.amount) for notice in notices(view)]


def operator(dsn: str) -> UUID:
    """Somebody who may see everything, made when first asked for."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(
            "INSERT INTO console_user (id, email, password_hash, operator)"
            " VALUES (gen_random_uuid(), 'ada@example.org', 'x', true)"
            " ON CONFLICT DO NOTHING"
        )
        row = sql.execute("SELECT id FROM console_user").fetchone()
    assert row is not None
    person: UUID = row[0]
    return person


@pytest.fixture
def payer(dsn: str) -> Payer:
    """A new organisation."""
    return Payer(dsn)


async def test_no_credit_yet(payer: Payer) -> None:
    """CRD-25: a new organisation is told to get credit, not that anything is used up."""
    assert await said(payer) == [("stop", "No credit yet", None)]


async def test_enough_credit_needs_no_word(payer: Payer) -> None:
    """Nothing is the matter, nothing is said."""
    await payer.grant("5")
    assert await said(payer) == []


async def test_used_up(payer: Payer) -> None:
    """Spent credit is used up, never expired."""
    await payer.grant("1")
    await payer.settle(await payer.admit("1"), 400_000, 0)
    assert await said(payer) == [("stop", "Used up", UNIT)]


async def test_expired(payer: Payer) -> None:
    """CRD-12: credit that ended unused is expired, never used up, before any job has run."""
    await payer.grant("3", expires_in=timedelta(days=30))
    payer.advance_clock(timedelta(days=31))
    assert await said(payer) == [("stop", "Expired", 3 * UNIT)]


async def test_partly_used_up_and_partly_expired(payer: Payer) -> None:
    """Both are said, each with its own amount."""
    await payer.grant("3", expires_in=timedelta(days=30))
    await payer.settle(await payer.admit("1"), 400_000, 0)
    payer.advance_clock(timedelta(days=31))
    assert await said(payer) == [("stop", "Expired", 2 * UNIT), ("stop", "Used up", UNIT)]


async def test_held(payer: Payer) -> None:
    """DESIGN.md decision 5: blocked by open holds alone is waiting, not the end of credit."""
    await payer.grant("1")
    await payer.admit("1")
    assert await said(payer) == [("wait", "Held by open calls", UNIT)]


async def test_owed(payer: Payer) -> None:
    """A debt is said as what is owed."""
    await payer.grant("1")
    correct = Correct(
        organization_id=payer.id, command_id=_id(), amount=Nanos(3 * UNIT), note="typing error"
    )
    await payer.send(correct)
    (first, *_) = await said(payer)
    assert first == ("stop", "Owed", 2 * UNIT)


async def test_frozen(payer: Payer) -> None:
    """Credit in dispute is frozen, not gone."""
    grant_id = await payer.grant("1")
    opened = Dispute(organization_id=payer.id, grant_id=grant_id, step=DisputeStep.OPENED)
    await payer.send(opened)
    assert ("stop", "Frozen", UNIT) in await said(payer)


async def test_not_begun(payer: Payer) -> None:
    """Credit for later is neither available nor lost."""
    with psycopg.connect(payer.dsn) as sql:
        row = sql.execute("SELECT farebox_now() + interval '1 day'").fetchone()
    assert row is not None
    later = GrantCredit(
        organization_id=payer.id,
        grant_id=_id(),
        source=Source.PROMO,
        amount=Nanos(UNIT),
        effective_at=row[0],
    )
    await payer.send(later)
    assert ("wait", "Not begun", UNIT) in await said(payer)


async def test_a_floor_lets_calls_go_on(payer: Payer) -> None:
    """Where the floor still carries calls, nothing says that they are refused."""
    await payer.send(SetFloor(organization_id=payer.id, floor=Nanos(UNIT)))
    assert await said(payer) == [("know", "No credit yet", None)]


async def test_switched_off(payer: Payer) -> None:
    """An inactive organisation is told so first, whatever its balance."""
    await payer.grant("5")
    with psycopg.connect(payer.dsn, autocommit=True) as sql:
        sql.execute("UPDATE organization SET active = false WHERE id = %s", (payer.id,))
    assert await said(payer) == [("stop", "Switched off", None)]


def _id() -> UUID:
    return UUID(bytes=urandom(16))
