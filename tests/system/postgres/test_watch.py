"""Telling the server's processes from everybody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from farebox.system.postgres import watch
from farebox.system.postgres.owner import owner_of_new_data
from farebox.system.postgres.place import Place
from farebox.system.postgres.watch import members, running_postmaster
from tests.support.postgres_people import wait_until

if TYPE_CHECKING:
    from farebox.system.postgres.server import RunningServer


def _place(server: RunningServer) -> Place:
    return Place(server.folder, owner_of_new_data())


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="no ps on this machine")
def test_a_list_of_processes_tells_the_same_as_proc(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no /proc, as on macOS, the same processes are ours and no others."""
    place = _place(server)
    time.sleep(0.2)  # an autovacuum worker may come and go while we look
    ours = set(members(place))
    assert server.pid in ours
    monkeypatch.setattr(watch, "_PROC", Path("/nowhere"))
    monkeypatch.setattr(watch, "_HAS_PROC", False)
    running = running_postmaster(place)
    assert running is not None
    assert running.pid == server.pid
    wait_until(lambda: ours & set(members(place)) == ours)
    elsewhere = Place(place.folder / "data", place.owner)
    assert members(elsewhere) == []


def test_a_postgres_of_another_folder_is_not_ours(server: RunningServer, open_folder: Path) -> None:
    """A pid file that names a real PostgreSQL of another folder is still stale."""
    other = Place(open_folder / "other", owner_of_new_data())
    other.data.mkdir(parents=True)
    shutil.copy(server.folder / "data/postmaster.pid", other.data / "postmaster.pid")
    assert running_postmaster(_place(server)) is not None
    assert running_postmaster(other) is None


def test_a_program_that_only_works_in_our_folder_is_not_ours(server: RunningServer) -> None:
    """The right user in the right folder is not enough: it must be PostgreSQL."""
    place = _place(server)
    with subprocess.Popen(["sleep", "60"], cwd=place.data, **place.owner.identity()) as visitor:
        try:
            assert visitor.pid not in members(place)
        finally:
            visitor.kill()


@pytest.mark.parametrize("text", ["", "-17\n", "not a number\n"])
def test_a_pid_file_without_a_plain_pid_names_nobody(open_folder: Path, text: str) -> None:
    """A half-written pid file, or a single-user server's, is not a running postmaster."""
    place = Place(open_folder, owner_of_new_data())
    place.data.mkdir()
    (place.data / "postmaster.pid").write_text(text)
    assert running_postmaster(place) is None
    assert os.getpid() not in members(place)
