"""Databases for tests: one throw-away server per test process, a fresh database per test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from farebox.storage.migrate import migrate
from farebox.system.postgres.server import RunningServer
from farebox.system.postgres.throwaway import throwaway

_numbers = itertools.count(1)


class TestServer:
    """A server with a migrated template from which fresh databases are made."""

    __test__ = False

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        migrate(server.dsn, sandbox=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh, migrated sandbox database; gives its connection string."""
        name = f"t{next(_numbers)}"
        admin = psycopg.conninfo.make_conninfo(self._server.dsn, dbname="postgres")
        with psycopg.connect(admin, autocommit=True) as connection:
            # Copying files is a third faster than sending every page through the log.
            statement = f"CREATE DATABASE {name} TEMPLATE farebox STRATEGY FILE_COPY"
            connection.execute(statement.encode())
        try:
            yield psycopg.conninfo.make_conninfo(self._server.dsn, dbname=name)
        finally:
            with psycopg.connect(admin, autocommit=True) as connection:
                _drop(connection, name)


def _drop(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    for pause in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        try:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        except psycopg.errors.InsufficientPrivilege:
            # The server is vacuuming it, and only a superuser may interrupt that.
            time.sleep(pause)
        else:
            return
    raise AssertionError(f"{name} cannot be dropped")


@contextmanager
def running_test_server(directory: Path) -> Iterator[TestServer]:
    """Start a server and stop it afterwards."""
    server = throwaway(directory)
    try:
        yield TestServer(server)
    finally:
        server.release()
