"""Migrations: forward only, once, under one lock, and never over somebody else's money."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from farebox.kit.errors import IncompatibleError, UnavailableError
from farebox.kit.ids import uuid7
from farebox.ledger.commands import Admitted, Closed
from farebox.storage import migrate as migrating
from farebox.storage.migrate import migrate
from tests.support.shop import Shop

FOLDER = Path(migrating.__file__).parent / "migrations"

WHOLE = "SELECT a.xmin::text, d.xmin::text, a.*, d.* FROM alembic_version a, deployment d"

Row = tuple[object, ...]


def rows(dsn: str, sql: str, *parameters: object) -> list[Row]:
    """What a statement answers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


# --- once, forward, and no other's -----------------------------------------------------------


def test_two_that_start_together_make_one_schema(empty: str) -> None:
    """DESIGN 1: whoever starts first migrates; the others wait and find nothing left to do."""
    program = (
        "import sys; from farebox.storage.migrate import migrate;"
        " print(migrate(sys.argv[1], sandbox=True))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    head = migrating._head_revision()
    assert [out.decode().strip() for out, _ in said] == [head, head]
    assert rows(empty, "SELECT version_num FROM alembic_version") == [(head,)]
    assert rows(empty, "SELECT sandbox, clock_offset = '0' FROM deployment") == [(True, True)]


def test_the_second_run_changes_nothing(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 1: a database that is up to date is opened without Alembic, and left as it is."""

    def too_much(dsn: str) -> None:
        raise AssertionError(dsn)

    monkeypatch.setattr(migrating, "_upgrade", too_much)
    before = rows(dsn, WHOLE)
    assert migrate(dsn, sandbox=True) == migrate(dsn) == migrating._head_revision()
    assert rows(dsn, WHOLE) == before


def test_a_newer_database_is_refused(dsn: str) -> None:
    """DESIGN 1: an older program never touches the schema of a newer one."""
    rows(dsn, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(IncompatibleError, match="newer version"):
        migrate(dsn, sandbox=True)
    assert rows(dsn, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_somebody_elses_database_is_left_as_it_was(empty: str) -> None:
    """DESIGN 1: a migration that fails leaves nothing behind and says what to do."""
    rows(empty, "CREATE TABLE hold (a int)")
    with pytest.raises(IncompatibleError, match="of its own"):
        migrate(empty, sandbox=True)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    left = {row[0] for row in rows(empty, tables)}
    assert left <= {"hold", "alembic_version"}
    rows(empty, "DROP TABLE hold")
    assert migrate(empty, sandbox=True) == migrating._head_revision()


def test_play_money_and_real_money_never_meet(dsn: str, empty: str) -> None:
    """DESIGN 13: a sandbox is not opened as a real database, nor the other way round."""
    with pytest.raises(IncompatibleError, match="is a sandbox"):
        migrate(dsn, sandbox=False)
    migrate(dsn, sandbox=None)
    # A new one that nobody asked to be a sandbox is real.
    migrate(empty)
    with pytest.raises(IncompatibleError, match="real credit"):
        migrate(empty, sandbox=True)
    with pytest.raises(psycopg.errors.CheckViolation):
        rows(empty, "UPDATE deployment SET clock_offset = '1 day'")


def test_a_database_that_is_away_is_said_to_be_away(dsn: str) -> None:
    """DESIGN 1: no server is an error in one sentence, whoever starts."""
    with pytest.raises(UnavailableError, match="cannot be reached"):
        migrate(psycopg.conninfo.make_conninfo(dsn, host="/nonexistent"))


def test_migrations_have_one_head_and_no_way_back() -> None:
    """DESIGN 1: one line of migrations, each with its SQL beside it, forward only."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    (head,) = script.get_heads()
    assert head == migrating._head_revision()
    revisions = list(script.walk_revisions())
    for number, revision in enumerate(reversed(revisions), 1):
        assert revision.revision == f"{number:04}"
        assert Path(revision.path).with_suffix(".sql").is_file()
        downgrade: Callable[[], None] = revision.module.downgrade
        with pytest.raises(NotImplementedError, match="backup"):
            downgrade()


# --- partitions --------------------------------------------------------------------------------


def partitions(dsn: str, parent: str) -> set[str]:
    """The months that a table has."""
    found = rows(
        dsn,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass",
        parent,
    )
    return {str(row[0]) for row in found}


def month(dsn: str, ahead: int) -> str:
    """A month from now, as partitions are named."""
    text = (
        "to_char((clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => %s), 'YYYY_MM')"
    )
    ((name,),) = rows(dsn, f"SELECT {text}", ahead)
    return str(name)


def test_the_coming_months_are_there(dsn: str) -> None:
    """ENGINE "Idempotency": calls are kept by the month of their id; months are made ahead."""
    for parent in ("call", "refusal"):
        expected = {f"{parent}_{month(dsn, ahead)}" for ahead in range(-1, 4)}
        assert partitions(dsn, parent) == expected | {f"{parent}_default"}


def test_a_months_ends_are_the_ids_of_its_instants(dsn: str) -> None:
    """ENGINE "Idempotency": an id of a month's first and last instant lies in that month."""
    start = datetime(2031, 3, 1, tzinfo=UTC)
    end = datetime(2031, 3, 31, 23, 59, 59, 999000, tzinfo=UTC)
    rows(dsn, "SELECT farebox_make_partitions(%s, 1)", start)
    bounds = "SELECT farebox_uuid_floor(%s), farebox_uuid_floor(%s + interval '1 millisecond')"
    ((low, high),) = rows(dsn, bounds, start, end)
    first, last = uuid7(start, bytes(10)), uuid7(end, b"\xff" * 10)
    assert isinstance(low, UUID)
    assert isinstance(high, UUID)
    assert low <= first < last < high


async def test_a_call_of_a_far_future_clock_is_found_and_moves(shop: Shop) -> None:
    """ENGINE "Idempotency": an id from a node whose clock runs ahead meets its row all the same.

    When its month comes, the row moves into it, and is still the same call.
    """
    ahead = datetime(2031, 6, 15, tzinfo=UTC)
    call = shop.till.admit(10, call_id=uuid7(ahead, bytes(10)))
    settle = shop.till.settle(call, 4)
    await shop.run(shop.till.grant(100))
    assert isinstance(await shop.run(call), Admitted)
    assert isinstance(await shop.run(settle), Closed)
    assert shop.sql("SELECT tableoid::regclass::text FROM call") == [("call_default",)]
    assert (await shop.run(settle, resent=True)).exists
    whole = shop.sql("SELECT * FROM call")
    assert shop.sql("SELECT farebox_make_partitions(%s, 2)", ahead) == [(4,)]
    assert shop.sql("SELECT farebox_make_partitions(%s, 2)", ahead) == [(0,)]
    assert shop.sql("SELECT tableoid::regclass::text FROM call") == [("call_2031_06",)]
    assert shop.sql("SELECT * FROM call") == whole
    assert (await shop.run(settle, resent=True)).exists
    assert (await shop.run(call, resent=True)).code == "hold_closed"


def test_a_month_made_later_is_as_the_others(dsn: str) -> None:
    """ENGINE "Idempotency": the same columns, keys and indexes, so that replays are as fast."""
    rows(dsn, "SELECT farebox_make_partitions('2031-06-01Z', 1)")
    shape = (
        "SELECT regexp_replace(pg_get_indexdef(indexrelid), 'call_[0-9a-z_]+', 'x', 'g'),"
        " indisprimary FROM pg_index WHERE indrelid = %s::regclass ORDER BY 1"
    )
    assert rows(dsn, shape, "call_2031_06") == rows(dsn, shape, "call_default")
    attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'call_organization'::regclass"
    ((indexes,),) = rows(dsn, attached)
    assert indexes == len(partitions(dsn, "call"))
