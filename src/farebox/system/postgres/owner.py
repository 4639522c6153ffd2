"""Which OS user runs the server, and what that user can reach.

PostgreSQL refuses to run as root, so root lends it another uid: the one that owns an existing data
folder, else ``nobody``.  No OS user is ever made.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

from farebox.system.postgres.errors import UserRefusedError

if TYPE_CHECKING:
    from pathlib import Path

STAND_IN_UID: Final = 65534
"""``nobody`` on Linux; where that name has another uid (macOS: -2) the name wins."""


class Identity(TypedDict, total=False):
    """What ``subprocess`` takes to run a program as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Owner:
    """The OS user that the server runs as and that owns its files."""

    uid: int
    gid: int
    name: str
    lent: bool
    """Whether we are root and run the server as this user instead of as ourselves."""

    def identity(self) -> Identity:
        """How to start a process as this user: nothing at all where it is ourselves."""
        if not self.lent:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def is_root() -> bool:
    """Whether this process may act as any user."""
    return os.geteuid() == 0


def owner_of_new_data() -> Owner:
    """Who will own a data folder that is not there yet.

    Raises:
        UserRefusedError: The user has no name in the user database.
    """
    if not is_root():
        return owner_by_uid(os.geteuid())
    try:
        return owner_by_uid(pwd.getpwnam("nobody").pw_uid)
    except KeyError:
        return owner_by_uid(STAND_IN_UID)


def owner_by_uid(uid: int) -> Owner:
    """The owner with that uid.

    Raises:
        UserRefusedError: The user has no name in the user database; initdb and peer
            authentication both look it up.
    """
    assert uid != 0, "PostgreSQL never runs as root"
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise UserRefusedError(
            f"uid {uid} has no name in the user database (/etc/passwd), and PostgreSQL does not "
            "run as a nameless user: run farebox as a named user or as root (which lends the "
            "server the uid of nobody), or set DATABASE_URL to another PostgreSQL"
        ) from None
    return Owner(uid, entry.pw_gid, entry.pw_name, lent=is_root())


def root_name() -> str:
    """What uid 0 is called here; almost always ``root``."""
    try:
        return pwd.getpwuid(0).pw_name
    except KeyError:
        return "root"


def closed_folder(path: Path, owner: Owner) -> Path | None:
    """The first folder on the way to ``path``, itself included, that ``owner`` may not pass.

    Permission bits alone are read: a list of extra rights (ACL) can make the answer too careful,
    never harmful, because PostgreSQL itself still meets the real rule.

    Args:
        path: An absolute path without symbolic links; what is not there yet is not looked at.
        owner: Who has to get there; only the user and its first group count, as in
            :meth:`Owner.identity`.
    """
    for folder in (*reversed(path.parents), path):
        try:
            facts = folder.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(facts.st_mode):
            return None
        if facts.st_uid == owner.uid:
            needed = stat.S_IXUSR
        elif facts.st_gid == owner.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not facts.st_mode & needed:
            return folder
    return None
