"""What to tell somebody whose data folder is of another major version.

Nothing is upgraded behind anybody's back: it moves money's only copy, so it is a person's act with
a backup at hand, and the message has the commands ready to paste.
"""

from __future__ import annotations

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
    old = locate_major(found) or f"BIN_FOLDER_OF_POSTGRESQL_{found}"
    try:
        programs = str(binaries_for(place.owner, place.binaries).programs)
    except BundledPostgresError:
        programs = f"BIN_FOLDER_OF_POSTGRESQL_{MAJOR}"
    uid, gid = place.owner.uid, place.owner.gid
    lend, own = "", ""
    if place.owner.lent:
        lend = f"setpriv --reuid={uid} --regid={gid} --clear-groups "
        own = f"-o {uid} -g {gid} "
    work = place.folder / "upgrade"
    new = work / "data"
    # The roles of the cluster are not the names of OS users: our own rules map them.
    rules = f"-c hba_file={place.config}/pg_hba.conf -c ident_file={place.config}/pg_ident.conf"
    folders = f"-d {place.data} -D {new} -U {SUPERUSER}"
    return [
        f"install -d -m 700 {own}{work} && cd {work}",
        f"{lend}{programs}/initdb -D {new} -U {SUPERUSER} -E UTF8 --locale=C -A peer",
        f"{lend}{programs}/pg_upgrade -b {old} -B {programs} {folders} -o '{rules}' -O '{rules}'",
        f"mv {place.data} {place.data}.{found} && mv {new} {place.data}",
    ]
