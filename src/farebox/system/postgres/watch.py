"""Which processes belong to a data folder: the judgement that a pid alone never is.

A pid file outlives its server, and its number goes to somebody else.  A process is ours only if it
runs as the server's owner, is PostgreSQL, and works in this very data folder.  Linux tells by
``/proc``; elsewhere ``ps`` does.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.files import read_tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farebox.system.postgres.place import Place

_PROC: Final = Path("/proc")
_HAS_PROC: Final = (_PROC / "self" / "cmdline").is_file()
_PS_SECONDS_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server, by its pid file."""

    pid: int
    socket_folder: Path
    status: str
    """``starting``, ``ready``, ``stopping``; empty while the file is being written."""

    @property
    def ready(self) -> bool:
        """Whether it takes connections."""
        return self.status == "ready"


@dataclass(frozen=True, slots=True)
class _Process:
    uid: int
    command: str
    """The program and its arguments, or the title that a child of the server gave itself."""


def read_pid_file(place: Place) -> Postmaster | None:
    """What ``postmaster.pid`` says; nothing if there is none, or not even a number in it."""
    lines = read_tail(place.data / "postmaster.pid").splitlines() + [""] * 8
    if not lines[0].strip().isdecimal():
        return None
    return Postmaster(int(lines[0]), Path(lines[4]), lines[7].strip())


def running_postmaster(place: Place) -> Postmaster | None:
    """The server of this data folder, if the process that the pid file names is one."""
    named = read_pid_file(place)
    if named is None or not _is_ours(place, named.pid):
        return None
    return named


def members(place: Place) -> list[int]:
    """Every process of this data folder's server, also after the postmaster itself is gone."""
    return [pid for pid in _pids() if _is_ours(place, pid)]


def _is_ours(place: Place, pid: int) -> bool:
    process = _look(pid)
    if process is None or process.uid != place.owner.uid:
        return False
    program = process.command.partition(" -D ")[0]
    if not program.startswith("postgres:") and Path(program).name != "postgres":
        return False
    works_in = _PROC / str(pid) / "cwd"
    try:
        # By the folder itself, not by its name: the home may have moved.
        return works_in.samefile(place.data)
    except OSError:
        # No /proc, or it hides this: the postmaster has the path as an argument, its children a
        # title with the label that was made of the path.
        words = process.command + " "
        return f" -D {place.data} " in words or words.startswith(f"postgres: {place.label}: ")


def _look(pid: int) -> _Process | None:
    """The facts about one live process; a zombie has no command and is nobody's."""
    if _HAS_PROC:
        try:
            command = (_PROC / str(pid) / "cmdline").read_bytes()
            status = (_PROC / str(pid) / "status").read_text("ascii", "replace")
        except OSError:
            return None
        uid = status.partition("\nUid:")[2].split(maxsplit=1)[0]
        text = os.fsdecode(command.rstrip(b"\0").replace(b"\0", b" "))
        return _Process(int(uid), text) if text else None
    answer = _ps("-p", str(pid), "-o", "uid=,command=")
    uid, _, text = answer.strip().partition(" ")
    return _Process(int(uid), text.strip()) if uid.lstrip("-").isdecimal() else None


def _pids() -> Iterator[int]:
    if _HAS_PROC:
        names = [folder.name for folder in _PROC.iterdir()]
    else:
        names = _ps("-axo", "pid=").split()
    return (int(name) for name in names if name.isdecimal())


def _ps(*arguments: str) -> str:
    return subprocess.run(
        ["/bin/ps", "-ww", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PS_SECONDS_MAX,
    ).stdout
