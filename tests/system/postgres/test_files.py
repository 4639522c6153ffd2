"""Locks that are waited for, and files that nobody can put in our way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from farebox.system.postgres import files
from farebox.system.postgres.errors import (
    BusyError,
    DiskFullError,
    FolderRefusedError,
    explained,
)
from farebox.system.postgres.files import exclusive, read_tail, write_text
from tests.support.postgres_people import Child, Line

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lock_that_is_kept_too_long_names_its_holder(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that waits in vain says which process keeps it waiting; then it is free again."""
    path = open_folder / "lock"

    def hold(line: Line) -> None:
        with exclusive(path):
            line.tell("held")
            line.wait()

    child = Child(hold)
    assert child.hear() == "held"
    monkeypatch.setattr(files, "LOCK_SECONDS_MAX", 0.05)
    with pytest.raises(BusyError, match=rf"pid {child.pid}\)"), exclusive(path):
        pass
    child.kill()
    with exclusive(path):
        pass


def test_a_link_in_place_of_a_file_is_not_followed(open_folder: Path) -> None:
    """A symbolic link under one of our names is neither read, nor locked, nor written through."""
    target = open_folder / "target"
    target.write_text("theirs")
    link = open_folder / "link"
    link.symlink_to(target)
    assert read_tail(link) == ""
    with pytest.raises(OSError, match="symbolic links"), exclusive(link):
        pass
    write_text(link, "ours", 0o600)
    assert target.read_text() == "theirs"
    assert link.read_text() == "ours"
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, FolderRefusedError),
        (errno.EROFS, FolderRefusedError),
        (errno.EIO, OSError),
    ],
)
def test_what_the_system_says_becomes_what_to_do(
    open_folder: Path, number: int, kind: type[Exception]
) -> None:
    """No room and no permission are errors with advice; anything else stays as it is."""
    with pytest.raises(kind, match=str(open_folder)), explained(open_folder):
        raise OSError(number, os.strerror(number), str(open_folder))
