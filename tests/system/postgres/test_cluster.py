"""Making a data folder, and reading PostgreSQL's complaints."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from farebox.system.postgres.binaries import Binaries
from farebox.system.postgres.cluster import is_disk_full, make_data
from farebox.system.postgres.errors import BundledPostgresError, DiskFullError, StartFailedError
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import owner_of_new_data
from farebox.system.postgres.place import Place
from tests.support.postgres_people import query


@pytest.mark.parametrize(
    ("line", "full"),
    [
        ('FATAL:  could not write to file "pg_wal/xlogtemp.7": No space left on device', True),
        ('FATAL:  could not extend file "base/5/2608": Disk quota exceeded', True),
        ("FATAL:  could not create shared memory segment: No space left on device", False),
        ("FATAL:  could not create semaphores: No space left on device", False),
        ("LOG:  database system is ready to accept connections", False),
    ],
)
def test_a_full_disk_is_told_from_a_limit_of_the_kernel(line: str, full: bool) -> None:
    """The same words mean a full disk or a kernel limit; only the first is cured by more room."""
    assert is_disk_full(f"LOG:  starting\n{line}\n") is full


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("could not write: No space left on device", DiskFullError),
        ("something else went wrong", StartFailedError),
    ],
)
def test_a_failed_initdb_leaves_nothing_and_says_why(
    words: str, kind: type[BundledPostgresError]
) -> None:
    """Half a data folder is removed at once, and the error has initdb's own words."""
    # Programs may not run from a folder in memory.
    with tempfile.TemporaryDirectory(prefix="fbx-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        initdb = folder / "tree/bin/initdb"
        initdb.parent.mkdir(parents=True)
        initdb.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
        initdb.chmod(0o755)
        place = Place(folder / "place", owner_of_new_data())
        place.folder.mkdir()
        with pytest.raises(kind) as failure:
            make_data(place, Binaries(folder / "tree", "0"), lasting=True)
        assert kind is DiskFullError or words in failure.value.message
        assert list(place.folder.iterdir()) == []


def test_an_empty_data_folder_is_as_good_as_none(home: Path) -> None:
    """Somebody who made the folder by hand gets a database in it."""
    (home / "postgres").mkdir(parents=True)
    owner = owner_of_new_data()
    data = home / "postgres/data"
    data.mkdir()
    if owner.lent:
        os.chown(data, owner.uid, owner.gid)
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1
