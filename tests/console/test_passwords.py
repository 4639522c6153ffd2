"""Passwords are argon2id, and an unknown address costs what a wrong password costs."""

from __future__ import annotations

import argon2
import pytest

from farebox.console import passwords
from farebox.console.passwords import (
    DECOY,
    PASSWORD_LENGTH_MAX,
    PasswordDesk,
    hash_password,
    password_matches,
)


def test_a_password_opens_its_own_hash_alone() -> None:
    """The right password matches, others do not, and neither does a damaged hash."""
    hashed = hash_password("correct horse battery", b"0123456789abcdef")
    assert hashed.startswith("$argon2id$")
    assert password_matches("correct horse battery", hashed)
    assert not password_matches("correct horse batterz", hashed)
    assert not password_matches("correct horse battery", "no hash at all")


def test_the_salt_makes_equal_passwords_differ() -> None:
    """Two people with one password cannot be told by the table."""
    assert hash_password("the same", bytes(16)) != hash_password("the same", bytes(15) + b"1")


def test_the_decoy_costs_what_a_real_hash_costs() -> None:
    """An unknown address is checked with the very parameters of real passwords."""
    real = argon2.extract_parameters(hash_password("anything", bytes(16)))
    assert argon2.extract_parameters(DECOY) == real


async def test_an_unknown_address_is_hashed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures time learns nothing: the decoy is verified, and never says yes."""
    checked: list[str] = []

    def yes(_: str, password_hash: str) -> bool:
        checked.append(password_hash)
        return True

    monkeypatch.setattr(passwords, "password_matches", yes)
    assert not await PasswordDesk(chance=bytes).matches("anything", None)
    assert checked == [DECOY]


@pytest.mark.parametrize("password", ["", "x" * (PASSWORD_LENGTH_MAX + 1)])
async def test_a_text_that_is_no_password_is_not_hashed(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing megabytes would only cost time."""
    monkeypatch.setattr(passwords, "password_matches", pytest.fail)
    assert not await PasswordDesk(chance=bytes).matches(password, DECOY)
