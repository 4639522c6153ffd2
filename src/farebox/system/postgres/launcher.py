"""The public door to the bundled PostgreSQL of a ``FAREBOX_HOME``.

::

    server = launch(home)      # attaches to the running one, or starts it
    ...                        # psycopg.connect(server.dsn)
    server.release()           # the last clean release stops it

The server belongs to the folder.  Every command registers as a user of it; one that is killed is
forgotten by the kernel, and the server it leaves behind is taken over by the next command.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.binaries import binaries_for
from farebox.system.postgres.cluster import has_data, make_data, remove_drafts
from farebox.system.postgres.configuration import LASTING
from farebox.system.postgres.errors import StartTimeoutError, explained
from farebox.system.postgres.files import exclusive, open_private, try_lock
from farebox.system.postgres.place import Place, place_of, plain_home
from farebox.system.postgres.postmaster import stop
from farebox.system.postgres.server import RunningServer

if TYPE_CHECKING:
    from pathlib import Path

    from farebox.system.postgres.watch import Postmaster

_LOCK: Final = "postgres.lock"


def launch(home: Path) -> RunningServer:
    """Attach to the home's server, or start it; make its data folder if there is none.

    Blocks for 0.1 s (start) to seconds (first start on a slow disk, recovery after a crash).

    Args:
        home: ``FAREBOX_HOME``; made if it is not there.

    Raises:
        BundledPostgresError: It cannot be used; the subclass says why, the message how to mend it.
    """
    home = plain_home(home)
    with explained(home), exclusive(home / _LOCK):
        place = place_of(home)
        if not has_data(place):
            remove_drafts(place)
            binaries = binaries_for(place.owner, place.binaries)
            place.prepare()
            make_data(place, binaries, lasting=True)
        custody = _SharedCustody(home / _LOCK, place)
        try:
            return RunningServer(place, LASTING, custody)
        except StartTimeoutError:
            custody.unregister()  # it goes on recovering; the next command adopts it
            raise
        except BaseException:
            custody.leave()
            raise


class _SharedCustody:
    """One command among the users of a folder's server."""

    def __init__(self, lock: Path, place: Place) -> None:
        """Register as a user; the caller holds the lock."""
        self._lock = lock
        self._place = place
        self._users = open_private(place.users)
        shared = try_lock(self._users, fcntl.LOCK_SH)
        assert shared, "only who holds the home's lock ever asks for the users' lock alone"

    def guard(self) -> AbstractContextManager[None]:
        """Hold the home's lock."""
        return exclusive(self._lock)

    def started(self, postmaster: Postmaster) -> None:
        """Nothing to note: the pid file knows."""

    def depart(self) -> None:
        """Leave under the lock; a home that was removed meanwhile has nobody to race with."""
        if not self._lock.parent.is_dir():
            self.leave()
            return
        with self.guard():
            self.leave()

    def leave(self) -> None:
        """Strike this command off the users; the last one stops the server."""
        alone = try_lock(self._users)
        self.unregister()
        if alone:
            stop(self._place)

    def unregister(self) -> None:
        """Strike this command off the users and leave the server as it is."""
        with suppress(OSError):
            fcntl.flock(self._users, fcntl.LOCK_UN)
        os.close(self._users)
