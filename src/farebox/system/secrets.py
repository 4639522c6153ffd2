"""Chance, and secrets at rest: random bytes, passwords, and the box that provider keys lie in.

A provider's key is stored encrypted (Fernet: AES-128-CBC with HMAC-SHA256) under a key that lives
in a file of FAREBOX_HOME and never in the database, so that a stolen backup of the database alone
opens nothing. Several nodes on one database share the file's content.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from farebox.kit.errors import FareboxError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_FILE: Final = "secrets.key"
"""Its name in FAREBOX_HOME."""

_KEY_FILE_BYTES_MAX: Final = 4096
_MARK: Final = b"farebox mark\0"
"""What else is ever made with that key cannot be taken for a mark."""

_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that is easily misread


class SecretKeyError(FareboxError):
    """Secrets cannot be read: the key file of FAREBOX_HOME is missing, or another one."""

    code: ClassVar[str] = "secret_key"


def random_bytes(count: int) -> bytes:
    """So many random bytes, good enough for ids and keys."""
    return secrets.token_bytes(count)


def make_password() -> str:
    """A password that can be read aloud: 80 random bits in four groups."""
    letters = [secrets.choice(_LETTERS) for _ in range(16)]
    return "-".join("".join(letters[i : i + 4]) for i in range(0, 16, 4))


class SecretBox:
    """Seals and opens texts with the key file of one home."""

    def __init__(self, home: Path) -> None:
        """Remember where; nothing is read before it is needed."""
        self._path = home / KEY_FILE

    def seal(self, text: str) -> bytes:
        """Encrypt; the key file is made where there is none yet.

        Raises:
            SecretKeyError: The key file cannot be made or used.
        """
        if not self._path.exists():
            self._make()
        return self._fernet().encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Decrypt.

        Raises:
            SecretKeyError: The key file is missing, or is not the one it was sealed with.
        """
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # 30 ms: only who needs it

        try:
            return self._fernet().decrypt(sealed).decode()
        except InvalidToken as error:
            raise SecretKeyError(
                f"{self._path} is not the key that the stored secrets were encrypted with: restore "
                "that file from a backup or another node, or remove the providers and add them "
                "again with their keys."
            ) from error

    def mark(self, data: bytes) -> bytes:
        """Give 32 bytes that stand for data, for comparing it later.

        Without the key file nobody can try out what the data was, however short it is.

        Raises:
            SecretKeyError: The key file cannot be made or used.
        """
        if not self._path.exists():
            self._make()
        return hmac.digest(self._key(), _MARK + data, "sha256")

    def _fernet(self) -> Fernet:
        from cryptography.fernet import Fernet  # noqa: PLC0415  # 30 ms: only who needs it

        try:
            return Fernet(self._key())
        except ValueError as error:
            raise SecretKeyError(
                f"{self._path} holds no key: restore that file from a backup or another node."
            ) from error

    def _key(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                key = file.read(_KEY_FILE_BYTES_MAX).strip()
        except FileNotFoundError as error:
            raise SecretKeyError(
                f"{self._path} is missing, and with it the key of the stored secrets: restore that "
                "file from a backup or another node, or remove the providers and add them again "
                "with their keys."
            ) from error
        except OSError as error:
            raise SecretKeyError(f"{self._path} cannot be read: {error.strerror}.") from error
        if mode & 0o077:
            raise SecretKeyError(
                f"{self._path} can be read by others (mode {mode:04o}): chmod 600 it, and change "
                "the providers' keys if somebody else may have read it."
            )
        return key

    def _make(self) -> None:
        """Make the key file whole or not at all; of two that make it at once, the first wins."""
        from cryptography.fernet import Fernet  # noqa: PLC0415  # 30 ms: only who needs it

        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=self._path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(Fernet.generate_key() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(draft, self._path)
            finally:
                Path(draft).unlink()
        except OSError as error:
            raise SecretKeyError(f"{self._path} cannot be made: {error.strerror}.") from error
