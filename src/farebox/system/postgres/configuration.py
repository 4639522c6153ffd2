"""The server's configuration files, written anew at every start.

They lie outside of the data folder, so the server cannot change them: what is durable stays
durable.  Nobody is trusted: the kernel names the OS user at the other end of the socket (peer), and
only root and the server's own user are anybody here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from farebox.system.postgres.files import write_text
from farebox.system.postgres.owner import Owner, is_root, root_name
from farebox.system.postgres.place import PORT, Place

if TYPE_CHECKING:
    from pathlib import Path

USER: Final = "farebox"
"""The role that Farebox connects as: no superuser; it may make databases and read statistics."""

DATABASE: Final = "farebox"
"""The database that Farebox lives in; :data:`USER` owns it."""

SUPERUSER: Final = "postgres"
"""The role that owns the cluster: for upgrades and for repairs by hand."""

_LOG_FILE_MEGABYTES: Final = 10
"""A log file that large is followed by another; the launcher removes the oldest."""

_LASTING: Final = {
    # What an acknowledged commit stands on (ENGINE.md, "The server it stands on").
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "data_sync_retry": "off",
    # At most this much log to replay after a crash, and this much disk besides the data.
    "max_wal_size": "1GB",
    "min_wal_size": "80MB",
    "logging_collector": "on",
    "log_filename": "server-%Y%m%d-%H%M.log",
    "log_rotation_size": f"{_LOG_FILE_MEGABYTES}MB",
    "log_rotation_age": "1d",
    "log_file_mode": "0600",
}

_THROWAWAY: Final = {
    # Only where the data is deleted with the server.
    "fsync": "off",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "logging_collector": "off",
}

_COMMON: Final = {
    "listen_addresses": "",  # no TCP at all
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "random_page_cost": "1.1",  # a laptop's disk is an SSD
    # Parallel queries need room in /dev/shm, and a container has 64 MB of it.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    # A client that forgot its transaction would hold the organisation's row.
    "idle_in_transaction_session_timeout": "60s",
    # Balances are few rows that change thousands of times a second.
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "1000",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "datestyle": "iso, ymd",
    "lc_messages": "C",  # start errors are read by the launcher
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
    # Not ALTER SYSTEM: it would outlive and overrule these files.
    "allow_alter_system": "off",
}


@dataclass(frozen=True, slots=True)
class Flavour:
    """How a server is run."""

    settings: Mapping[str, str]


LASTING: Final = Flavour(_COMMON | _LASTING)
"""For data that must survive anything."""

THROWAWAY: Final = Flavour(_COMMON | _THROWAWAY)
"""For data that is deleted with its server."""


def write_configuration(place: Place, socket_folder: Path, flavour: Flavour) -> Path:
    """Write the configuration files of a place.

    Returns:
        The path of ``postgresql.conf``, to be handed to the server.
    """
    # The server's owner reads them from root's folder; an ordinary user's are nobody's business.
    mode = 0o644 if is_root() else 0o600
    of_the_place = {
        "cluster_name": place.label,
        "unix_socket_directories": _listed(socket_folder),
        "log_directory": str(place.logs),
        "hba_file": str(place.config / "pg_hba.conf"),
        "ident_file": str(place.config / "pg_ident.conf"),
    }
    write_text(place.config / "pg_hba.conf", access_rules(), mode)
    write_text(place.config / "pg_ident.conf", user_names(place.owner), mode)
    main = place.config / "postgresql.conf"
    lines = [
        f"{name} = {_quoted(value)}" for name, value in {**flavour.settings, **of_the_place}.items()
    ]
    write_text(main, "# Written by farebox at every start.\n" + "\n".join(lines) + "\n", mode)
    return main


def access_rules() -> str:
    """The text of ``pg_hba.conf``: by socket, as these two roles, if the kernel vouches."""
    return f"local all {USER},{SUPERUSER} peer map=farebox\n"


def user_names(owner: Owner) -> str:
    """The text of ``pg_ident.conf``: which OS users are which roles."""
    names = dict.fromkeys((root_name(), owner.name))
    return "".join(f'farebox "{name}" {role}\n' for name in names for role in (USER, SUPERUSER))


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _listed(folder: Path) -> str:
    """One folder as a list of folders: quoted, for a comma in its name would end it."""
    return '"' + str(folder).replace('"', '""') + '"'
