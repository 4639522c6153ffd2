"""The management plane's migration, over a database that was in use before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from farebox.operations.audit_log import verify_log
from farebox.storage import migrate as migrating
from farebox.storage.audit_log_store import PostgresAuditLog
from farebox.storage.connecting import Connector
from farebox.storage.key_store import find_key, find_management_key
from farebox.storage.migrate import migrate
from tests.support.databases import TestServer

VERSIONS = Path(migrating.__file__).parent / "migrations/versions"

BEFORE = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0002');
INSERT INTO deployment (sandbox) VALUES (true);
INSERT INTO organization (id, name) VALUES (gen_random_uuid(), 'Acme');
INSERT INTO project (id, organization_id, name, default_output_tokens)
    SELECT gen_random_uuid(), id, 'web', 512 FROM organization;
INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)
    SELECT gen_random_uuid(), organization_id, id, 'k', sha256('key'), 'fbx' FROM project;
INSERT INTO management_key (id, name, digest, prefix)
    VALUES (gen_random_uuid(), 'ops', sha256('ops'), 'fbx');
INSERT INTO console_user (id, email, password_hash)
    VALUES (gen_random_uuid(), 'ada@example.org', 'x'), (gen_random_uuid(), 'bob@b.org', 'x');
"""


@pytest.fixture
def used(postgres: TestServer) -> Iterator[str]:
    """A database at version 0002, with somebody in it."""
    with postgres.database() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
            for name in ("0001_foundation.sql", "0002_scoped_limits.sql"):
                connection.execute((VERSIONS / name).read_text().encode())
            connection.execute(BEFORE.encode())
        yield dsn


async def test_whoever_could_do_something_still_can(used: str) -> None:
    """Logins and management keys saw everything: they are operators; projects allow every model."""
    migrate(used)
    async with await Connector(used, name="test", durable=False).connect() as connection:
        cursor = await connection.execute("SELECT bool_and(operator), count(*) FROM console_user")
        assert await cursor.fetchone() == (True, 2)
        cursor = await connection.execute("SELECT sha256('key'), sha256('ops')")
        row = await cursor.fetchone()
        assert row is not None
        key, manager = (
            await find_key(connection, row[0]),
            await find_management_key(connection, row[1]),
        )
        assert key is not None
        assert (key.default_output_tokens, key.allowed_models, key.output_tokens_max) == (
            *(512, None),
            None,
        )
        assert key.plan_id is None
        assert manager is not None
        assert (manager.organization_id, manager.role, manager.expires_at) == (None, None, None)
        report = await verify_log(PostgresAuditLog(connection))
        assert (report.is_whole, report.checked) == (True, 0)
