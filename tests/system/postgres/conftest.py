"""Homes to launch the bundled PostgreSQL in, and people to launch it as."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from farebox.system.postgres import binaries
from farebox.system.postgres.launcher import launch
from farebox.system.postgres.owner import Owner, closed_folder, owner_by_uid
from farebox.system.postgres.place import Place
from tests.support.postgres_people import kill_cluster, ordinary_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farebox.system.postgres.server import RunningServer

MEMORY_BYTES_MIN = 2 * 1024**3


def _base() -> Path:
    """Memory if there is room: making a data folder on a slow disk takes seconds."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        return Path("/tmp")
    return memory if shutil.disk_usage(memory).free > MEMORY_BYTES_MIN else Path("/tmp")


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


@pytest.fixture
def server(home: Path) -> Iterator[RunningServer]:
    """A server launched by this process."""
    with launch(home) as running:
        yield running


@pytest.fixture(scope="session")
def open_binaries() -> Iterator[binaries.Binaries]:
    """The wheel's programs where every user can run them: a copy if this checkout is closed."""
    found = binaries.locate()
    somebody = next(ordinary_users())
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
    return next(ordinary_users())


@pytest.fixture
def ordinary_home(ordinary: Owner, open_folder: Path) -> Path:
    """A home that is not there yet, in a folder of the ordinary user alone."""
    folder = open_folder / "theirs"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, ordinary.uid, ordinary.gid)
    return folder / "home"
