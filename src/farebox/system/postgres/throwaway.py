"""A server for one test process: fast, alone, and gone without a trace afterwards.

Its data does not survive a crash of the machine (``fsync`` off), so it lies in memory where there
is room.  A watchdog ends and deletes it when its process is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.binaries import binaries_for, environment
from farebox.system.postgres.cluster import make_data
from farebox.system.postgres.configuration import LASTING, THROWAWAY
from farebox.system.postgres.errors import explained
from farebox.system.postgres.files import POLL_SECONDS
from farebox.system.postgres.owner import Owner, closed_folder, owner_of_new_data
from farebox.system.postgres.place import Place
from farebox.system.postgres.server import RunningServer
from farebox.system.postgres.watch import members

if TYPE_CHECKING:
    from farebox.system.postgres.watch import Postmaster

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made in it is ours alone
_MEMORY_BYTES_MIN: Final = 1024**3
"""A container has 64 MB there; a test's data and its log want a few hundred."""

_QUIT_SECONDS: Final = 2.0
"""How long it may take to give its shared memory back before it is killed outright."""

_KILL_SECONDS: Final = 10.0

_WATCHDOG: Final = (
    # A line means a clean release; an end without one, that the test process was killed.
    # It may stay a zombie for ever where nobody collects orphans, hence the count.
    'read -r _ && exit; kill -QUIT "$1"; i=0; '
    'while kill -0 "$1" && [ $i -lt 30 ]; do i=$((i+1)); sleep 0.1; done; rm -rf "$2"'
)


def throwaway(directory: Path, *, durable: bool = False) -> RunningServer:
    """Start a server of its own for tests: one per test process.

    Args:
        directory: Where it may live if memory has no room for it; made if it is not there.
        durable: Run it with the settings of a kept one, for tests that kill things.

    Raises:
        BundledPostgresError: It cannot be started.
    """
    owner = owner_of_new_data()
    folder = _folder(directory, owner)
    place = Place(folder, owner)
    custody = _SoleCustody(place)
    try:
        with explained(folder):
            binaries = binaries_for(owner, place.binaries)
            place.prepare()
            make_data(place, binaries, lasting=False)
        return RunningServer(place, LASTING if durable else THROWAWAY, custody)
    except BaseException:
        custody.depart()
        raise


def _folder(directory: Path, owner: Owner) -> Path:
    """A new folder in memory, else in the directory, else where the owner can go."""
    bases = [_MEMORY, directory.resolve(), Path(tempfile.gettempdir()).resolve()]
    for base in bases:
        if base == _MEMORY and not _roomy(base):
            continue
        if base == bases[1]:
            base.mkdir(parents=True, exist_ok=True)
        if owner.lent and closed_folder(base, owner):
            continue
        with explained(base):
            folder = Path(tempfile.mkdtemp(prefix="fbx-", dir=base))
            if owner.lent:
                # The watchdog deletes it as the owner.
                os.chown(folder, owner.uid, owner.gid)
            return folder
    raise AssertionError(f"{bases[-1]} is closed to {owner.name}")


def _roomy(base: Path) -> bool:
    try:
        return os.access(base, os.W_OK) and shutil.disk_usage(base).free >= _MEMORY_BYTES_MIN
    except OSError:
        return False


class _SoleCustody:
    """One test process, and nobody else."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._watchdog: subprocess.Popen[bytes] | None = None

    def guard(self) -> AbstractContextManager[None]:
        """Nobody to keep away."""
        return nullcontext()

    def started(self, postmaster: Postmaster) -> None:
        """Set a watchdog on the new process."""
        self._call_off()
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(postmaster.pid), self._place.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **self._place.owner.identity(),
        )

    def depart(self) -> None:
        """Kill the server and delete its folder."""
        self._call_off()
        began = time.monotonic()
        while pids := members(self._place):
            waited = time.monotonic() - began
            assert waited < _KILL_SECONDS, f"{pids} survive SIGKILL"
            order = signal.SIGQUIT if waited < _QUIT_SECONDS else signal.SIGKILL
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, order)
            time.sleep(POLL_SECONDS)
        shutil.rmtree(self._place.folder)
        for folder in self._place.socket_folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _call_off(self) -> None:
        if self._watchdog is not None:
            self._watchdog.communicate(b"\n")
            self._watchdog = None
