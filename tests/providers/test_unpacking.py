"""Unwrapping compressed bodies: whatever their pieces, the same bytes; damage is told."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.providers.unpacking import PIECE_BYTES_MAX, Unpacker, UnpackingError, unpacker_of
from tests.support.wire_bench import cut


def unpacked(coding: str, packed: list[bytes]) -> bytes:
    """A whole body from its pieces."""
    unpacker = unpacker_of([coding])
    assert unpacker is not None
    plain = b""
    for piece in packed:
        unpacker.add(piece)
        while more := unpacker.take():
            assert len(more) <= PIECE_BYTES_MAX
            plain += more
    unpacker.check_end()
    return plain


def bare(body: bytes) -> bytes:
    """Deflated without the wrapping that belongs to it, as some servers do."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@given(st.binary(max_size=2000), st.lists(st.integers(0, 3000), max_size=8))
def test_any_split_unpacks_alike(body: bytes, places: list[int]) -> None:
    """However a compressed body is cut, it is the same body."""
    forms = {
        "gzip": gzip.compress(body),
        " X-GZIP": gzip.compress(body[:9]) + gzip.compress(body[9:]),
        "deflate": zlib.compress(body),
        "identity, Deflate": bare(body),
    }
    for coding, packed in forms.items():
        assert unpacked(coding, [piece for piece in cut(packed, places) if piece]) == body


def test_a_small_body_that_unfolds_comes_in_limited_pieces() -> None:
    """A reader's limit is met before the memory is full."""
    body = bytes(20_000_000)
    assert unpacked("gzip", [gzip.compress(body)]) == body


@pytest.mark.parametrize("named", [[], [""], ["identity"], ["identity", " , "]])
def test_what_is_not_wrapped(named: list[str]) -> None:
    """Nothing to do for a plain body."""
    assert unpacker_of(named) is None


@pytest.mark.parametrize("named", [["br"], ["zstd"], ["gzip, gzip"], ["gzip", "deflate"], ["?"]])
def test_what_cannot_be_unwrapped(named: list[str]) -> None:
    """A coding that nobody asked for and we do not know is told, without repeating it."""
    with pytest.raises(UnpackingError, match="not asked for"):
        unpacker_of(named)


@pytest.mark.parametrize(
    ("coding", "packed", "told"),
    [
        ("gzip", gzip.compress(b"body")[:-1], "ended early"),
        ("gzip", b"plain text", "damaged"),
        ("gzip", gzip.compress(b"body") + b"more", "damaged"),
        ("deflate", zlib.compress(b"body")[:-2], "ended early"),
        ("deflate", zlib.compress(b"body") + b"more", "goes on"),
    ],
)
def test_damage_is_told(coding: str, packed: bytes, told: str) -> None:
    """A body that is cut or changed is never taken for a whole one."""
    with pytest.raises(UnpackingError, match=told):
        unpacked(coding, [packed])


def test_an_empty_body_is_whole() -> None:
    """No bytes at all are no damage: an answer without a body may name a coding."""
    assert unpacked("gzip", []) == b""
    assert isinstance(unpacker_of(["gzip"]), Unpacker)
