"""Whose a database's folders are, where they are, and who is kept out."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from farebox.system.postgres import place as places
from farebox.system.postgres.errors import FolderRefusedError
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import closed_folder, owner_of_new_data
from tests.support.postgres_people import (
    NEEDS_ROOT,
    Child,
    Line,
    nameless,
    ordinary_users,
    query,
    run_as,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from farebox.system.postgres.owner import Owner
    from farebox.system.postgres.server import RunningServer


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _ask(home: Path, sql: str) -> Callable[[], object]:
    """A command that launches, asks one thing and releases."""

    def command() -> object:
        with launch(home) as server:
            return query(server, sql)

    return command


@pytest.fixture
def private_base(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where root's private places go in this test, instead of the machine's own folder."""
    base = open_folder / "private"
    monkeypatch.setattr(places, "PRIVATE_BASES", (base,))
    return base


@pytest.fixture
def closed_home(open_folder: Path, private_base: Path) -> Path:
    """A home inside of a folder that only we may pass."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    return closed / "home"


def test_an_ordinary_user_has_everything_in_the_home(ordinary: Owner, ordinary_home: Path) -> None:
    """Without root nothing is put anywhere else, and nobody else can look in."""
    assert run_as(ordinary, _ask(ordinary_home, "SELECT 42")) == 42
    assert {path.name for path in ordinary_home.iterdir()} == {"postgres", "postgres.lock"}
    everything = [ordinary_home, *ordinary_home.rglob("*")]
    assert {path.lstat().st_uid for path in everything} == {ordinary.uid}
    assert _mode(ordinary_home / "postgres") == 0o700
    assert not (ordinary_home / "postgres/binaries").exists()


def test_an_ordinary_users_server_is_adopted_too(ordinary: Owner, ordinary_home: Path) -> None:
    """SIGKILL of an ordinary user's command leaves a server that its next command takes over."""

    def hold(line: Line) -> None:
        line.tell(launch(ordinary_home).pid)
        line.wait()

    child = Child(hold, ordinary)
    pid = child.hear()
    child.kill()

    def attach() -> int:
        with launch(ordinary_home) as server:
            return server.pid

    assert run_as(ordinary, attach) == pid


@NEEDS_ROOT
def test_root_lends_the_server_an_unprivileged_user(home: Path) -> None:
    """The server never runs as root; it owns what it writes and nothing more."""
    with launch(home) as server:
        assert server.os_user == owner_of_new_data().name
        assert Path(f"/proc/{server.pid}").stat().st_uid == owner_of_new_data().uid
    owners = {path.name: path.lstat().st_uid for path in (home / "postgres").iterdir()}
    theirs = {name for name, uid in owners.items() if uid != 0}
    assert theirs == {"data", "log", "run"}
    assert {_mode(home / "postgres" / name) for name in theirs} == {0o700}


@NEEDS_ROOT
def test_root_under_a_closed_folder_uses_a_private_one(
    closed_home: Path, private_base: Path
) -> None:
    """Data goes where the server can reach it, and no permission of a parent changes."""
    before = _mode(closed_home.parent)
    with launch(closed_home) as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert server.folder.parent == private_base
        assert json.loads((closed_home / "postgres.json").read_text()) == {
            "folder": str(server.folder)
        }
        folder = server.folder
    assert _mode(closed_home.parent) == before == 0o700
    assert not (closed_home / "postgres").exists()
    assert folder.lstat().st_uid == 0
    with launch(closed_home) as server:
        assert server.folder == folder
        assert query(server, "SELECT answer FROM kept") == 42


@NEEDS_ROOT
def test_a_home_made_anew_does_not_get_the_old_database(closed_home: Path) -> None:
    """Removing the home and making it again starts empty; the old private folder stays."""
    with launch(closed_home) as server:
        old = server.folder
    for path in closed_home.iterdir():
        path.unlink()
    with launch(closed_home) as server:
        assert server.folder != old
    assert (old / "data/PG_VERSION").exists()


@NEEDS_ROOT
def test_a_private_folder_of_somebody_else_is_refused(closed_home: Path) -> None:
    """Root follows its pointer only to a folder that is still root's own."""
    with launch(closed_home) as server:
        folder = server.folder
    os.chown(folder, owner_of_new_data().uid, -1)
    (folder / "data").rename(folder / "elsewhere")
    with pytest.raises(FolderRefusedError, match="belongs to uid"):
        launch(closed_home)
    os.chown(folder, 0, -1)
    folder.chmod(0o777)
    with pytest.raises(FolderRefusedError, match="chmod go-w"):
        launch(closed_home)


@NEEDS_ROOT
def test_root_without_any_open_folder_is_told_so(closed_home: Path, private_base: Path) -> None:
    """Where even the private folders are closed, the error lists what was tried."""
    private_base.mkdir(mode=0o700)
    with pytest.raises(FolderRefusedError, match="closed to"):
        launch(closed_home)
    private_base.rmdir()
    private_base.symlink_to("/tmp")
    with pytest.raises(FolderRefusedError, match="should be a folder"):
        launch(closed_home)


