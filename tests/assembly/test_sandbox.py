"""The sandbox's first start makes everything, its second finds it, what is gone is made anew."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from farebox.assembly.ready import READY_FILE, read_ready, write_ready
from farebox.assembly.sandbox import CREDIT, NAME, prepare_sandbox
from farebox.kit.errors import FareboxError
from farebox.kit.ids import parse_id
from farebox.operations.administration import Administration
from farebox.storage.connecting import Connector
from farebox.storage.key_store import find_key, find_management_key, revoke_key
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.tenancy.api_keys import KeyKind, digest, kind_of


async def prepared(dsn: str, home: Path) -> dict[str, Any]:
    """Start once, and keep what was told."""
    facts = await prepare_sandbox(Connector(dsn, name="test", durable=False), home)
    write_ready(home, facts)
    return facts


async def rows(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the database."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        return await (await connection.execute(sql)).fetchall()


async def test_a_first_and_a_second_start(dsn: str, tmp_path: Path) -> None:
    """The second start finds the organisation, its money, its key and its login."""
    first = await prepared(dsn, tmp_path)
    assert kind_of(first["api_key"]) is KeyKind.TEST
    assert kind_of(first["admin_key"]) is KeyKind.ADMIN
    assert await prepared(dsn, tmp_path) == first
    for table, count in (
        ("organization", 1),
        ("project", 1),
        ("api_key", 1),
        ("management_key", 1),
        ("credit_grant", 1),
        ("provider", 1),
        ("console_user", 1),
    ):
        assert await rows(dsn, f"SELECT count(*) FROM {table}") == [(count,)], table
    assert await rows(dsn, "SELECT amount_nanos, source FROM credit_grant") == [(CREDIT, "free")]
    versions = await rows(dsn, "SELECT count(*) FROM price_version")
    await prepared(dsn, tmp_path)
    assert await rows(dsn, "SELECT count(*) FROM price_version") == versions


async def test_what_opens_nothing_any_more_is_made_anew(dsn: str, tmp_path: Path) -> None:
    """A key that was revoked, a management key that was, a file that is gone: new ones work."""
    first = await prepared(dsn, tmp_path)
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        known = await find_key(connection, digest(first["api_key"]))
        assert known is not None
        await revoke_key(connection, known.id)
        await connection.execute("UPDATE management_key SET revoked_at = now()")
        second = await prepared(dsn, tmp_path)
        assert second["api_key"] != first["api_key"]
        assert second["admin_key"] != first["admin_key"]
        assert second["login"] == first["login"]
        renewed = await find_key(connection, digest(second["api_key"]))
        assert renewed is not None
        assert renewed.revoked_at is None
        manager = await find_management_key(connection, digest(second["admin_key"]))
        assert manager is not None
        assert manager.revoked_at is None

        (tmp_path / READY_FILE).unlink()
        third = await prepared(dsn, tmp_path)
        assert third["organization_id"] == first["organization_id"]
        assert third["api_key"] not in {first["api_key"], second["api_key"]}
        assert third["login"]["password"] != first["login"]["password"]
    parse_id("org", third["organization_id"], field="organization_id")


async def test_a_first_start_that_was_broken_off(dsn: str, tmp_path: Path) -> None:
    """Killed between making the organisation and funding it, the next start funds it, once."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        administration = Administration(
            PostgresTenantStore(connection), chance=os.urandom, key_kind=KeyKind.TEST
        )
        await administration.create_organization(NAME)
    for _ in range(2):
        await prepared(dsn, tmp_path)
        assert await rows(dsn, "SELECT granted_nanos FROM organization") == [(CREDIT,)]


async def test_a_file_that_somebody_spoiled(dsn: str, tmp_path: Path) -> None:
    """Whatever is in ready.json, the start goes on."""
    for content in (b"", b"{", b"[]", b"\xff", b'{"api_key":5,"login":[]}', b'{"login":{"a":1}}'):
        (tmp_path / READY_FILE).write_bytes(content)
        facts = await prepared(dsn, tmp_path)
        assert read_ready(tmp_path) == facts


async def test_two_first_starts_at_once(dsn: str, tmp_path: Path) -> None:
    """One organisation comes of it, and whoever fails says why and can start again."""
    homes = [tmp_path / "a", tmp_path / "b"]
    found = await asyncio.gather(*(prepared(dsn, home) for home in homes), return_exceptions=True)
    assert any(isinstance(one, dict) for one in found)
    assert all(isinstance(one, dict | FareboxError) for one in found), found
    for home in homes:
        await prepared(dsn, home)
    assert await rows(dsn, "SELECT count(*) FROM organization") == [(1,)]
    assert await rows(dsn, "SELECT sum(amount_nanos)::bigint FROM credit_grant") == [(CREDIT,)]
