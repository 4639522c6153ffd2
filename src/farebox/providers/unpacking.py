"""Unwrapping a body that came compressed although nobody asked for it.

Some proxies ignore ``accept-encoding: identity``, and the usage that a call is charged by must not
hide from us. Pieces come out as their bytes come in, at most a limited size at a time, so that a
small body that unfolds into a huge one meets its reader's limit before it fills the memory.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PIECE_BYTES_MAX: Final = 256 * 1024
"""The largest piece that comes out at once."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_BARE: Final = -zlib.MAX_WBITS


class UnpackingError(Exception):
    """The body is compressed in a way that cannot be read; the text says how."""


def unpacker_of(codings: Iterable[str]) -> Unpacker | None:
    """What unwraps a body with these values of ``content-encoding``; None if nothing wraps it.

    Raises:
        UnpackingError: They name anything but gzip or deflate, or several of them.
    """
    named = [token for value in codings for coding in value.split(",") if (token := coding.strip())]
    wrapped = [token.lower() for token in named if token.lower() != "identity"]
    if not wrapped:
        return None
    if wrapped not in (["gzip"], ["x-gzip"], ["deflate"]):
        raise UnpackingError("its body is compressed in a way that was not asked for")
    return Unpacker(is_gzip=wrapped != ["deflate"])


class Unpacker:
    """Takes compressed bytes, gives plain ones."""

    __slots__ = ("_begun", "_is_gzip", "_packed", "_zlib")

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._zlib = zlib.decompressobj(_GZIP if is_gzip else _ZLIB)
        self._packed = b""
        self._begun = False

    def add(self, packed: bytes) -> None:
        """More of the body; what was added before has been taken."""
        if not self._begun and not self._is_gzip and packed[0] & 0x0F != 8:
            # Some servers leave the wrapping away that "deflate" stands for (RFC 9110, 8.4.1.2).
            self._zlib = zlib.decompressobj(_BARE)
        self._begun = True
        self._packed += packed

    def take(self) -> bytes:
        """The next plain bytes, or empty if that takes more of the body.

        Raises:
            UnpackingError: The body is damaged.
        """
        while self._packed:
            if self._zlib.eof:
                if not self._is_gzip:
                    raise UnpackingError("its compressed body goes on after its end")
                self._zlib = zlib.decompressobj(_GZIP)  # gzip may come in several members
            try:
                plain = self._zlib.decompress(self._packed, PIECE_BYTES_MAX)
            except zlib.error as error:
                raise UnpackingError("its compressed body is damaged") from error
            self._packed = self._zlib.unconsumed_tail or self._zlib.unused_data
            if plain:
                return plain
        return b""

    def check_end(self) -> None:
        """The body has come to its end.

        Raises:
            UnpackingError: It was cut short.
        """
        if self._begun and not self._zlib.eof:
            raise UnpackingError("its compressed body ended early")
