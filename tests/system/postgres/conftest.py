"""Homes to launch in, and other people and processes to launch as.

A child process here is a fork, not a new program: so it can become any OS user even where that user
could not reach this Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from farebox.system.postgres import binaries, watch
from farebox.system.postgres.errors import BundledPostgresError
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import Owner, closed_folder, owner_by_uid
from farebox.system.postgres.place import Place
from farebox.system.postgres.server import RunningServer

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_PATIENCE_SECONDS = 30.0

type_of_script = Callable[["Line"], Any]


class Line:
    """The child's end of its talk with the test."""

    def __init__(self, hear: int, say: int) -> None:
        self._hear = hear
        self._say = say

    def tell(self, word: object) -> None:
        """Say one thing to the test."""
        os.write(self._say, json.dumps(word).encode() + b"\n")

    def wait(self) -> None:
        """Wait until the test says go."""
        os.read(self._hear, 1)


class Child:
    """A forked process that runs a function, maybe as another OS user."""

    def __init__(self, script: type_of_script, owner: Owner | None = None, uid: int = -1) -> None:
        to_child, to_test = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # The test runner may have a thread; the child only talks and launches.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            line = Line(to_child[0], to_test[1])
            os.close(to_child[1])  # or the child would never hear that the test is gone
            try:
                os.chdir("/")
                if owner is not None and owner.uid != os.geteuid():
                    os.setgroups([])
                    os.setgid(owner.gid)
                    os.setuid(owner.uid)
                elif uid >= 0:
                    os.setgroups([])
                    os.setgid(uid)
                    os.setuid(uid)
                line.tell({"result": script(line)})
            except BaseException as error:
                line.tell({"error": type(error).__name__, "message": str(error)})
            finally:
                os._exit(0)
        os.close(to_child[0])
        os.close(to_test[1])
        self._say = to_child[1]
        self._hear = os.fdopen(to_test[0], "rb")

    def hear(self) -> Any:
        """The next thing that the child says."""
        answer = self._hear.readline()
        assert answer, "the child died without a word"
        return json.loads(answer)

    def go(self) -> None:
        """Let the child go on from its wait."""
        os.write(self._say, b"!")

    def end(self) -> Any:
        """Hear the result and see the child end."""
        answer = self.hear()
        os.waitpid(self.pid, 0)
        self._close()
        return answer

    def kill(self) -> None:
        """SIGKILL the child, as a machine short of memory would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._close()

    def _close(self) -> None:
        self._hear.close()
        os.close(self._say)


def run_as(owner: Owner | None, script: Callable[[], Any], uid: int = -1) -> Any:
    """Run a function in a child and give back what it gave, or its error as a mapping."""
    answer = Child(lambda _line: script(), owner, uid).end()
    return answer.get("result", answer)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    patience_until = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < patience_until, "it never happened"
        time.sleep(0.01)


def query(server: RunningServer, sql: str, *, user: str = "farebox") -> Any:
    """The first value that a statement answers, over a connection of its own."""
    with psycopg.connect(server.conninfo(user=user), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def kill_cluster(place: Place) -> None:
    """SIGKILL every process of a server."""
    while pids := watch.members(place):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _base() -> Path:
    """Memory if there is room: making a data folder on a slow disk takes seconds."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        if shutil.disk_usage(memory).free > 2 * 1024**3:
            return memory
    return Path("/tmp")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents every user may pass; servers left in it are killed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fbx-test-", dir=_base())).resolve()
    folder.chmod(0o755)
    yield folder
    for found in folder.rglob("PG_VERSION"):
        uid = found.stat().st_uid
        if found.parent.name == "data" and uid != 0:
            kill_cluster(Place(found.parents[1], owner_by_uid(uid)))
    shutil.rmtree(folder)


@pytest.fixture
def home(open_folder: Path) -> Path:
    """A ``FAREBOX_HOME`` that is not there yet."""
    return open_folder / "home"


@pytest.fixture(scope="session")
def open_binaries() -> Iterator[binaries.Binaries]:
    """The wheel's programs where every user can run them: a copy if this checkout is closed."""
    found = binaries.locate()
    somebody = next(_ordinary_users())
    if os.geteuid() != 0 or closed_folder(found.programs, somebody) is None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="fbx-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield binaries.binaries_for(somebody, Path(folder) / "binaries")


@pytest.fixture
def ordinary(open_binaries: binaries.Binaries, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """An ordinary OS user with a name: ourselves, or under root somebody who is not nobody."""
    monkeypatch.setattr(binaries, "locate", lambda: open_binaries)
    if os.geteuid() != 0:
        return owner_by_uid(os.geteuid())
    return next(_ordinary_users())


@pytest.fixture
def stranger(ordinary: Owner) -> Owner:
    """Another ordinary OS user."""
    return next(user for user in _ordinary_users() if user.uid != ordinary.uid)


@pytest.fixture
def ordinary_home(ordinary: Owner, open_folder: Path) -> Path:
    """A home that is not there yet in a folder of the ordinary user."""
    folder = open_folder / "theirs"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, ordinary.uid, ordinary.gid)
    return folder / "home"


@pytest.fixture
def server(home: Path) -> Iterator[RunningServer]:
    """A server launched by this process."""
    with launch(home) as running:
        yield running


def _ordinary_users() -> Iterator[Owner]:
    nobody = pwd.getpwnam("nobody").pw_uid
    for entry in sorted(pwd.getpwall(), key=lambda entry: entry.pw_uid):
        if entry.pw_uid not in {0, nobody, os.geteuid()}:
            yield owner_by_uid(entry.pw_uid)


__all__ = ["BundledPostgresError"]
