"""A gateway put together: what it noted beside the money path is written when it stops."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from farebox.assembly import gateway
from farebox.kit.errors import UnavailableError
from farebox.storage.key_use_store import PostgresKeyUseStore
from tests.support.databases import TestServer
from tests.support.house import running_house
from tests.support.tenants import make_tenant

CALLS = 5


def test_a_stop_loses_no_use_of_a_key(
    postgres: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ORG-15, ANO-01: the calls of the last seconds count as a key's use and as repeats."""
    monkeypatch.setattr(gateway, "HEARTBEAT_SECONDS", 60.0)
    with postgres.database() as dsn:
        with running_house(dsn, tmp_path) as house:
            tenant = make_tenant(house, "stopping")
            for _ in range(CALLS):
                assert tenant.chat().status == 200
            assert house.query("SELECT count(*) FROM key_use") == [(0,)]
        with psycopg.connect(dsn) as connection:
            used = connection.execute(
                "SELECT key_id, used_at = (SELECT max(admitted_at) FROM call) FROM key_use"
            )
            assert used.fetchall() == [(tenant.key_id, True)]
            repeated = connection.execute("SELECT key_id, calls FROM repeated_request")
            assert repeated.fetchall() == [(tenant.key_id, CALLS)]


def test_a_stop_does_not_wait_for_a_database_that_is_away(
    postgres: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written at the end is lost in silence; the money is not part of it."""
    tried: list[int] = []

    async def away(_: PostgresKeyUseStore, uses: list[object]) -> None:
        tried.append(len(uses))
        raise UnavailableError

    monkeypatch.setattr(PostgresKeyUseStore, "note_uses", away)
    with postgres.database() as dsn, running_house(dsn, tmp_path) as house:
        assert make_tenant(house, "stopping").chat().status == 200
    assert tried == [1]
