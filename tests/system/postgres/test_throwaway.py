"""The server of one test process: fast, and gone without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from farebox.system.postgres import throwaway as throwaways
from farebox.system.postgres.owner import owner_of_new_data
from farebox.system.postgres.place import Place
from farebox.system.postgres.throwaway import throwaway
from farebox.system.postgres.watch import members
from tests.support.postgres_people import Child, Line, query, wait_until

if TYPE_CHECKING:
    import pytest


def test_it_is_gone_after_its_release(open_folder: Path) -> None:
    """A throw-away server trades the disk for speed and leaves neither process nor file."""
    with throwaway(open_folder / "pg") as server:
        place = Place(server.folder, owner_of_new_data())
        assert query(server, "SHOW fsync") == "off"
        assert query(server, "SELECT current_database()") == "farebox"
        assert members(place) != []
    assert members(place) == []
    assert not place.folder.exists()


def test_two_do_not_meet(open_folder: Path) -> None:
    """Each test process has a server of its own, in the same directory or not."""
    with throwaway(open_folder) as one, throwaway(open_folder) as two:
        assert one.folder != two.folder
        assert one.pid != two.pid
        query(one, "CREATE TABLE only_here (a int)")
        assert query(two, "SELECT to_regclass('only_here')") is None


def test_it_can_be_as_durable_as_a_kept_one(open_folder: Path) -> None:
    """Tests that kill things ask for the settings of real life."""
    with throwaway(open_folder, durable=True) as server:
        assert query(server, "SHOW fsync") == "on"


def test_it_goes_with_a_killed_test_process(open_folder: Path) -> None:
    """SIGKILL of the test process takes its server and its files along."""

    def hold(line: Line) -> None:
        server = throwaway(open_folder)
        line.tell(str(server.folder))
        line.wait()

    child = Child(hold)
    folder = Path(child.hear())
    child.kill()
    wait_until(lambda: members(Place(folder, owner_of_new_data())) == [])
    wait_until(lambda: not folder.exists() or not any(folder.iterdir()))


def test_it_lives_in_the_given_directory_where_memory_is_short(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with little shared memory gets its test data on disk."""
    monkeypatch.setattr(throwaways, "_MEMORY_BYTES_MIN", 2**62)
    with throwaway(open_folder / "pg") as server:
        assert server.folder.parent == open_folder / "pg"
        assert query(server, "SELECT 1") == 1
