"""Migrations: forward only, run at start under one lock, by Alembic.

Every command of Farebox that opens the database calls :func:`migrate` first; the second of two that
start together waits for the first and finds nothing left to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg

from farebox.kit.errors import IncompatibleError, UnavailableError

_LOCK: Final = 0x_FA_2E_B0_C5
"""The advisory lock's number; any number that nobody else takes."""

_FOLDER: Final = Path(__file__).parent / "migrations"


def migrate(dsn: str, *, sandbox: bool | None = None) -> str:
    """Bring the schema up to this version.

    Args:
        dsn: A libpq connection string or URL.
        sandbox: What a new database is to be; None opens an existing one as it is, and makes a
            new one a real one.

    Returns:
        The revision that the schema is at.

    Raises:
        IncompatibleError: The database is newer than this program, or is sandbox where a real one
            was asked for, or the other way round, or holds something else.
        UnavailableError: The database cannot be reached.
    """
    head = _head_revision()
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as lock:
            lock.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            if _revision(lock) != head:
                _upgrade(dsn)
            _mark(lock, sandbox=sandbox)
            lock.execute("SELECT farebox_make_partitions(farebox_now() - interval '1 month', 5)")
    except psycopg.OperationalError as error:
        first_line = str(error).partition("\n")[0]
        raise UnavailableError(f"The database cannot be reached: {first_line}") from error
    return head


def _head_revision() -> str:
    """The newest revision in the folder; files are named by number, so no Alembic is needed."""
    newest = max((_FOLDER / "versions").glob("[0-9]*.sql"))
    return newest.name.split("_", 1)[0]


def _revision(connection: psycopg.Connection[tuple[str, ...]]) -> str | None:
    row = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if version is None else version[0]


def _upgrade(dsn: str) -> None:
    # Slow to import, and needed once per version.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["dsn"] = dsn
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise IncompatibleError(
            f"The database was made by another version of Farebox ({error}); "
            "run the newer version, it never goes back."
        ) from error
    except psycopg.ProgrammingError as error:
        raise IncompatibleError(
            f"The schema could not be brought up to this version ({error}) and was left as it was; "
            "give Farebox a database of its own."
        ) from error


def _mark(connection: psycopg.Connection[tuple[str, ...]], *, sandbox: bool | None) -> None:
    connection.execute(
        "INSERT INTO deployment (sandbox) VALUES (%s) ON CONFLICT DO NOTHING", (bool(sandbox),)
    )
    row = connection.execute("SELECT sandbox::text FROM deployment").fetchone()
    assert row is not None
    is_sandbox = row[0] == "true"
    if sandbox is not None and is_sandbox != sandbox:
        raise IncompatibleError(
            "This database is a sandbox, where money is play money: start with --sandbox, or give "
            "another FAREBOX_HOME or DATABASE_URL."
            if is_sandbox
            else "This database holds real credit and cannot be opened as a sandbox: leave out "
            "--sandbox, or give another FAREBOX_HOME or DATABASE_URL."
        )
