"""The console's reads are of one instant; its sessions do not pile up; a lost server is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.kit.errors import NotFoundError, UnavailableError
from farebox.kit.ids import format_id
from farebox.storage import console_store
from farebox.storage.connecting import Connector
from farebox.storage.console_store import PostgresConsoleStore
from farebox.storage.node_store import Pool
from tests.support.console_people import Payer

HOUR = timedelta(hours=1)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """A pool that gives up soon."""
    connector = Connector(dsn, name="test", durable=False)
    pool: Pool = AsyncConnectionPool(
        dsn,
        kwargs={"autocommit": True},
        configure=connector.configure,
        check=AsyncConnectionPool.check_connection,
        min_size=1,
        timeout=0.5,
        open=False,
    )
    async with pool:
        yield pool


@pytest.fixture
def store(pool: Pool) -> PostgresConsoleStore:
    """The store."""
    return PostgresConsoleStore(pool)


def person(dsn: str, email: str = "ada@example.org", *, operator: bool = True) -> UUID:
    """Somebody."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        row = sql.execute(
            "INSERT INTO console_user (id, email, password_hash, operator)"
            " VALUES (gen_random_uuid(), %s, 'x', %s) RETURNING id",
            (email, operator),
        ).fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


async def test_a_person_has_so_many_sessions(
    store: PostgresConsoleStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest stay; a script that signs in again and again does not fill the table."""
    monkeypatch.setattr(console_store, "SESSIONS_PER_PERSON_MAX", 3)
    whose = person(dsn)
    for number in range(5):
        await store.open_session(bytes([number]) * 32, whose, lasts=HOUR)
    found = [await store.find_session(bytes([number]) * 32) for number in range(5)]
    assert [session is not None for session in found] == [False, False, True, True, True]


async def test_a_session_is_found_until_it_ends(store: PostgresConsoleStore, dsn: str) -> None:
    """By its digest, with whose it is; not after its end, and not after it was ended."""
    whose = person(dsn)
    await store.open_session(bytes(32), whose, lasts=HOUR)
    found = await store.find_session(bytes(32))
    assert found is not None
    assert (found.person_id, found.email) == (whose, "ada@example.org")
    await store.end_session(bytes(32))
    await store.end_session(bytes(32))
    assert await store.find_session(bytes(32)) is None
    await store.open_session(bytes(32), whose, lasts=timedelta(0))
    assert await store.find_session(bytes(32)) is None


async def test_holds_add_up_to_what_is_held(store: PostgresConsoleStore, dsn: str) -> None:
    """ENGINE.md: the balance and the holds of a view are of one instant."""
    payer = Payer(dsn)
    await payer.grant("5")
    for amount in ("0.1", "0.25", "0.000000001"):
        await payer.admit(amount)
    view = await store.view_organization(person(dsn), payer.id, holds=10, calls=10)
    assert view.balance.held == sum(hold.amount for hold in view.holds) == 350_000_001
    assert view.holds_count == 3
    assert view.calls == ()


async def test_open_calls_do_not_push_closed_ones_out(
    store: PostgresConsoleStore, dsn: str
) -> None:
    """However many calls are running, the last ones that ended are listed."""
    payer = Payer(dsn)
    await payer.grant("5")
    ended = await payer.admit("0.1")
    await payer.settle(ended, 10, 10)
    for _ in range(5):
        await payer.admit("0.1")
    view = await store.view_organization(person(dsn), payer.id, holds=2, calls=1)
    assert [call.id for call in view.calls] == [ended]
    assert (len(view.holds), view.holds_count) == (2, 5)


async def test_an_organisation_that_is_not_there(store: PostgresConsoleStore, dsn: str) -> None:
    """NotFoundError, not an empty balance."""
    with pytest.raises(NotFoundError):
        await store.view_organization(person(dsn), UUID(int=1), holds=1, calls=1)


async def test_a_member_sees_their_own_organisations_alone(
    store: PostgresConsoleStore, dsn: str
) -> None:
    """DESIGN.md, decision 18: another tenant's page is not there, by no path; nobody's is empty."""
    mine, other = Payer(dsn, "Mine"), Payer(dsn, "Other")
    boss, ada = person(dsn, "boss@example.org"), person(dsn, operator=False)
    add = "INSERT INTO member (organization_id, user_id, role) VALUES (%s, %s, 'owner')"
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(add, (mine.id, ada))
    for whose, seen in ((ada, ["Mine"]), (boss, ["Mine", "Other"]), (UUID(int=9), [])):
        names = [each.name for each in await store.organizations(whose, limit=9)]
        assert sorted(names) == seen
        for payer in (mine, other):
            for text in (format_id("org", payer.id), "mine" if payer is mine else "OTHER"):
                found = await store.find_organization(whose, text)
                assert (found is not None) == ((payer is mine and whose == ada) or whose == boss)
    assert (await store.view_organization(ada, mine.id, holds=1, calls=1)).name == "Mine"
    with pytest.raises(NotFoundError):
        await store.view_organization(ada, other.id, holds=1, calls=1)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE console_user SET disabled_at = now() WHERE id = %s", (boss,))
    assert await store.organizations(boss, limit=9) == []


async def test_a_viewer_sees_no_single_calls(store: PostgresConsoleStore, dsn: str) -> None:
    """Their role has usage in sums alone: the page shows the balance and how many are running."""
    payer, eve = Payer(dsn), person(dsn, operator=False)
    await payer.grant("5")
    await payer.settle(await payer.admit("0.1"), 10, 10)
    await payer.admit("0.1")
    add = "INSERT INTO member (organization_id, user_id, role) VALUES (%s, %s, %s)"
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(add, (payer.id, eve, "viewer"))
        view = await store.view_organization(eve, payer.id, holds=9, calls=9)
        assert (view.holds, view.calls, view.holds_count) == ((), (), 1)
        sql.execute("UPDATE member SET role = 'developer'")
    view = await store.view_organization(eve, payer.id, holds=9, calls=9)
    assert (len(view.holds), len(view.calls)) == (1, 1)


async def test_a_server_that_is_gone_is_unavailable(store: PostgresConsoleStore, dsn: str) -> None:
    """Lost connections and refused new ones are one thing to say: the database is away."""
    await store.ping()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    admin = psycopg.conninfo.make_conninfo(dsn, dbname="postgres")
    with psycopg.connect(admin, autocommit=True) as sql:
        sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend'",
            (name,),
        )
        try:
            with pytest.raises(UnavailableError):
                await store.ping()
            with pytest.raises(UnavailableError):
                await store.find_session(bytes(32))
        finally:
            sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
