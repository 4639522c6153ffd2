"""The upgrade that a refusal advises, done as it says."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from farebox.system.postgres import binaries
from farebox.system.postgres.errors import MajorVersionError
from farebox.system.postgres.files import make_folder
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import owner_of_new_data
from tests.support.postgres_people import query

if TYPE_CHECKING:
    from pathlib import Path

OLD = binaries.locate_major(16)


OLD_STATEMENTS = """CREATE ROLE farebox LOGIN CREATEDB;
CREATE DATABASE farebox OWNER farebox;
"""
OLD_ROWS = """CREATE TABLE kept AS SELECT 42 AS answer;
ALTER TABLE kept OWNER TO farebox;
"""


def _put_old_folder(data: Path) -> None:
    """Put a folder of PostgreSQL 16 with a table of ours in the place of the data folder."""
    assert OLD is not None
    owner = owner_of_new_data()
    shutil.rmtree(data)
    make_folder(data, 0o700, uid=owner.uid, gid=owner.gid)
    for program, arguments, stdin in (
        ("initdb", "--username=postgres -E UTF8 --locale=C --data-checksums -A peer --no-sync", ""),
        ("pg_resetwal", "--next-oid=16384", ""),
        ("postgres", "--single -F postgres", OLD_STATEMENTS),
        ("postgres", "--single -F farebox", OLD_ROWS),
    ):
        first, *others = arguments.split(" ")
        subprocess.run(
            [OLD / program, first, "-D", data, *others],
            input=stdin,
            check=True,
            capture_output=True,
            text=True,
            cwd=data,
            **owner.identity(),
        )


@pytest.mark.skipif(OLD is None, reason="the wheel carries no older PostgreSQL")
def test_the_advised_commands_upgrade_an_old_folder(home: Path) -> None:
    """An operator who pastes the commands from the message has the old rows in the new version."""
    home = home / "with a blank"
    launch(home).release()
    _put_old_folder(home / "postgres/data")
    with pytest.raises(MajorVersionError) as refusal:
        launch(home)
    head, *commands = refusal.value.message.splitlines()
    assert "PostgreSQL 16" in head
    script = "set -e\n" + "\n".join(commands)
    subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True)
    with launch(home) as server:
        assert query(server, "SELECT answer FROM kept") == 42
        assert query(server, "SHOW server_version").startswith("18.")
