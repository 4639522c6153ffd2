"""A running server in somebody's hands: how to reach it, see to it and let go of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import quote

from farebox.system.postgres.binaries import binaries_for
from farebox.system.postgres.configuration import DATABASE, USER, Flavour
from farebox.system.postgres.place import PORT, Place
from farebox.system.postgres.postmaster import bring_up, is_running, last_words, trim_logs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from farebox.system.postgres.watch import Postmaster


class Custody(Protocol):
    """Who answers for the server: all commands on a folder together, or one test alone."""

    def guard(self) -> AbstractContextManager[None]:
        """Keep every other process from starting or stopping the server meanwhile."""

    def started(self, postmaster: Postmaster) -> None:
        """Note which process the server is now."""

    def depart(self) -> None:
        """Let go, and stop the server if nobody else needs it."""


class RunningServer:
    """The bundled PostgreSQL, running.

    Made by :func:`~farebox.system.postgres.launcher.launch` or
    :func:`~farebox.system.postgres.throwaway.throwaway`.  All methods block; call them before the
    event loop starts, or in a thread.
    """

    def __init__(self, place: Place, flavour: Flavour, custody: Custody) -> None:
        """Bring the server up; the caller holds the custody's guard."""
        self._place = place
        self._flavour = flavour
        self._custody = custody
        self._launched_by = os.getpid()
        self._postmaster = self._bring_up()
        self._released = False

    @property
    def dsn(self) -> str:
        """Where psycopg finds it: a URL over the UNIX socket, as role and database ``farebox``.

        It holds no secret (the kernel tells the server who we are) and stays the same when
        :meth:`ensure_running` had to start the server again.
        """
        return self.conninfo()

    def conninfo(self, *, database: str = DATABASE, user: str = USER) -> str:
        """A URL for another database, or for the superuser ``postgres``."""
        folder = quote(os.fspath(self._postmaster.socket_folder), safe="")
        return f"postgresql://{quote(user)}@/{quote(database)}?host={folder}&port={PORT}"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._postmaster.pid

    @property
    def folder(self) -> Path:
        """The folder that holds the data folder, the logs and the configuration."""
        return self._place.folder

    @property
    def os_user(self) -> str:
        """The OS user that the server runs as."""
        return self._place.owner.name

    @property
    def programs(self) -> Path:
        """The folder with ``psql``, ``pg_dump`` and ``pg_restore`` of the server's version."""
        return binaries_for(self._place.owner, self._place.binaries).programs

    @property
    def last_words(self) -> str:
        """The last lines of the server's log, for a person to read."""
        return last_words(self._place)

    def ensure_running(self) -> bool:
        """Start the server again if it was killed; cheap when it was not.

        A long-running process calls this when its connections break, and every few seconds: it
        also keeps the logs within their bound.

        Returns:
            Whether it had to be started (by us, or by another command meanwhile).

        Raises:
            BundledPostgresError: As :func:`~farebox.system.postgres.launcher.launch`.
        """
        assert not self._released, "the server was released"
        trim_logs(self._place)
        if is_running(self._place, self._postmaster):
            return False
        before = self._postmaster.pid
        with self._custody.guard():
            self._postmaster = self._bring_up()
        return self._postmaster.pid != before

    def release(self) -> None:
        """Say that this process needs the server no more; the last to say so stops it.

        Calling it again, or in a process forked from the one that launched, does nothing.

        Raises:
            BusyError: The server does not stop, or another command keeps the lock.
        """
        if self._released or os.getpid() != self._launched_by:
            return
        self._released = True
        self._custody.depart()

    def _bring_up(self) -> Postmaster:
        postmaster = bring_up(self._place, self._flavour)
        self._custody.started(postmaster)
        trim_logs(self._place)
        return postmaster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
