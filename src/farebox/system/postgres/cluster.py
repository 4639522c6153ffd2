"""The data folder: made whole or not at all, and refused if another major version wrote it.

A new one is made under another name and renamed when its roles and its database are in it and on
disk; so a folder called ``data`` is always complete, whatever was killed meanwhile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.binaries import MAJOR, Binaries, environment
from farebox.system.postgres.configuration import DATABASE, SUPERUSER, USER
from farebox.system.postgres.errors import (
    FolderRefusedError,
    MajorVersionError,
    StartFailedError,
    disk_full,
    explained,
)
from farebox.system.postgres.files import make_folder, read_tail, sync_folder
from farebox.system.postgres.upgrade import upgrade_advice

if TYPE_CHECKING:
    from pathlib import Path

    from farebox.system.postgres.place import Place

ROOM_BYTES_MIN: Final = 200 * 1024 * 1024
"""What a new data folder must find free: 40 MB of its own, and room for its log to work in."""

_STEP_SECONDS_MAX: Final = 120.0
"""Longest any step of making a data folder may take; it takes one second on a slow disk."""

FIRST_OID: Final = 16384
"""The first number of an object that is not PostgreSQL's own (``FirstNormalObjectId``)."""

_DRAFT: Final = "data.draft-"

_FIRST_STATEMENTS: Final = (
    f"CREATE ROLE {USER} LOGIN CREATEDB;\n"
    f"GRANT pg_monitor TO {USER};\n"
    f"CREATE DATABASE {DATABASE} OWNER {USER};\n"
)


def remove_drafts(place: Place) -> None:
    """Clear away what an interrupted :func:`make_data` left."""
    for draft in place.folder.glob(f"{_DRAFT}*"):
        # A killed launcher's initdb may still be writing here: what stays goes next time.
        shutil.rmtree(draft, ignore_errors=True)


def has_data(place: Place) -> bool:
    """Whether there is a data folder of our major version.

    Raises:
        MajorVersionError: It is of another one.
        FolderRefusedError: Something else is in its place.
    """
    if not place.data.exists():
        return False
    text = read_tail(place.data / "PG_VERSION").strip()
    if not text:
        if not any(place.data.iterdir()):
            place.data.rmdir()
            return False
        raise FolderRefusedError(
            f"{place.data} holds files but no PG_VERSION, so it is no database: bring back the "
            "missing files from a backup, or move the folder away to start with an empty database"
        )
    if text != str(MAJOR):
        raise MajorVersionError(upgrade_advice(place, text))
    return True


def make_data(place: Place, binaries: Binaries, *, lasting: bool) -> None:
    """Make the data folder with its roles and its database.

    Raises:
        DiskFullError: Less than :data:`ROOM_BYTES_MIN` free, or no room on the way.
        StartFailedError: A program of PostgreSQL failed; the message has its words.
        FolderRefusedError: No permission.
    """
    with explained(place.folder):
        if shutil.disk_usage(place.folder).free < ROOM_BYTES_MIN:
            raise disk_full(place.folder)
        draft = place.folder / f"{_DRAFT}{os.getpid()}"
        make_folder(draft, 0o700, uid=place.owner.uid, gid=place.owner.gid)
        initdb = str(binaries.program("initdb"))
        resetwal = str(binaries.program("pg_resetwal"))
        server = str(binaries.program("postgres"))
        # The configuration inside of the data folder is never read by us; whoever starts it by
        # hand gets one that lets nobody else in.
        flags = f"--username={SUPERUSER} --encoding=UTF8 --locale=C --auth-local=peer"
        rest = "--auth-host=reject --data-checksums --no-instructions --no-sync"
        _run(place, draft, [initdb, "-D", str(draft), *flags.split(), *rest.split()])
        # A single-user server goes on with the numbers of system objects (below 16384), which
        # pg_dump and pg_upgrade leave out: begin with the first of a user's.
        _run(place, draft, [resetwal, f"--next-oid={FIRST_OID}", "-D", str(draft)])
        single = "--single -F -c exit_on_error=on -c log_min_messages=error -c io_method=sync"
        _run(
            place,
            draft,
            [server, *single.split(), "-D", str(draft), SUPERUSER],
            stdin=_FIRST_STATEMENTS,
        )
        if lasting:
            _run(place, draft, [initdb, "-D", str(draft), "--sync-only"])
        draft.rename(place.data)
        if lasting:
            sync_folder(place.folder)


def _run(place: Place, draft: Path, command: list[str], stdin: str = "") -> None:
    """Run one step as the owner; its failure removes the draft."""
    try:
        answer = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=draft,
            env=environment(),
            umask=0o077,
            timeout=_STEP_SECONDS_MAX,
            **place.owner.identity(),
        )
    except subprocess.TimeoutExpired as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise StartFailedError(
            f"{command[0]} did not end within {_STEP_SECONDS_MAX:.0f} s: is the disk under "
            f"{place.folder} well?"
        ) from error
    if answer.returncode == 0:
        return
    shutil.rmtree(draft, ignore_errors=True)
    said = (answer.stderr + answer.stdout).strip()
    if is_disk_full(said):
        raise disk_full(place.folder)
    raise StartFailedError(f"{command[0]} could not make the database in {place.folder}:\n{said}")


def is_disk_full(log: str) -> bool:
    """Whether PostgreSQL's words mean a full disk.

    The same words for shared memory or semaphores mean a limit of the kernel instead.
    """
    return any(
        ("No space left on device" in line or "Disk quota exceeded" in line)
        and "shared memory" not in line
        and "semaphore" not in line
        for line in log.splitlines()
    )
