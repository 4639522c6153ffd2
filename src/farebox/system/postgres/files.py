"""Folders, files and locks made so that no other OS user can stand in the way.

Root works here in folders next to an unprivileged server.  Hence: no symbolic link is followed for
a name of ours, an existing folder counts only with the owner we expect, and a file changes by a
whole new file put in its place.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.errors import BusyError, FolderRefusedError
from farebox.system.postgres.owner import is_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_SECONDS_MAX: Final = 180.0
"""Longest wait for another command: it may be waiting for a recovery itself."""

POLL_SECONDS: Final = 0.01
"""Pause between two looks at a lock, a file or a process."""

TEXT_BYTES_MAX: Final = 64 * 1024
"""Most that is ever read of one of our files or logs."""


def make_folder(path: Path, mode: int, *, uid: int, gid: int) -> None:
    """Make a folder of that owner and mode, or make sure that the existing one is as we left it.

    Raises:
        FolderRefusedError: Something else stands there, or another user owns or may change it.
    """
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        check_folder(path, uid=uid)
        return
    path.chmod(mode)  # whatever the umask says
    if is_root():
        os.chown(path, uid, gid, follow_symlinks=False)


def check_folder(path: Path, *, uid: int) -> None:
    """Make sure that a folder is a real one, owned by ``uid``, and writable for nobody else.

    Raises:
        FolderRefusedError: It is not.
    """
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise FolderRefusedError(f"{path} should be a folder and is not: move it out of the way")
    if facts.st_uid != uid:
        raise FolderRefusedError(
            f"{path} belongs to uid {facts.st_uid} and should belong to uid {uid}: run farebox as "
            "the user that made it, or set FAREBOX_HOME to another folder"
        )
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FolderRefusedError(
            f"other users may change {path}: check what is in it, then `chmod go-w {path}`"
        )


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file of ours, made empty with mode 0600 if need be, for the owner of its folder."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if is_root():
        folder = path.parent.stat()
        if os.fstat(handle).st_uid != folder.st_uid:
            os.fchown(handle, folder.st_uid, folder.st_gid)
    return handle


def write_text(path: Path, text: str, mode: int) -> None:
    """Put a whole new file of that mode in the place of the old one, safe against a crash."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, mode)
        file.write(text)
        file.flush()
        os.fsync(handle)
    draft.replace(path)


def read_tail(path: Path) -> str:
    """The end of a text file; empty where there is none, or where it is not a plain file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return ""
        file.seek(max(0, facts.st_size - TEXT_BYTES_MAX))
        return file.read(TEXT_BYTES_MAX).decode("utf-8", "replace")


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def try_lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock on an open file if it can be had at once.

    The lock belongs to the open file: it lives until every process that shares it has ended or
    closed it, and the kernel gives it back however they end.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the file's lock, waiting for whoever has it.

    Raises:
        BusyError: Somebody kept it longer than :data:`LOCK_SECONDS_MAX`.
    """
    handle = open_private(path)
    try:
        patience_until = time.monotonic() + LOCK_SECONDS_MAX
        while not try_lock(handle):
            if time.monotonic() > patience_until:
                holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
                raise BusyError(
                    f"another farebox command (pid {holder}) has been starting or stopping the "
                    f"database for {LOCK_SECONDS_MAX:.0f} s and holds {path}: wait, or end it"
                )
            time.sleep(POLL_SECONDS)
        os.pwrite(handle, f"{os.getpid():<20}\n".encode(), 0)
        yield
    finally:
        # Not by closing alone: a child forked meanwhile would keep the lock.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
