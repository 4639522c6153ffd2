"""Other OS users and other processes to launch the bundled PostgreSQL as.

A child process here is a fork, not a new program: so it can become any OS user even where that user
could not reach this Python.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import pwd
import signal
import time
import warnings
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from farebox.system.postgres.owner import Owner, owner_by_uid
from farebox.system.postgres.watch import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from farebox.system.postgres.place import Place
    from farebox.system.postgres.server import RunningServer

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NAMELESS_UID = 1_234_567
"""Nobody is called that anywhere."""

_PATIENCE_SECONDS = 30.0

# Codecs are loaded when first used, and a child that became somebody else may not reach them.
for _codec in ("ascii", "idna", "utf-8"):
    codecs.lookup(_codec)


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

    def __init__(self, script: Callable[[Line], object], user: Owner | None = None) -> None:
        to_child, to_test = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # The test runner may have a thread; the child only launches and talks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(to_child[1])  # or the child would never hear that the test is gone
            line = Line(to_child[0], to_test[1])
            try:
                _become(user)
                line.tell({"result": script(line)})
            except BaseException as error:  # noqa: BLE001 - told to the test, which judges it
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
        """See the child end; what it gave, or its error as a mapping."""
        answer = self.hear()
        self._bury()
        return answer.get("result", answer)

    def kill(self) -> None:
        """SIGKILL the child, as a machine short of memory would."""
        os.kill(self.pid, signal.SIGKILL)
        self._bury()

    def _bury(self) -> None:
        os.waitpid(self.pid, 0)
        self._hear.close()
        os.close(self._say)


def run_as(user: Owner | None, script: Callable[[], object]) -> Any:
    """Run a function in a child and give back what it gave, or its error as a mapping."""
    return Child(lambda _line: script(), user).end()


def ordinary_users() -> Iterator[Owner]:
    """Named OS users that are neither root, nor nobody, nor ourselves."""
    nobody = pwd.getpwnam("nobody").pw_uid
    for entry in sorted(pwd.getpwall(), key=lambda entry: entry.pw_uid):
        if entry.pw_uid not in {0, nobody, os.geteuid()}:
            yield owner_by_uid(entry.pw_uid)


def nameless() -> Owner:
    """An OS user that the user database does not know."""
    return Owner(NAMELESS_UID, NAMELESS_UID, "", lent=False)


def query(server: RunningServer, sql: str, *, user: str = "farebox") -> Any:
    """The first value that a statement answers, over a connection of its own."""
    with psycopg.connect(server.conninfo(user=user), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def kill_cluster(place: Place) -> None:
    """SIGKILL every process of a server."""
    while pids := members(place):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    patience_until = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < patience_until, "it never happened"
        time.sleep(0.01)


def _become(user: Owner | None) -> None:
    os.chdir("/")
    if user is not None and user.uid != os.geteuid():
        os.setgroups([])
        os.setgid(user.gid)
        os.setuid(user.uid)
