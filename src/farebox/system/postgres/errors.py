"""What can go wrong with the bundled PostgreSQL, each with what to do about it.

::

    BundledPostgresError
    ├── BinariesMissingError     the wheel is not there, or does not run on this platform
    ├── FolderRefusedError       a folder is closed, not ours, or not as we left it
    ├── UserRefusedError         the OS user cannot run PostgreSQL
    ├── MajorVersionError        the data folder is of another major version
    ├── DiskFullError            no room
    ├── BusyError                another command holds the lock, or a process the data
    └── StartFailedError         the server ended before it was ready
        └── StartTimeoutError    it is still not ready
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from farebox.kit.errors import FareboxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class BundledPostgresError(FareboxError):
    """The bundled PostgreSQL cannot be used."""

    code: ClassVar[str] = "postgres_unusable"


class BinariesMissingError(BundledPostgresError):
    """There are no PostgreSQL binaries that run here."""

    code: ClassVar[str] = "postgres_binaries_missing"


class FolderRefusedError(BundledPostgresError):
    """A folder cannot be used for the database."""

    code: ClassVar[str] = "postgres_folder_refused"


class UserRefusedError(BundledPostgresError):
    """This OS user cannot run PostgreSQL."""

    code: ClassVar[str] = "postgres_user_refused"


class MajorVersionError(BundledPostgresError):
    """The data folder is of another major version of PostgreSQL."""

    code: ClassVar[str] = "postgres_major_version"


class DiskFullError(BundledPostgresError):
    """There is no room for the database."""

    code: ClassVar[str] = "postgres_disk_full"


class BusyError(BundledPostgresError):
    """Another process holds what this one needs."""

    code: ClassVar[str] = "postgres_busy"


class StartFailedError(BundledPostgresError):
    """PostgreSQL ended before it was ready."""

    code: ClassVar[str] = "postgres_start_failed"


class StartTimeoutError(StartFailedError):
    """PostgreSQL is not ready yet."""

    code: ClassVar[str] = "postgres_start_timeout"


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder into what a person can do about it.

    Raises:
        DiskFullError: No room, or the quota is used up.
        FolderRefusedError: No permission, or a read-only file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise disk_full(folder) from error
        if error.errno in NOT_ALLOWED:
            where = error.filename or folder
            raise FolderRefusedError(
                f"the database's folder {folder} cannot be used ({where}: {error.strerror}): make "
                "it writable for the user that runs farebox, or set FAREBOX_HOME to a folder that "
                "is, or DATABASE_URL to another PostgreSQL"
            ) from error
        raise


def disk_full(folder: Path) -> DiskFullError:
    """The one sentence about a full disk."""
    return DiskFullError(
        f"no room left for the database in {folder}: make some room on that file system, or set "
        "FAREBOX_HOME to a folder on another one"
    )
