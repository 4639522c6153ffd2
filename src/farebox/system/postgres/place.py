"""Where a database lives: the folders of one ``FAREBOX_HOME``, their owners and modes.

::

    FAREBOX_HOME/
        postgres.lock            held while a command starts or stops the server
        postgres.json            only if the place is elsewhere: points to it
        postgres/                the place; as root it may be /var/lib/farebox/HASH-RANDOM instead
            data/                the data folder                    0700, the server's owner
            log/                 the server's own log               0700, the server's owner
            run/                 the socket, if its path is short   0700, the server's owner
            config/              postgresql.conf, pg_hba.conf, pg_ident.conf: rewritten each start
            binaries/RELEASE/    a copy of the wheel's tree, only where the owner cannot reach it
            users                every command that uses the server holds a shared lock on it
            alive                the server and its children hold an exclusive lock on it
            startup.log          what the server says before its log is open

An ordinary user has everything in the home.  Root keeps the place for itself and gives the
server's owner only what the server writes; where that owner cannot pass the home's parents, the
place is a private folder of its own and no permission of any parent changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.errors import FolderRefusedError, explained
from farebox.system.postgres.files import check_folder, make_folder, read_tail, write_text
from farebox.system.postgres.owner import (
    Owner,
    closed_folder,
    is_root,
    owner_by_uid,
    owner_of_new_data,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PRIVATE_BASES: Final = (Path("/var/lib/farebox"), Path("/var/tmp/farebox"))  # noqa: S108
"""Where root may make a private place, in order of choice: both outlive a restart."""

_POINTER: Final = "postgres.json"
_SOCKET_BASE: Final = Path("/tmp")  # noqa: S108 - the folder in it is ours alone, and checked
"""Not the session's runtime folder: that one vanishes at logout, with the server still running."""

_SOCKET_BYTES_MAX: Final = 103
"""Longest socket path: macOS has room for 104 bytes with the final zero, Linux for 108."""

PORT: Final = 5432
"""Only a part of the socket's file name; no TCP port is ever opened."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one database and the OS user that its server runs as."""

    folder: Path
    owner: Owner

    @property
    def data(self) -> Path:
        """The data folder of PostgreSQL."""
        return self.folder / "data"

    @property
    def config(self) -> Path:
        """The folder of the configuration files, which the server only reads."""
        return self.folder / "config"

    @property
    def logs(self) -> Path:
        """The folder that the server logs to."""
        return self.folder / "log"

    @property
    def startup_log(self) -> Path:
        """What the server says before its own log is open; begins anew at every start."""
        return self.folder / "startup.log"

    @property
    def binaries(self) -> Path:
        """The folder for copies of the programs."""
        return self.folder / "binaries"

    @property
    def users(self) -> Path:
        """The file whose shared lock every user of the server holds."""
        return self.folder / "users"

    @property
    def alive(self) -> Path:
        """The file whose lock the server and its children hold as long as any of them lives."""
        return self.folder / "alive"

    @property
    def label(self) -> str:
        """A name for the server's processes in a list of processes, of this folder alone."""
        return "farebox-" + _short_hash(self.data)

    @property
    def socket_folders(self) -> Sequence[Path]:
        """Where the socket may be: with the data if clients take that path, else in ``/tmp``."""
        folders = (self.folder / "run", _SOCKET_BASE / f"fbx-{_short_hash(self.data)}")
        return [folder for folder in folders if _takes_socket(folder)]

    def prepare(self) -> None:
        """Make the folders that are not there yet.

        Raises:
            FolderRefusedError: One belongs to somebody else, or the server cannot reach it.
            DiskFullError: No room.
        """
        with explained(self.folder):
            # An ordinary user's own reach may rest on rights that permission bits do not show.
            closed = closed_folder(self.folder, self.owner) if self.owner.lent else None
            if closed is not None:
                raise FolderRefusedError(
                    f"the database in {self.folder} belongs to {self.owner.name} (uid "
                    f"{self.owner.uid}), who may not pass {closed}: run `chmod o+x {closed}`, or "
                    "move the whole FAREBOX_HOME to a folder with open parents"
                )
            mine = self.folder.stat()
            make_folder(self.config, 0o755, uid=mine.st_uid, gid=mine.st_gid)
            make_folder(self.logs, 0o700, uid=self.owner.uid, gid=self.owner.gid)


def socket_path(folder: Path) -> Path:
    """The socket's path in its folder."""
    return folder / f".s.PGSQL.{PORT}"


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _takes_socket(folder: Path) -> bool:
    """Whether clients can name a socket in that folder: a comma would part two hosts."""
    path = os.fsencode(socket_path(folder))
    return len(path) <= _SOCKET_BYTES_MAX and b"," not in path


