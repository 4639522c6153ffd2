"""PostgreSQL for measurements: the bundled server with a kept database's settings, on a disk.

It is started before anything is pinned, so the kernel chooses its cores; a server that a pinned
gateway starts would inherit the one core and share it.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psycopg

from bench.machine import filesystem
from farebox.kit.errors import InvalidInputError
from farebox.storage.migrate import migrate
from farebox.system.postgres.configuration import SUPERUSER
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.server import RunningServer

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


@contextmanager
def scratch(base: Path | None = None) -> Iterator[Path]:
    """A folder for one measurement, gone afterwards; one that is stopped still cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=base) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server runs as another user where we are root
        yield folder


def bundled(stack: ExitStack, home: Path, *, sandbox: bool = False) -> RunningServer:
    """A migrated bundled server whose commits reach a disk; released with the stack.

    Raises:
        InvalidInputError: The folder lies in memory: nothing measured there is durable.
    """
    server = launch(home)
    stack.callback(server.release)
    if (kind := filesystem(server.folder)) in IN_MEMORY:
        raise InvalidInputError("folder", f"{server.folder} is {kind}: name one on a disk")
    migrate(server.dsn, sandbox=sandbox)
    return server


def settle_down(server: RunningServer) -> None:
    """Do what loading data has left to be done, so that it does not fall into a measurement."""
    with psycopg.connect(server.conninfo(user=SUPERUSER), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
