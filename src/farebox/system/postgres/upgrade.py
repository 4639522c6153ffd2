"""What to tell somebody whose data folder is of another major version.

Nothing is upgraded behind anybody's back: it moves money's only copy, so it is a person's act with
a backup at hand, and the message has the commands ready to paste.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from farebox.system.postgres.binaries import MAJOR, binaries_for, locate_major
from farebox.system.postgres.configuration import SUPERUSER
from farebox.system.postgres.errors import BundledPostgresError

if TYPE_CHECKING:
    from farebox.system.postgres.place import Place


def upgrade_advice(place: Place, found: str) -> str:
    """Name both versions and what to do.

    Args:
        place: Whose data it is.
        found: What its ``PG_VERSION`` says.
    """
    said = (
        f"{place.data} was written by PostgreSQL {found}, and this Farebox carries PostgreSQL "
        f"{MAJOR}. Nothing was changed."
    )
    if not found.isdecimal() or int(found) > MAJOR:
        return (
            f"{said} A newer PostgreSQL's data cannot be read: install the Farebox that wrote it, "
            "or move the folder away to start with an empty database"
        )
    return f"{said} To upgrade it, with a backup at hand:\n" + "\n".join(
        f"  {line}" for line in _commands(place, int(found))
    )


def _commands(place: Place, found: int) -> list[str]:
    """The shell commands; under root, as the server's owner."""
    try:
        programs = binaries_for(place.owner, place.binaries).programs
    except BundledPostgresError:
        programs = Path(f"BIN_FOLDER_OF_POSTGRESQL_{MAJOR}")
    old = locate_major(found) or Path(f"BIN_FOLDER_OF_POSTGRESQL_{found}")
    lend, own = _lending(place)
    work = place.folder / "upgrade"
    new = work / "data"
    # The roles of the cluster are not the names of OS users: our own rules map them.
    rules = quote(
        f"-c hba_file={_quoted(place.config / 'pg_hba.conf')} "
        f"-c ident_file={_quoted(place.config / 'pg_ident.conf')}"
    )
    initdb, pg_upgrade = _quoted(programs / "initdb"), _quoted(programs / "pg_upgrade")
    places = f"-b {_quoted(old)} -B {_quoted(programs)} -d {_quoted(place.data)} -D {_quoted(new)}"
    aside = place.data.with_name(f"data.{found}")
    return [
        f"install -d -m 700 {own}{_quoted(work)} && cd {_quoted(work)}",
        f"{lend}{initdb} -D {_quoted(new)} -U {SUPERUSER} -E UTF8 --locale=C -A peer",
        f"{lend}{pg_upgrade} {places} -U {SUPERUSER} -o {rules} -O {rules}",
        f"mv {_quoted(place.data)} {_quoted(aside)} && mv {_quoted(new)} {_quoted(place.data)}",
    ]


def _lending(place: Place) -> tuple[str, str]:
    """How root runs a command, and makes a folder, as the server's owner."""
    uid, gid = place.owner.uid, place.owner.gid
    if not place.owner.lent:
        return "", ""
    if shutil.which("setpriv") is None:  # macOS
        return f"sudo -u '#{uid}' ", f"-o {uid} -g {gid} "
    return f"setpriv --reuid={uid} --regid={gid} --clear-groups ", f"-o {uid} -g {gid} "


def _quoted(path: Path) -> str:
    return quote(str(path))
