"""Tenants on PostgreSQL: what the database itself must say no to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.tenants import (
    NewOrganization,
    NewProject,
    OrganizationChange,
    OrganizationProfile,
)
from farebox.storage.audit_log_store import PostgresAuditLog
from farebox.storage.connecting import Connector
from farebox.storage.tenancy_store import (
    PostgresTenantStore,
    advance_clock,
    find_console_user,
    put_console_user,
    read_console_user,
    read_deployment,
)

Connection = AsyncConnection[tuple[Any, ...]]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """A connection to an empty sandbox."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield connection


@pytest.fixture
def store(connection: Connection) -> PostgresTenantStore:
    """The store on it."""
    return PostgresTenantStore(connection)


async def make(
    store: PostgresTenantStore, number: int = 1, name: str = "Acme"
) -> OrganizationProfile:
    """Add an organisation with everything other than usual."""
    return await store.insert_organization(
        NewOrganization(
            id=UUID(int=number),
            name=name,
            currency="EUR",
            zone="Europe/Berlin",
            floor=Nanos(7),
            on_overrun=OnOverrun.OWE,
            on_lapse=OnLapse.CEILING,
        )
    )


async def test_an_organisation_comes_back_as_it_was_made(store: PostgresTenantStore) -> None:
    """DED-19: it is prepaid; everything else is as it was given."""
    made = await make(store)
    assert made.billing_mode == "prepaid"
    assert (made.currency, made.zone, made.floor) == ("EUR", "Europe/Berlin", 7)
    assert (made.on_overrun, made.on_lapse, made.active) == (OnOverrun.OWE, OnLapse.CEILING, True)
    assert await store.organizations(limit=9) == [made]
    assert await store.organizations(name="aCmE", limit=9) == [made]
    assert await store.organizations(after=made.id, limit=9) == []


async def test_a_name_is_taken_in_whatever_case(store: PostgresTenantStore) -> None:
    """The error names the organisation that has it."""
    made = await make(store)
    with pytest.raises(ConflictError, match=made.id.hex):
        await make(store, 2, "ACME")
    await make(store, 2, "Other")
    with pytest.raises(ConflictError, match=made.id.hex):
        await store.change_organization(UUID(int=2), OrganizationChange(name="acme"))


async def test_only_what_is_given_changes(store: PostgresTenantStore) -> None:
    """A change leaves the rest of the row as it is."""
    made = await make(store)
    changed = await store.change_organization(made.id, OrganizationChange(active=False))
    assert changed.active is False
    assert (changed.name, changed.zone, changed.floor) == (made.name, made.zone, made.floor)
    with pytest.raises(NotFoundError):
        await store.change_organization(UUID(int=99), OrganizationChange(active=False))


async def test_a_project_is_of_one_organisation(store: PostgresTenantStore) -> None:
    """Names are unique inside an organisation and free outside it."""
    await make(store)
    await make(store, 2, "Other")

    def project(number: int, organization: int) -> NewProject:
        return NewProject(
            id=UUID(int=number),
            organization_id=UUID(int=organization),
            name="web",
            environment="production",
            default_output_tokens=5,
        )

    first = await store.insert_project(project(11, 1))
    second = await store.insert_project(project(12, 2))
    assert (first.organization_name, second.organization_name) == ("Acme", "Other")
    assert (first.default_output_tokens, first.archived_at) == (5, None)
    with pytest.raises(ConflictError, match=first.id.hex):
        await store.insert_project(project(13, 1))
    with pytest.raises(NotFoundError):
        await store.insert_project(project(13, 99))
    assert await store.projects(name="WEB", limit=9) == [first, second]
    assert await store.projects(organization_id=UUID(int=2), limit=9) == [second]
    assert await store.projects(after=first.id, limit=9) == [second]


async def test_a_sandboxs_clock_moves_forwards(
    connection: Connection, store: PostgresTenantStore
) -> None:
    """DESIGN.md, decision 17: the clock is the database's plus an offset, in a sandbox only."""
    before = await store.now()
    moved = await advance_clock(connection, timedelta(days=31))
    assert moved.clock_offset == timedelta(days=31)
    assert moved.now - before >= timedelta(days=31)
    assert await read_deployment(connection) != moved  # time goes on
    with pytest.raises(RefusedError) as caught:
        await advance_clock(connection, timedelta(days=100_000))
    assert caught.value.reason == "end_of_time"
    await connection.execute("UPDATE deployment SET clock_offset = '0'")
    await connection.execute("UPDATE deployment SET sandbox = false")
    with pytest.raises(RefusedError) as caught:
        await advance_clock(connection, timedelta(days=1))
    assert caught.value.reason == "not_a_sandbox"


async def test_a_person_has_one_password_and_a_new_one_ends_their_sessions(
    connection: Connection,
) -> None:
    """The same address in another case is the same person."""
    first = await put_console_user(
        connection, user_id=UUID(int=1), email="A@example.org", password_hash="old"
    )
    await connection.execute(
        "INSERT INTO console_session (digest, user_id, expires_at) VALUES (%s, %s, now())",
        (bytes(32), first),
    )
    again = await put_console_user(
        connection, user_id=UUID(int=2), email="a@EXAMPLE.org", password_hash="new"
    )
    assert again == first == UUID(int=1)
    found = await find_console_user(connection, "a@example.ORG")
    assert found is not None
    assert found.password_hash == "new"
    assert await read_console_user(connection, first) == found
    assert await find_console_user(connection, "b@example.org") is None
    assert await read_console_user(connection, UUID(int=2)) is None
    cursor = await connection.execute("SELECT count(*) FROM console_session")
    assert await cursor.fetchone() == (0,)


async def test_a_new_password_opens_a_closed_login_and_the_log_says_so(
    connection: Connection,
) -> None:
    """ORG-14: whoever comes back is not taken for somebody who only forgot a password."""
    person = await put_console_user(
        connection, user_id=UUID(int=1), email="a@example.org", password_hash="old"
    )
    await connection.execute("UPDATE console_user SET disabled_at = now()")
    for _ in range(2):
        await put_console_user(
            connection, user_id=UUID(int=2), email="a@example.org", password_hash="new"
        )
    events = await PostgresAuditLog(connection).events(
        subject_id=format_id("user", person), limit=9
    )
    told = [(event.action, "reopened" in str(event.after)) for event in events]
    assert told == [
        ("user.password_set", False),
        ("user.password_set", True),
        ("user.created", False),
    ]
