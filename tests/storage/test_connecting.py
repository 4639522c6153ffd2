"""Connections: what every one is set to, and which servers are refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.kit.errors import IncompatibleError
from farebox.storage import connecting
from farebox.storage.connecting import Connector

GOOD = {
    "version": "160004",
    "encoding": "'UTF8'",
    "fsync": "'on'",
    "full_page_writes": "'on'",
    "data_sync_retry": "'off'",
}


def pretend(monkeypatch: pytest.MonkeyPatch, **facts: str) -> None:
    """Let the server say something else about itself."""
    said = GOOD | facts
    monkeypatch.setattr(connecting, "_FACTS", f"SELECT {', '.join(said.values())}")


async def shown(connection: psycopg.AsyncConnection[Any], setting: str) -> str:
    """One setting of a connection."""
    row = await (await connection.execute(f"SHOW {setting}".encode())).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"fsync": "'off'"}, "fsync = off.*Set fsync = on"),
        ({"full_page_writes": "'off'"}, "full_page_writes = off"),
        ({"data_sync_retry": "'on'"}, "data_sync_retry = on.*Set data_sync_retry = off"),
        ({"version": "140011"}, "PostgreSQL 14 is too old"),
        ({"encoding": "'LATIN1'"}, "LATIN1"),
    ],
)
async def test_a_server_that_may_lose_money_is_refused(
    dsn: str, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], wanted: str
) -> None:
    """ENGINE "The server it stands on": it is refused with the setting to change."""
    pretend(monkeypatch, **facts)
    with pytest.raises(IncompatibleError, match=wanted):
        await Connector(dsn, name="test").connect()


async def test_every_connection_is_checked(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "The server it stands on": after a failover the next server is checked too."""
    pretend(monkeypatch)
    connector = Connector(dsn, name="test")
    async with await connector.connect():
        pass
    pretend(monkeypatch, fsync="'off'")
    with pytest.raises(IncompatibleError):
        await connector.connect()


async def test_a_refused_server_keeps_no_connection(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "The server it stands on": whoever tries again and again leaves nothing open."""
    pretend(monkeypatch, fsync="'off'")
    for _ in range(3):
        with pytest.raises(IncompatibleError):
            await Connector(dsn, name="refused").connect()
    with psycopg.connect(dsn, autocommit=True) as look:
        names = "SELECT FROM pg_stat_activity WHERE application_name = 'farebox refused'"
        for _ in range(100):
            if look.execute(names).rowcount == 0:
                break
        assert look.execute(names).rowcount == 0


async def test_the_test_server_itself_is_refused(dsn: str) -> None:
    """ENGINE "The server it stands on": the real questions find a server without fsync."""
    with pytest.raises(IncompatibleError, match="fsync = off"):
        await Connector(dsn, name="test").connect()


async def test_whatever_the_database_says_batches_find_their_settings(dsn: str) -> None:
    """ENGINE "A batch": isolation, timeouts, durability and formats do not depend on the server."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as owner:
        for setting, value in {
            "default_transaction_isolation": "serializable",
            "synchronous_commit": "off",
            "timezone": "Asia/Kolkata",
            "datestyle": "German",
            "intervalstyle": "iso_8601",
            "client_encoding": "LATIN1",
            "lock_timeout": "0",
            "jit": "on",
        }.items():
            owner.execute(f"ALTER DATABASE {name} SET {setting} TO '{value}'".encode())
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        assert {setting: await shown(connection, setting) for setting in SETTINGS} == SETTINGS
        row = await (
            await connection.execute("SELECT 'é😀'::text, '{\"a\": [1]}'::jsonb, interval '1 day'")
        ).fetchone()
        assert row is not None
        assert row[:2] == ("é😀", {"a": [1]})
        assert connection.autocommit


SETTINGS = {
    "transaction_isolation": "read committed",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "client_encoding": "UTF8",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "2s",
    "statement_timeout": "1min",
    "jit": "off",
    "application_name": "farebox test",
}


@pytest.mark.parametrize(
    ("set_to", "kept"),
    [("local", "on"), ("remote_write", "remote_write"), ("remote_apply", "remote_apply")],
)
async def test_a_commit_is_never_less_than_durable(dsn: str, set_to: str, kept: str) -> None:
    """ENGINE "The server it stands on": weaker commits are raised; stronger ones stay."""
    with_option = psycopg.conninfo.make_conninfo(dsn, options=f"-c synchronous_commit={set_to}")
    async with await Connector(with_option, name="test", durable=False).connect() as connection:
        assert await shown(connection, "synchronous_commit") == kept


async def test_an_unreachable_server_is_the_drivers_error(dsn: str) -> None:
    """ENGINE "Idempotency": no server at all is the one error that callers map to "away"."""
    nowhere = psycopg.conninfo.make_conninfo(dsn, host="/nonexistent")
    with pytest.raises(psycopg.OperationalError):
        await Connector(nowhere, name="test").connect()