def plain_home(home: Path) -> Path:
    """The home as an absolute path without symbolic links, made if it is not there.

    A new one is closed to other users; where root makes it, it may be passed (0711) so that the
    server, which is not root, reaches its data.

    Raises:
        FolderRefusedError: It cannot be made, or its name has control characters.
        DiskFullError: No room.
    """
    if any(ord(letter) < ord(" ") for letter in str(home)):
        raise FolderRefusedError(f"FAREBOX_HOME {str(home)!r} has control characters: rename it")
    with explained(home):
        home = home.resolve()
        if not home.is_dir():
            home.parent.mkdir(parents=True, exist_ok=True)
            home.mkdir(mode=0o711 if is_root() else 0o700, exist_ok=True)
    return home


def place_of(home: Path) -> Place:
    """The place of a home's database, chosen and made if there is none yet.

    The caller holds the home's lock.

    Args:
        home: As :func:`plain_home` gives it.

    Raises:
        FolderRefusedError: It belongs to somebody else or cannot be made.
        UserRefusedError: Its owner cannot run PostgreSQL.
        DiskFullError: No room.
    """
    with explained(home):
        pointer = home / _POINTER
        if pointer.is_symlink() or pointer.exists():
            return _pointed(pointer)
        here = home / "postgres"
        if (here / "data").is_dir():
            return _existing(here)
        owner = owner_of_new_data()
        if owner.lent and closed_folder(home, owner):
            return Place(_private_folder(home, pointer), owner)
        make_folder(here, 0o711 if owner.lent else 0o700, uid=os.geteuid(), gid=os.getegid())
        return Place(here, owner)


def _existing(folder: Path) -> Place:
    """The place that is already in a folder, run as whoever owns its data."""
    uid = (folder / "data").stat().st_uid
    me = os.geteuid()
    if uid == 0:
        raise FolderRefusedError(
            f"root owns {folder / 'data'}, and PostgreSQL does not run as root: give it back to "
            f"the user that made it, for example `chown -R nobody {folder}/data {folder}/log`"
        )
    if not is_root() and uid != me:
        raise FolderRefusedError(
            f"the database in {folder} belongs to uid {uid}, and this is uid {me}: run farebox as "
            "that user or as root, or set FAREBOX_HOME to another folder"
        )
    # Root writes in here: in root's own folder, or in that of the data's owner.
    check_folder(folder, uid=uid if folder.lstat().st_uid == uid else me)
    return Place(folder, owner_by_uid(uid))


def _pointed(pointer: Path) -> Place:
    """The private place that a pointer names, if it is as root left it.

    Raises:
        FolderRefusedError: We are not root, or somebody else had a hand in it.
    """
    if not is_root():
        raise FolderRefusedError(
            f"{pointer} says that root keeps this FAREBOX_HOME's database elsewhere: run farebox "
            "as root, or set FAREBOX_HOME to another folder"
        )
    if pointer.lstat().st_uid != 0 or pointer.is_symlink():
        raise FolderRefusedError(f"{pointer} is not a file that root wrote: move it out of the way")
    try:
        folder = Path(json.loads(read_tail(pointer))["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise FolderRefusedError(
            f'{pointer} is damaged: it should be {{"folder": "/var/lib/farebox/..."}}, the folder '
            "of this home's database"
        ) from error
    if not folder.is_absolute() or not folder.is_dir():
        raise FolderRefusedError(
            f"{pointer} points to {folder}, which is not there: bring that folder back, or remove "
            "the pointer to start with an empty database"
        )
    check_folder(folder, uid=0)
    if (folder / "data").is_dir():
        return _existing(folder)
    return Place(folder, owner_of_new_data())


def _private_folder(home: Path, pointer: Path) -> Path:
    """Make a place outside of the home and point to it.

    Its name has a random part: a home that was removed and made again gets an empty database, and
    the old one stays where it was.
    """
    name = f"{_short_hash(home)}-{secrets.token_hex(4)}"
    tried = []
    for base in PRIVATE_BASES:
        try:
            make_folder(base, 0o711, uid=0, gid=0)
            folder = base / name
            folder.mkdir(mode=0o711)
            folder.chmod(0o711)
        except (OSError, FolderRefusedError) as error:
            tried.append(f"{base}: {error}")
            continue
        owner = owner_of_new_data()
        if closed_folder(folder, owner):
            tried.append(f"{base}: closed to {owner.name} as well")
            folder.rmdir()
            continue
        write_text(folder / "home", f"{home}\n", 0o600)
        write_text(pointer, json.dumps({"folder": str(folder)}) + "\n", 0o600)
        return folder
    raise FolderRefusedError(
        f"no folder for the database: {home} is closed to the user that root lends it, and "
        f"{'; '.join(tried)}. Set FAREBOX_HOME to a folder with open parents (chmod o+x)"
    )
