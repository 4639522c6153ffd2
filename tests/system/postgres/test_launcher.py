"""The promises of the launcher, with real processes: DESIGN decision 1."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from farebox.system.postgres import cluster, postmaster
from farebox.system.postgres.errors import (
    BusyError,
    DiskFullError,
    FolderRefusedError,
    MajorVersionError,
    StartFailedError,
    StartTimeoutError,
)
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import Owner, owner_of_new_data
from farebox.system.postgres.place import Place
from farebox.system.postgres.watch import Postmaster, members, running_postmaster
from tests.support.postgres_people import Child, Line, kill_cluster, query, run_as, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from farebox.system.postgres.server import RunningServer


def _place(home: Path) -> Place:
    return Place(home / "postgres", owner_of_new_data())


def _launch_and_hold(home: Path, line: Line) -> None:
    """The life of a command: launch, work, release."""
    server = launch(home)
    line.tell(server.pid)
    line.wait()
    server.release()


@contextlib.contextmanager
def _foreign_process(owner: Owner) -> Iterator[int]:
    """A process of the server's own OS user that is no PostgreSQL."""
    with subprocess.Popen(["sleep", "60"], cwd="/", **owner.identity()) as process:
        yield process.pid
        assert process.poll() is None, "the launcher killed somebody else's process"
        process.kill()


def test_the_first_launch_makes_a_database_that_keeps_what_it_acknowledges(
    server: RunningServer,
) -> None:
    """From an empty folder comes a durable server that listens on its socket alone."""
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_sync_retry": "off",
        "data_checksums": "on",
        "listen_addresses": "",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "lc_messages": "C",
        "is_superuser": "off",
        "logging_collector": "on",
        "idle_in_transaction_session_timeout": "1min",
    }
    assert {name: query(server, f"SHOW {name}") for name in expected} == expected
    assert query(server, "SELECT datcollate FROM pg_database WHERE datname = 'farebox'") == "C"
    assert query(server, "SHOW server_version").startswith("18.")


def test_role_and_database_count_as_the_users_own(server: RunningServer) -> None:
    """Dumps and upgrades leave out what has a system object's number, so ours have none."""
    assert query(server, "SELECT oid >= 16384 FROM pg_database WHERE datname = 'farebox'")
    assert query(server, "SELECT oid >= 16384 FROM pg_roles WHERE rolname = 'farebox'")


def test_what_makes_it_durable_cannot_be_switched_off(server: RunningServer) -> None:
    """Not even the superuser can write settings that outlive a restart."""
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="ALTER SYSTEM"):
        query(server, "ALTER SYSTEM SET fsync = off", user="postgres")


def test_data_outlives_the_server(home: Path) -> None:
    """What one command wrote the next one reads, through a stop and a start between them."""
    with launch(home) as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = server.pid
    assert running_postmaster(_place(home)) is None
    with launch(home) as server:
        assert server.pid != first
        assert query(server, "SELECT answer FROM kept") == 42


def test_the_last_clean_stop_stops_it_and_no_earlier_one(home: Path) -> None:
    """Two commands share one server; it ends with the second, in whatever order they end."""
    children = [Child(lambda line: _launch_and_hold(home, line)) for _ in range(2)]
    pids = [child.hear() for child in children]
    assert pids[0] == pids[1]
    children[0].go()
    assert children[0].end() is None
    assert running_postmaster(_place(home)) is not None
    children[1].go()
    assert children[1].end() is None
    assert members(_place(home)) == []


def test_commands_that_race_for_an_empty_home_share_one_server(home: Path) -> None:
    """Several first commands at once make one database and start one server."""
    children = [Child(lambda line: _launch_and_hold(home, line)) for _ in range(4)]
    assert len({child.hear() for child in children}) == 1
    for child in children:
        child.go()
    assert [child.end() for child in children] == [None] * 4
    assert members(_place(home)) == []


def test_a_server_left_by_a_killed_command_is_adopted(home: Path) -> None:
    """The next command takes over the very server of a killed one, and stops it in the end."""
    child = Child(lambda line: _launch_and_hold(home, line))
    pid = child.hear()
    child.kill()
    assert running_postmaster(_place(home)) is not None
    with launch(home) as server:
        assert server.pid == pid
        assert query(server, "SELECT 1") == 1
    assert members(_place(home)) == []


