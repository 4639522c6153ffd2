"""Passwords of people: argon2id, slow on purpose, checked off the event loop.

A wrong address costs as much time as a wrong password, so nobody learns who may sign in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from farebox.kit.errors import InvalidInputError

SALT_BYTES: Final = 16
"""Random bytes that one password takes (RFC 9106)."""

PASSWORD_LENGTH_MIN: Final = 12
PASSWORD_LENGTH_MAX: Final = 1_000
"""A longer one is no password; hashing it would only cost time."""

CHECKS_AT_ONCE: Final = 2
"""Each takes 64 MiB and some 50 ms of every core it gets."""

DECOY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA"
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
"""What an unknown address is checked against: as slow as the real thing, and nothing opens it."""

_HASHER: Final = PasswordHasher()  # the library's defaults: RFC 9106, low memory


def check_password(password: str) -> None:
    """Refuse what is no password to begin with.

    Raises:
        InvalidInputError: Its length.
    """
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        raise InvalidInputError(
            "password", f"must have from {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters"
        )


def hash_password(password: str, salt: bytes) -> str:
    """Hash a password for keeping; blocks for a while.

    Args:
        password: As it was chosen.
        salt: :data:`SALT_BYTES` random bytes.
    """
    assert len(salt) == SALT_BYTES, len(salt)
    return _HASHER.hash(password, salt=salt)


def password_matches(password: str, password_hash: str) -> bool:
    """Tell whether it is the password; blocks for a while."""
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


class PasswordDesk:
    """Checks and makes passwords in threads, a few at once: signing in never stops the pages."""

    def __init__(self, *, chance: Callable[[int], bytes]) -> None:
        """Begin.

        Args:
            chance: Gives so many random bytes, good enough for secrets.
        """
        self._chance = chance
        self._turns = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Tell whether it is the password.

        Args:
            password: As it was typed.
            password_hash: None for an address that nobody has: takes as long, and says no.
        """
        if not 0 < len(password) <= PASSWORD_LENGTH_MAX:
            return False
        async with self._turns:
            matched = await asyncio.to_thread(password_matches, password, password_hash or DECOY)
        return matched and password_hash is not None

    async def hash(self, password: str) -> str:
        """The hash under which a new password is kept.

        Raises:
            InvalidInputError: It is too short, or too long.
        """
        check_password(password)
        salt = self._chance(SALT_BYTES)
        async with self._turns:
            return await asyncio.to_thread(hash_password, password, salt)