@NEEDS_ROOT
def test_data_that_root_owns_is_refused(home: Path) -> None:
    """After a careless chown the message says how to give the data back."""
    launch(home).release()
    os.chown(home / "postgres/data", 0, 0)
    with pytest.raises(FolderRefusedError, match="chown -R nobody"):
        launch(home)


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ('{"folder": "/nowhere/at/all"}', "bring that folder back"),
        ('{"folder": "relative"}', "bring that folder back"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_refused(closed_home: Path, text: str, said: str) -> None:
    """A lost database is never silently replaced by an empty one."""
    closed_home.mkdir()
    (closed_home / "postgres.json").write_text(text)
    with pytest.raises(FolderRefusedError, match=said):
        launch(closed_home)


@NEEDS_ROOT
def test_another_os_user_cannot_connect(server: RunningServer) -> None:
    """Two doors keep another user out: the socket's folder, and behind it the server's rules."""
    stranger = next(ordinary_users())

    def connect() -> list[str]:
        words = []
        for user in ("farebox", "postgres"):
            with pytest.raises(psycopg.OperationalError) as refusal:
                psycopg.connect(server.conninfo(user=user))
            words.append(str(refusal.value))
        return words

    assert all("Permission denied" in words for words in run_as(stranger, connect))
    run = server.folder / "run"
    run.chmod(0o755)
    for path in run.iterdir():
        path.chmod(0o777)
    assert all("Peer authentication failed" in words for words in run_as(stranger, connect))
    assert query(server, "SELECT 1") == 1


@NEEDS_ROOT
def test_root_uses_an_ordinary_users_database_as_that_user(
    ordinary: Owner, ordinary_home: Path
) -> None:
    """A data folder keeps its owner: root runs its server as that user, who then goes on."""
    assert run_as(ordinary, _ask(ordinary_home, "CREATE TABLE kept AS SELECT 42 AS answer")) is None
    with launch(ordinary_home) as server:
        assert server.os_user == ordinary.name
        assert query(server, "SELECT answer FROM kept") == 42
        assert run_as(ordinary, _ask(ordinary_home, "SELECT answer FROM kept")) == 42
    assert run_as(ordinary, _ask(ordinary_home, "SELECT answer FROM kept")) == 42


@NEEDS_ROOT
def test_somebody_elses_home_is_refused(ordinary: Owner, home: Path) -> None:
    """An ordinary user is told that the database is another's, before anything is touched."""
    launch(home).release()
    answer = run_as(ordinary, lambda: launch(home).pid)
    assert answer["error"] == "FolderRefusedError"
    assert "make it writable" in answer["message"]
    os.chown(home, ordinary.uid, -1)
    (home / "postgres.lock").unlink()
    answer = run_as(ordinary, lambda: launch(home).pid)
    assert answer["error"] == "FolderRefusedError"
    assert "belongs to uid" in answer["message"] or "cannot be used" in answer["message"]


@NEEDS_ROOT
def test_a_nameless_user_is_told_what_to_do(open_folder: Path) -> None:
    """PostgreSQL does not run for a uid without a name, and the message says so at once."""
    folder = open_folder / "theirs"
    folder.mkdir()
    os.chown(folder, nameless().uid, -1)
    answer = run_as(nameless(), lambda: launch(folder / "home").pid)
    assert answer["error"] == "UserRefusedError"
    assert "DATABASE_URL" in answer["message"]


@NEEDS_ROOT
def test_a_home_that_cannot_be_written_is_refused(ordinary: Owner, open_folder: Path) -> None:
    """A folder without write permission gives an error that names it and the ways out."""
    answer = run_as(ordinary, lambda: launch(open_folder / "home").pid)
    assert answer["error"] == "FolderRefusedError"
    assert str(open_folder / "home") in answer["message"]
    assert "FAREBOX_HOME" in answer["message"]


@NEEDS_ROOT
def test_a_database_whose_parents_were_closed_later_is_refused(home: Path) -> None:
    """Root neither opens a parent again nor starts an empty database elsewhere."""
    launch(home).release()
    home.chmod(0o700)
    with pytest.raises(FolderRefusedError, match="may not pass"):
        launch(home)
    assert _mode(home) == 0o700


def test_a_symbolic_link_in_our_place_is_refused(home: Path, open_folder: Path) -> None:
    """What is ours is a folder, never a link that leads somewhere else."""
    home.mkdir()
    (open_folder / "elsewhere").mkdir()
    (home / "postgres").symlink_to(open_folder / "elsewhere")
    with pytest.raises(FolderRefusedError, match="should be a folder"):
        launch(home)


def test_a_name_with_control_characters_is_refused(open_folder: Path) -> None:
    """A newline in the home's name would end a line of the configuration."""
    with pytest.raises(FolderRefusedError, match="control characters"):
        launch(open_folder / "ho\nme")


def test_any_other_name_works(open_folder: Path) -> None:
    """Quotes, commas, blanks, percent signs and letters of any script may be in a home's name."""
    home = open_folder / 'it\'s "a, b" 100% \\ été'
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1


def test_closed_folders_are_found_by_their_permission_bits(
    ordinary: Owner, open_folder: Path
) -> None:
    """The first folder that the user may not pass is named; a missing one closes nothing."""
    inner = open_folder / "outer/inner"
    inner.mkdir(parents=True)
    inner.chmod(0o755)
    inner.parent.chmod(0o755)
    assert closed_folder(inner / "not there", ordinary) is None
    inner.parent.chmod(0o644)
    assert closed_folder(inner, ordinary) == inner.parent
    inner.parent.chmod(0o755)