def test_a_killed_server_is_started_again_with_all_it_acknowledged(
    home: Path, server: RunningServer
) -> None:
    """After SIGKILL of the postmaster the same address serves the committed rows."""
    address = server.dsn
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not server.ensure_running()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: running_postmaster(_place(home)) is None)
    assert server.ensure_running()
    assert server.dsn == address
    assert query(server, "SELECT answer FROM kept") == 42


def test_orphans_of_a_killed_server_are_waited_for(
    home: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that outlives its postmaster keeps a second server away until it is gone."""
    monkeypatch.setattr(postmaster, "ORPHAN_SECONDS", 0.3)
    with psycopg.connect(server.dsn) as connection:
        # Stopped, it neither sees its parent die nor obeys an order, as if stuck in the kernel.
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: running_postmaster(_place(home)) is None)
        assert server.ensure_running()
        assert connection.info.backend_pid not in members(_place(home))
        connection.close()
    assert query(server, "SELECT 1") == 1


def test_a_server_out_of_sight_is_never_doubled(
    home: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pid means nothing here, as in another container, the command is refused."""
    monkeypatch.setattr(postmaster, "ORPHAN_SECONDS", 0.1)
    with monkeypatch.context() as blind:
        blind.setattr(postmaster, "running_postmaster", lambda _place: None)
        blind.setattr(postmaster, "members", lambda _place: [])
        with pytest.raises(BusyError, match="another container"):
            launch(home)
    assert query(server, "SELECT 1") == 1


def test_a_stale_pid_file_with_somebody_elses_pid_does_not_count(home: Path) -> None:
    """A pid that went to another process of the same user neither blocks a start nor dies."""
    child = Child(lambda line: _launch_and_hold(home, line))
    child.hear()
    place = _place(home)
    pid_file = place.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    child.kill()
    kill_cluster(place)
    with _foreign_process(place.owner) as pid:
        pid_file.write_text("\n".join([str(pid), *lines[1:]]) + "\n")
        os.chown(pid_file, place.owner.uid, place.owner.gid)
        with launch(home) as server:
            assert server.pid != pid
            assert query(server, "SELECT 1") == 1


@pytest.mark.parametrize("found", ["15", "16"])
def test_a_folder_of_an_older_major_version_is_refused_with_the_upgrade(
    home: Path, found: str
) -> None:
    """An old data folder is left alone, and the message names both versions and the commands."""
    launch(home).release()
    (home / "postgres/data/PG_VERSION").write_text(f"{found}\n")
    with pytest.raises(MajorVersionError) as refusal:
        launch(home)
    words = refusal.value.message
    assert f"written by PostgreSQL {found}" in words
    assert "carries PostgreSQL 18" in words
    assert "pg_upgrade" in words
    assert f"-d {home}/postgres/data -D" in words
    assert members(_place(home)) == []


def test_a_folder_of_a_newer_major_version_is_refused_without_an_upgrade(home: Path) -> None:
    """There is no way back from a newer PostgreSQL, and the message does not pretend one."""
    launch(home).release()
    (home / "postgres/data/PG_VERSION").write_text("19\n")
    with pytest.raises(MajorVersionError) as refusal:
        launch(home)
    assert "PostgreSQL 19" in refusal.value.message
    assert "pg_upgrade" not in refusal.value.message


def test_an_interrupted_first_launch_is_done_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command killed while it makes the database leaves nothing that the next one trips over."""
    run = cluster._run

    def first_step_then_stop(line: Line) -> None:
        steps = iter((run,))

        def step(*arguments: object, **options: object) -> None:
            action = next(steps, None)
            if action is None:
                line.tell("half done")
                line.wait()
            else:
                action(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(cluster, "_run", step)
        launch(home)

    child = Child(first_step_then_stop)
    assert child.hear() == "half done"
    child.kill()
    assert list((home / "postgres").glob("data.draft-*"))
    assert not (home / "postgres/data").exists()
    with launch(home) as server:
        assert query(server, "SELECT current_database()") == "farebox"
    assert not list((home / "postgres").glob("data.draft-*"))


def test_a_folder_that_is_no_database_is_left_alone(home: Path) -> None:
    """Somebody's files in the data folder's place are neither used nor deleted."""
    launch(home).release()
    (home / "postgres/data/PG_VERSION").unlink()
    with pytest.raises(FolderRefusedError, match="PG_VERSION"):
        launch(home)
    assert (home / "postgres/data/global").is_dir()


def test_a_damaged_database_is_refused_in_the_servers_own_words(home: Path) -> None:
    """When the server ends at once, the error shows why."""
    launch(home).release()
    (home / "postgres/data/global/pg_control").unlink()
    with pytest.raises(StartFailedError, match="pg_control"):
        launch(home)
    assert members(_place(home)) == []


def test_a_slow_start_is_reported_and_adopted_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not ready in time goes on, and the next command takes it over."""
    launch(home).release()
    with monkeypatch.context() as slow:
        slow.setattr(postmaster, "START_SECONDS_MAX", 0.5)
        slow.setattr(Postmaster, "ready", property(lambda _self: False))
        with pytest.raises(StartTimeoutError, match="starting PostgreSQL 18"):
            launch(home)
    left = running_postmaster(_place(home))
    assert left is not None
    with launch(home) as server:
        assert server.pid == left.pid


def test_a_full_disk_is_refused_before_it_hurts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little room for a database is an error of its own that says what to do."""
    monkeypatch.setattr(cluster, "ROOM_BYTES_MIN", 2**62)
    with pytest.raises(DiskFullError, match="make some room"):
        launch(home)
    monkeypatch.undo()
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1


def test_a_home_may_move_under_a_running_server(home: Path) -> None:
    """A server found under the home's old name is started again under the new one."""
    child = Child(lambda line: _launch_and_hold(home, line))
    old = child.hear()
    child.kill()
    moved = home.rename(home.with_name("moved"))
    with launch(moved) as server:
        assert server.pid != old
        assert query(server, "SELECT 1") == 1
    assert members(_place(moved)) == []


def test_a_lost_socket_comes_back(home: Path) -> None:
    """A cleaner of temporary files may take the socket; the next command serves again."""
    child = Child(lambda line: _launch_and_hold(home, line))
    child.hear()
    child.kill()
    next((home / "postgres/run").glob(".s.PGSQL.*")).unlink()
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1


def test_a_long_home_gets_a_short_socket(open_folder: Path) -> None:
    """A home deeper than a socket path may be long still works, and leaves no folder behind."""
    home = open_folder / ("deep" * 20) / ("deeper" * 10)
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1
        short = _place(home).socket_folders[-1]
        assert short.parent.name == "tmp"
        assert short.stat().st_mode & 0o777 == 0o700
        assert str(short).replace("/", "%2F") in server.dsn
    assert not short.exists()


def test_a_socket_folder_that_somebody_else_may_change_is_refused(open_folder: Path) -> None:
    """Another user who guesses the name of the short folder cannot stand between us."""
    home = open_folder / ("deep" * 40)
    short = _place(home).socket_folders[-1]
    short.mkdir()
    short.chmod(0o777)
    os.chown(short, _place(home).owner.uid, -1)
    try:
        with pytest.raises(FolderRefusedError, match="other users may change"):
            launch(home)
    finally:
        short.rmdir()


def test_a_server_that_does_not_stop_is_reported(
    home: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that cannot stop the server says so, and nothing is killed outright."""
    monkeypatch.setattr(postmaster, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(postmaster, "ORPHAN_SECONDS", 0.1)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(BusyError, match="does not stop"):
        server.release()
    os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: members(_place(home)) == [])


def test_the_environment_does_not_change_the_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's own variables in the user's shell mean nothing to the bundled one."""
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "PGHOST": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    with launch(home) as server:
        assert query(server, "SELECT 1") == 1


def test_a_forked_child_cannot_release_its_parents_server(server: RunningServer) -> None:
    """A release in a child process leaves the server to the process that launched it."""
    assert run_as(None, server.release) is None
    assert query(server, "SELECT 1") == 1


def test_logs_are_bounded(
    home: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest log files go; the one in use stays, whatever its size."""
    logs = home / "postgres/log"
    for year in (1990, 1991):
        (logs / f"server-{year}0101-0000.log").write_bytes(b"x" * 1024)
    monkeypatch.setattr(postmaster, "LOG_BYTES_MAX", 1536)
    server.ensure_running()
    assert [path.name[:11] for path in sorted(logs.iterdir())] != []
    assert not (logs / "server-19900101-0000.log").exists()
    monkeypatch.setattr(postmaster, "LOG_BYTES_MAX", 0)
    server.ensure_running()
    assert len(list(logs.iterdir())) == 1
    assert "ready to accept connections" in server.last_words
