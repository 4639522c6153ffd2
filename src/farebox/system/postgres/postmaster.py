"""Start, adopt and stop the server of a place.

The truth about life is a lock, not a number: the server is started holding an exclusive lock on the
place's file ``alive``, its children inherit it, and the kernel gives it back with the last of them.
So a second server can never start next to a first one or next to the orphans of a killed one, not
even where this process cannot see them (another container on the same folder).  The caller always
holds the lock of the home.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.binaries import binaries_for, environment
from farebox.system.postgres.cluster import is_disk_full
from farebox.system.postgres.configuration import Flavour, write_configuration
from farebox.system.postgres.errors import (
    BusyError,
    FolderRefusedError,
    StartFailedError,
    StartTimeoutError,
    disk_full,
    explained,
)
from farebox.system.postgres.files import (
    POLL_SECONDS,
    make_folder,
    open_private,
    read_tail,
    try_lock,
)
from farebox.system.postgres.place import Place, socket_path
from farebox.system.postgres.watch import (
    Postmaster,
    members,
    read_pid_file,
    running_postmaster,
)

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS_MAX: Final = 120.0
"""Longest wait for a server to be ready: after a crash it replays up to ``max_wal_size`` of log."""

ORPHAN_SECONDS: Final = 5.0
"""How long what is left of a killed server may take to end, and then to end when told to; as long
as PostgreSQL itself waits before it kills children in an immediate shutdown."""

STOP_SECONDS: Final = 30.0
"""Longest wait for a fast shutdown, which writes a checkpoint, before an immediate one."""

RETRY_SECONDS: Final = 0.25
"""Pause before the next try where the system still holds memory of a killed server."""

LOG_BYTES_MAX: Final = 50 * 1024 * 1024
"""Log kept; the oldest files go first, and the one in use always stays."""

LOG_FILES_MAX: Final = 200
"""Log files kept: short commands leave one each."""

LOG_LINES: Final = 12
"""How many of the last lines of its log an error about the server shows."""

_STILL_IN_USE: Final = ("is still in use", "could not bind Unix address", "already exists")
"""Words of a failed start that time alone mends."""

_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""The servers that this process started, to collect their exit; they outlive it by design."""


def bring_up(place: Place, flavour: Flavour) -> Postmaster:
    """Give the place's server, ready for connections: the running one, else a new one.

    Raises:
        StartTimeoutError: It is still starting; it goes on, and the next command adopts it.
        StartFailedError: It ended; the message has the last lines of its log.
        BusyError: Something else holds the data folder.
        BinariesMissingError: No programs that run here.
        DiskFullError: No room.
        FolderRefusedError: A folder is not as it must be.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    orphans = _Orphans(place)
    while True:
        found = _adopt(place, deadline)
        if found is not None:
            return found
        with explained(place.folder):
            life = open_private(place.alive, os.O_RDONLY)
            try:
                if try_lock(life):
                    started = _start(place, flavour, life, deadline)
                    if started is not None:
                        return started
                    time.sleep(RETRY_SECONDS)
                else:
                    orphans.outwait()
            finally:
                # Closed, not unlocked: the lock is the server's now.
                os.close(life)


def stop(place: Place) -> None:
    """Stop the server if one runs: a fast shutdown, which ends every connection.

    Raises:
        BusyError: It does not end.
    """
    running = running_postmaster(place)
    if running is None:
        return
    for order, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 2 * ORPHAN_SECONDS)):
        _signal(running.pid, order)
        if _ended(place, running.pid, patience):
            _forget(place, running)
            return
    raise BusyError(
        f"the database server (pid {running.pid}) in {place.folder} does not stop: look into "
        f"{place.logs} and at the disk under it"
    )


def is_running(place: Place, known: Postmaster) -> bool:
    """Whether the very server that was ready before still is."""
    if _exited(known.pid):
        return False
    running = running_postmaster(place)
    return running is not None and running.pid == known.pid and running.ready


def trim_logs(place: Place) -> None:
    """Remove the oldest log files beyond :data:`LOG_BYTES_MAX` and :data:`LOG_FILES_MAX`."""
    size_bytes = 0
    for number, log in enumerate(reversed(_log_files(place))):
        with suppress(OSError):
            size_bytes += log.lstat().st_size
            if number > 0 and (size_bytes > LOG_BYTES_MAX or number >= LOG_FILES_MAX):
                log.unlink()


def last_words(place: Place) -> str:
    """The last lines that the server logged, indented."""
    logs = [place.startup_log, *_log_files(place)[-1:]]
    lines = [line for log in logs for line in read_tail(log).splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-LOG_LINES:])


def _adopt(place: Place, deadline: float) -> Postmaster | None:
    """Take over a server that somebody started, when it is ready; nothing if none runs."""
    hastened = False
    while (running := running_postmaster(place)) is not None:
        if running.ready:
            if running.socket_folder in place.socket_folders and _answers(running):
                return running
            # The home has moved, or a cleaner took the socket: nobody can reach it any more.
            stop(place)
            return None
        if running.status == "stopping" and not hastened:
            # A smart shutdown would wait for clients who may be waiting for us.
            _signal(running.pid, signal.SIGINT)
            hastened = True
        if time.monotonic() > deadline:
            raise _too_late(place, running.pid)
        time.sleep(POLL_SECONDS)
    return None


def _start(place: Place, flavour: Flavour, life: int, deadline: float) -> Postmaster | None:
    """Start a new server; nothing if it is worth another try.

    Args:
        place: Whose server; its data folder is there.
        flavour: How it runs.
        life: The open file ``alive``, locked.
        deadline: When to stop waiting, in monotonic seconds.
    """
    program = binaries_for(place.owner, place.binaries).program("postgres")
    place.prepare()
    _clear_stale(place)
    main = write_configuration(place, _socket_folder(place), flavour)
    log = open_private(place.startup_log, os.O_WRONLY | os.O_TRUNC)
    try:
        child = subprocess.Popen(
            [program, "-D", place.data, "-c", f"config_file={main}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.data,
            env=environment(),
            umask=0o077,
            pass_fds=(life,),
            # Neither Ctrl-C nor a closed terminal is meant for it.
            start_new_session=True,
            **place.owner.identity(),
        )
    finally:
        os.close(log)
    _children[child.pid] = child
    while not _exited(child.pid):
        named = read_pid_file(place)
        if named is not None and named.pid == child.pid and named.ready:
            return named
        if time.monotonic() > deadline:
            raise _too_late(place, child.pid)
        time.sleep(POLL_SECONDS)
    words = last_words(place)
    if is_disk_full(words):
        raise disk_full(place.folder)
    if any(sign in words for sign in _STILL_IN_USE) and time.monotonic() < deadline:
        return None
    raise StartFailedError(f"the database server in {place.folder} did not start:{words}")


class _Orphans:
    """Patience with what is left of a killed server, in three steps: wait, order, kill."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._steps = [signal.SIGQUIT, signal.SIGKILL]
        self._until = time.monotonic() + ORPHAN_SECONDS

    def outwait(self) -> None:
        """Wait a moment; when patience ends, take the next step.

        Raises:
            BusyError: They hold the data after all steps, or are out of our sight.
        """
        if time.monotonic() > self._until:
            left = members(self._place)
            if not self._steps:
                raise BusyError(
                    f"a PostgreSQL still works in {self._place.data} "
                    f"({f'pids {left}' if left else 'where this command cannot see it'}): is this "
                    "FAREBOX_HOME open in another container or on another machine? Stop it there"
                )
            order = self._steps.pop(0)
            for pid in left:
                _signal(pid, order)
            self._until = time.monotonic() + ORPHAN_SECONDS
        time.sleep(POLL_SECONDS)


