"""Secrets at rest."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farebox.system.secrets import KEY_FILE, SecretBox, SecretKeyError, make_password, random_bytes


def test_a_secret_comes_back_and_its_stored_form_tells_nothing(tmp_path: Path) -> None:
    """What is sealed opens again, is never stored readable, and the key file is ours alone."""
    home = tmp_path / "home"
    sealed = SecretBox(home).seal("sk-secret")
    assert b"sk-secret" not in sealed
    assert SecretBox(home).open(sealed) == "sk-secret"
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [KEY_FILE]


def test_two_that_make_the_key_file_at_once_use_one(tmp_path: Path) -> None:
    """Of several first uses at the same moment one key file comes out, and all can open all."""
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda n: SecretBox(tmp_path).seal(str(n)), range(8)))
    assert [SecretBox(tmp_path).open(each) for each in sealed] == list(map(str, range(8)))


def test_a_missing_key_file_is_explained(tmp_path: Path) -> None:
    """Without the file nothing opens, and no new file is made that would hide the loss."""
    sealed = SecretBox(tmp_path).seal("x")
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(SecretKeyError, match="is missing"):
        SecretBox(tmp_path).open(sealed)
    assert not (tmp_path / KEY_FILE).exists()


def test_another_key_file_is_explained(tmp_path: Path) -> None:
    """A secret of another installation does not open, and the message says what to restore."""
    sealed = SecretBox(tmp_path / "one").seal("x")
    SecretBox(tmp_path / "other").seal("y")
    with pytest.raises(SecretKeyError, match="is not the key"):
        SecretBox(tmp_path / "other").open(sealed)


def test_a_damaged_key_file_is_explained(tmp_path: Path) -> None:
    """A file that holds no key is not taken for one."""
    (tmp_path / KEY_FILE).write_text("not a key")
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(SecretKeyError, match="holds no key"):
        SecretBox(tmp_path).seal("x")


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key that others may have read is no longer one; the message says how to mend it."""
    SecretBox(tmp_path).seal("x")
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(SecretKeyError, match="chmod 600"):
        SecretBox(tmp_path).seal("x")


def test_chance_does_not_repeat() -> None:
    """Two draws differ, and a password has no letter that is easily misread."""
    assert random_bytes(10) != random_bytes(10)
    assert len(random_bytes(32)) == 32
    password = make_password()
    assert password != make_password()
    assert len(password) == 19
    assert not set(password) & set("l1oO0I")


def test_a_mark_stands_for_data_and_is_of_one_house(tmp_path: Path) -> None:
    """The same data has the same mark here and another elsewhere, so nobody tries passwords out."""
    here, there = SecretBox(tmp_path / "here"), SecretBox(tmp_path / "there")
    mark = here.mark(b"a password")
    assert len(mark) == 32
    assert SecretBox(tmp_path / "here").mark(b"a password") == mark
    assert here.mark(b"a passwore") != mark
    assert there.mark(b"a password") != mark
