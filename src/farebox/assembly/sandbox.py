"""The sandbox on its first start: an organisation with credit, a project, a key, and a login.

Everything in it is play money and marked as such. A second start finds what the first one made: the
secrets that are shown once lie in the home's ``ready.json``, which only its owner can read, and are
made anew where that file is gone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from farebox.assembly.console_users import make_console_user
from farebox.assembly.ready import read_ready
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import RANDOM_BYTES, format_id, uuid7
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import GrantCredit, Granted
from farebox.ledger.grants import Source
from farebox.operations.administration import Administration
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.catalogue_store import (
    NewProvider,
    changing_catalogue,
    import_prices,
    read_providers,
)
from farebox.storage.connecting import Connector
from farebox.storage.key_store import find_key, find_management_key
from farebox.storage.tenancy_store import PostgresTenantStore, find_console_user, read_deployment
from farebox.tenancy.api_keys import KeyKind, KeyState, digest

NAME: Final = "Sandbox"
PROJECT: Final = "Playground"
CREDIT: Final = Nanos(100 * NANOS_PER_UNIT)
"""Enough for twice the real traffic that `farebox replay` sends."""
PROVIDER: Final = "simulated"
PRICE_LIST: Final = "openai"
EMAIL: Final = "owner@sandbox.example"

Connection = AsyncConnection[tuple[Any, ...]]


async def prepare_sandbox(connector: Connector, home: Path) -> dict[str, Any]:
    """Make what is missing; gives the facts of ``ready.json``, without the URLs.

    Raises:
        FareboxError: Something stands in the way.
    """
    connection = await connector.connect()
    try:
        before = read_ready(home)
        await _prices(connection)
        await _provider(connection)
        administration = Administration(
            PostgresTenantStore(connection), chance=os.urandom, key_kind=KeyKind.TEST
        )
        try:
            organization = await administration.find_organization(NAME)
        except NotFoundError:
            organization = await administration.create_organization(NAME)
        await _fund(connector, organization.id)
        try:
            project = await administration.find_project(PROJECT, organization_id=organization.id)
        except NotFoundError:
            project = await administration.create_project(PROJECT, organization.id)
        now = (await read_deployment(connection)).now
        api_key = str(before.get("api_key", ""))
        known = await find_key(connection, digest(api_key))
        if known is None or known.state_at(now) is not KeyState.ACTIVE:
            api_key = (await administration.create_key("sandbox", project.id)).text
        admin_key = str(before.get("admin_key", ""))
        manager = await find_management_key(connection, digest(admin_key))
        if manager is None or manager.revoked_at is not None:
            admin_key = (await administration.create_management_key("sandbox")).text
        login = before.get("login")
        password = str(login.get("password", "")) if isinstance(login, dict) else ""
        if not password or await find_console_user(connection, EMAIL) is None:
            password = os.urandom(9).hex()
            await make_console_user(connection, EMAIL, password)
    finally:
        await connection.close()
    return {
        "api_key": api_key,
        "admin_key": admin_key,
        "organization_id": format_id("org", organization.id),
        "project_id": format_id("proj", project.id),
        "login": {"email": EMAIL, "password": password},
    }


async def _prices(connection: Connection) -> None:
    """Import the shipped price list: a second spent, then a tenth on later starts."""
    from farebox.providers.price_catalogue import import_catalogue  # noqa: PLC0415 - slow, once

    snapshot = import_catalogue()
    now = (await read_deployment(connection)).now
    await import_prices(connection, snapshot.versions, snapshot.facts, now)


async def _provider(connection: Connection) -> None:
    if any(row.name == PROVIDER for row in await read_providers(connection)):
        return
    now = (await read_deployment(connection)).now
    async with changing_catalogue(connection) as change:
        await change.add_provider(
            NewProvider(
                id=uuid7(now, os.urandom(RANDOM_BYTES)),
                name=PROVIDER,
                kind="simulated",
                price_list=PRICE_LIST,
                base_url="simulated:",
                api_version=None,
                secret=None,
                account_id=uuid7(now, os.urandom(RANDOM_BYTES)),
                account_name=PROVIDER,
            )
        )


async def _fund(connector: Connector, organization_id: UUID) -> None:
    """Give the play money, once: its id is the organisation's, however often starts are broken."""
    store = PostgresBatchStore(connector)
    try:
        grant = GrantCredit(
            organization_id=organization_id,
            grant_id=organization_id,
            source=Source.FREE,
            amount=CREDIT,
            reference="sandbox play money",
        )
        (result,) = await store.run([grant], resent=False)
        assert isinstance(result, Granted), result
    finally:
        await store.aclose()