def _clear_stale(place: Place) -> None:
    """Remove the pid file of a server that is gone, which PostgreSQL would take for its number.

    Nothing lives (we hold ``alive``) and the process it names is not ours.  A file that names no
    plain pid is a single-user server's: PostgreSQL judges that itself.
    """
    if read_pid_file(place) is not None and running_postmaster(place) is None:
        (place.data / "postmaster.pid").unlink(missing_ok=True)


def _socket_folder(place: Place) -> Path:
    """The first folder that takes a socket, made and cleared of an old one.

    Raises:
        FolderRefusedError: None does.
    """
    trouble = "its path is too long for a socket"
    for folder in place.socket_folders:
        try:
            make_folder(folder, 0o700, uid=place.owner.uid, gid=place.owner.gid)
            _take_socket(folder)
        except (OSError, FolderRefusedError) as error:
            trouble = str(error)
            continue
        return folder
    raise FolderRefusedError(
        f"no folder for the database's socket ({trouble}): set FAREBOX_HOME to a short path"
    )


def _take_socket(folder: Path) -> None:
    """Clear the socket's name, and prove that this file system knows sockets at all."""
    path = socket_path(folder)
    for old in (path, path.with_name(path.name + ".lock")):
        old.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(os.fspath(path))
    path.unlink()


def _answers(running: Postmaster) -> bool:
    """Whether somebody listens at the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(socket_path(running.socket_folder)))
        except BlockingIOError:  # pragma: no cover - a full queue is an answer
            return True
        except OSError:
            return False
    return True


def _ended(place: Place, pid: int, patience: float) -> bool:
    """Wait for a server and all of its children to be gone."""
    until = time.monotonic() + patience
    life = open_private(place.alive, os.O_RDONLY)
    try:
        while True:
            _exited(pid)
            running = running_postmaster(place)
            if (running is None or running.pid != pid) and try_lock(life):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
    finally:
        os.close(life)


def _forget(place: Place, stopped: Postmaster) -> None:
    """Remove a socket folder that is not with the data; an immediate shutdown leaves a socket."""
    folder = stopped.socket_folder
    if folder not in place.socket_folders or folder.is_relative_to(place.folder):
        return
    with suppress(OSError):
        path = socket_path(folder)
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        folder.rmdir()


def _exited(pid: int) -> bool:
    """Whether a server that this process started has ended; its exit is collected."""
    child = _children.get(pid)
    if child is None or child.poll() is None:
        return False
    del _children[pid]
    return True


def _signal(pid: int, order: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, order)


def _too_late(place: Place, pid: int) -> StartTimeoutError:
    return StartTimeoutError(
        f"the database server (pid {pid}) in {place.folder} is not ready after "
        f"{START_SECONDS_MAX:.0f} s. It may be recovering and goes on: run the command again to "
        f"wait on. Its last words:{last_words(place) or ' none'}"
    )


def _log_files(place: Place) -> list[Path]:
    """The server's log files, oldest first: their names sort by time."""
    return sorted(place.logs.glob("server-*.log"))
